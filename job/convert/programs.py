"""The trainers whose configurations are read, and what each does where a setting is not written."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Program:
    """A trainer.

    Attributes:
        title: what a sentence calls it.
        defaults: by the name of a setting.
        is_kohya: whether it is sd-scripts, by a command line or by their GUI, and not one of diffusers' scripts.
    """

    title: str
    defaults: Mapping[str, Any]
    is_kohya: bool = False


_OF_SD_SCRIPTS: dict[str, Any] = {
    "network_dim": 4,
    "network_alpha": 1,
    "learning_rate": 2e-6,
    "max_train_steps": 1600,
    "train_batch_size": 1,
    "mixed_precision": "no",
    "caption_extension": ".caption",
    "sample_sampler": "ddim",
}
_OF_ALL: dict[str, Any] = {
    "gradient_accumulation_steps": 1,
    "num_processes": 1,
    "max_grad_norm": 1.0,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "resolution": 512,
    "dataset_repeats": 1,
    "sample_steps": 30,
}
_OF_DIFFUSERS = _OF_ALL | {
    "rank": 4,
    "lr_warmup_steps": 500,
    "checkpointing_steps": 500,
    "num_validation_images": 4,
}

SD_SCRIPTS = Program("kohya's sd-scripts", _OF_ALL | _OF_SD_SCRIPTS, is_kohya=True)
TEXT_TO_IMAGE = Program(
    "diffusers' train_text_to_image_lora.py",
    _OF_DIFFUSERS | {"learning_rate": 1e-4, "num_train_epochs": 100, "train_batch_size": 16},
)
DREAMBOOTH = Program(
    "diffusers' train_dreambooth_lora.py",
    _OF_DIFFUSERS | {"learning_rate": 5e-4, "num_train_epochs": 1, "train_batch_size": 4, "sample_steps": 25},
)

SCRIPTS = {
    "train_network.py": SD_SCRIPTS,
    "sdxl_train_network.py": SD_SCRIPTS,
    "train_text_to_image_lora.py": TEXT_TO_IMAGE,
    "train_dreambooth_lora.py": DREAMBOOTH,
}
