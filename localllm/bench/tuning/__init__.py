"""`--auto`: the search for the fastest settings."""
