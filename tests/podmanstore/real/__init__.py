"""The store under real podmans of three generations."""
