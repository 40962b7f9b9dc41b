"""Train and compare Stable Diffusion LoRA adapters. A library: no cloud, no environment, no argv."""
