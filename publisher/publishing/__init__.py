"""How images get into a repository: what is wanted, what is missing, what is staged, what is shown."""
