"""Tables, charts, pages and history of runs."""
