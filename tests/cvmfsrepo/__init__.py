"""Tests of the reading of a repository."""
