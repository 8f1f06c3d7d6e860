"""Tests, laid out as the packages are: tests/snapshotter for snapshotter, and so on."""
