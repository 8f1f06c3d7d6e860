"""The podman store."""
