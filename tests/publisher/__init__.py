"""Tests of the publisher; all that writes layers needs root."""
