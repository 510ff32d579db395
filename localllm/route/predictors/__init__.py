"""Ways of telling from a prompt how much better the strong model's answer will be."""
