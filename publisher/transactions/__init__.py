"""How a publication becomes visible, whole or not at all, in each kind of repository."""
