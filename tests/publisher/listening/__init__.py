"""Tests of `publisher/listening/`."""
