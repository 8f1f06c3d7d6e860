"""What a publication tells others."""
