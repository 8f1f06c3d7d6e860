"""The Debian package and the wheel where they are installed: in Debians of their own, with systemd booted in them."""
