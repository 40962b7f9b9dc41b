"""The data that training and scoring read: latents, text embeddings, and the random numbers that choose among them."""
