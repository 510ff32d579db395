"""What quantizing cost: quality and speed beside the source and its siblings."""
