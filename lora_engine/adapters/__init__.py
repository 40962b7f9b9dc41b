"""LoRA layers and the files that hold them."""
