"""The registry client, against stand-ins on the loopback."""
