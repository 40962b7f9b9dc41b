"""The frozen models: which files are fit, and how they are loaded."""
