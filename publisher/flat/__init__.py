"""Whole trees of images: what Apptainer runs, and what the next image's tree is made from."""
