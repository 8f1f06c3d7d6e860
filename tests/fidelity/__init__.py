"""Proof that what is served is what a pull would have made."""
