"""The rules by which a store is checked, one kind of file of a store to each module; `podmanstore/check.py` runs them.

Nothing here knows how this project writes a store: what is checked is what containers/storage reads, as it reads it.
"""
