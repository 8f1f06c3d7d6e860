"""The daemon in Kubernetes: its manifests, its image, and the labels of its node."""
