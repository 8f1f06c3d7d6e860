"""The node: containerd's snapshots API over gRPC, its metadata, the overlay mounts, and the commands of a node."""
