"""Definitions of the APIs that are spoken here, each beside the modules generated from it (`make protos`)."""
