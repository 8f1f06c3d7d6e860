"""`make demo`: a real containerd runs a real Debian image out of a CVMFS-shaped repository, nothing downloaded."""
