"""Wish lists: what is wanted in a repository, and passes that bring it there."""
