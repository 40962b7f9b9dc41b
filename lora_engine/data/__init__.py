"""From files to square images with a split. Torch-free: worker processes import it."""
