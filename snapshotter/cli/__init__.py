"""The node commands."""
