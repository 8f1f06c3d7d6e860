"""The read-only image store of podman and CRI-O, computed as a pure function of a repository."""
