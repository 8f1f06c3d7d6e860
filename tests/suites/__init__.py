"""Behaviour as suites, run over several implementations."""
