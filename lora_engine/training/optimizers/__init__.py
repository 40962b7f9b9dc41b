"""Optimizers of one adapter's weights, a file each; `make` chooses."""

from lora_engine.training.optimizers.matrix_adamw import RowAdamW as RowAdamW
