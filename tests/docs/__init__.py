"""The pages: their links, their blocks, and that each command in them is run by a test."""
