"""What training reads: latents and text embeddings, and which of them each update draws."""
