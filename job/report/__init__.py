"""The comparison of a run: its schema, how it is built, and its picture."""
