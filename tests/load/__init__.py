"""Many clients at one time, and a collector against them."""
