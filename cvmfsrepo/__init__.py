"""What is in an unpacked repository and how to read it; the vocabulary and the errors of the whole project."""
