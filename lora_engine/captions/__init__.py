"""Where the text of an image comes from, how it is cleaned, and what is odd about it."""
