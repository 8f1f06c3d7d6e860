"""What the daemon may do, what others may do to it, and a repository that means harm."""
