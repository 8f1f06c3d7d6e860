"""The health of a node's repositories as labels of its Node in Kubernetes: a process of its own, beside the daemon."""
