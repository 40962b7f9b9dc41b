"""The training loop of a pack, and the parts that an update consists of."""
