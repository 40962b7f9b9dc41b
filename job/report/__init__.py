"""The report of a run: the comparison, its schema, and the pictures that show it."""
