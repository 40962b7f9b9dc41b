"""Image files become squares, and some of them are held out."""
