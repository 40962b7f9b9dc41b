"""Measures how good an adapter is: denoising losses, samples, and what their differences mean."""
