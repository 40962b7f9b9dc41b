"""Captions: the text of an image by each strategy, how it is cleaned, and what is odd about a set of them."""
