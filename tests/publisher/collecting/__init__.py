"""Tests of `publisher/collecting/`."""
