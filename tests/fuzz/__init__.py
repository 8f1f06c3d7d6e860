"""Random verbs against a model, and random input against everything that parses."""
