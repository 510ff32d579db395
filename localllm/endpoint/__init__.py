"""endpoint: servers elsewhere that answer under a name of their own here."""
