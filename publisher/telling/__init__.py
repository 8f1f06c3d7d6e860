"""What a publication tells others while it runs: notifications in DUCC's words."""
