"""Real container engines, unpacked from Debian packages and run privately beside whatever the host has."""
