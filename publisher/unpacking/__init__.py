"""One layer's blob -> its directory and its record: the tar is read once, verified and contained."""
