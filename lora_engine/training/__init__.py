"""The training loop of a pack, and what an update consists of."""
