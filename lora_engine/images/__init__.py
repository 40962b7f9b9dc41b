"""Turns a dataset's files into square images, and decides which of them are held out."""
