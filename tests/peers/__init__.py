"""Go programs around containerd's own code: its test suite, its overlayfs snapshotter as a server, a load generator."""
