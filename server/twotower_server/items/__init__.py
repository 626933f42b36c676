"""Items: ids to rows, the catalog in memory-mapped columns, and filters on its attributes."""
