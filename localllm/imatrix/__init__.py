"""Importance matrices on the command line: make, merge and look at them."""
