"""Optimizers of one adapter's weights, a file each; `make` chooses."""
