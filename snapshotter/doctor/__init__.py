"""What is wrong with a node: facts are gathered in one file, and each check is a function of them."""
