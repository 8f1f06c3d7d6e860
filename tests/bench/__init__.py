"""Measures our daemon side by side with containerd's overlayfs snapshotter. `python -m tests.bench --help`."""
