"""What the repositories hold, known on the node without asking them."""
