"""The writing side: OCI images become the tree of a repository."""
