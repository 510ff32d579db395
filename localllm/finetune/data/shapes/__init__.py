"""Formats of rows: told from their columns, and read into what is trained on."""
