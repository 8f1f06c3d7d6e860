"""What is no longer wanted leaves the repository: names first, their content when nothing has led to it for long."""
