"""Makes a manifest of another trainer's configuration, and says what of that it does not hold."""
