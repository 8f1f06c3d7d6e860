"""Whole trees: what they are, how they are made, and that Apptainer runs them."""
