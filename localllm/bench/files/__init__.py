"""Rows in llama-bench's formats and ours, written and read."""
