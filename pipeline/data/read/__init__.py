"""Reading of sources: files, rows, values, and whether they have changed."""
