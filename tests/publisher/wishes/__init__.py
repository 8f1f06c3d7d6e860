"""Tests of wish lists."""
