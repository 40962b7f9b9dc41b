"""The frozen models: which of their files are fit for use, and how they are loaded."""
