"""What containerd has to be told of us, what it was told, and how the two are compared."""
