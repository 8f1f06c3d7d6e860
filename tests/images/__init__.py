"""Images made for tests: described layers, OCI layouts, nasty cases, whole Debian trees, and their truth."""
