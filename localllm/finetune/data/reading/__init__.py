"""Files as rows: JSON lines, JSON, tables, Parquet, texts and folders of them."""
