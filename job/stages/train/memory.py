"""Measures the memory that a pack's training takes, and warns where `lora-job plan` estimates it otherwise."""

import torch
from torch import nn

from job.manifest.packs import Pack
from job.run.context import Attempt
from lora_engine.adapters.layer_names import is_of_text_encoder
from lora_engine.system.memory import peak_bytes
from lora_engine.training import estimate
from lora_engine.training.micro_batches import MicroBatches

_MIB = 2**20


class PackMemory:
    """Logs the memory that was measured. The plan knows one size of UNet; for another size nothing is compared.

    It has to be made before the pack's base model is loaded, so that it knows the peak of earlier stages.
    """

    def __init__(self, attempt: Attempt, pack: Pack, device: torch.device) -> None:
        self._attempt, self._pack, self._device = attempt, pack, device
        self._peak_before = peak_bytes(device)
        self._is_logged = False

    def image(self, unet: nn.Module, image_bytes: int) -> None:
        """Log the bytes that a forward pass keeps of one image for the backward pass, as counted beforehand."""
        value_bytes = _planned_value_bytes(unet)
        resolution, loras = self._attempt.manifest.preprocess.resolution, [each.lora for each in self._pack.variants]
        planned = value_bytes and estimate.kept_bytes(resolution, value_bytes, loras)
        self._log("an image", image_bytes, planned)

    def peak(self, unet: nn.Module, micro_batches: MicroBatches) -> None:
        """Log the peak of memory once, after the first updates; never, if earlier stages took more."""
        peak = peak_bytes(self._device)
        if self._is_logged or peak <= self._peak_before:
            return
        self._is_logged = True
        planned = None
        if value_bytes := _planned_value_bytes(unet):
            members = [(each.lora, each.training) for each in self._pack.variants]
            resolution = self._attempt.manifest.preprocess.resolution
            planned = estimate.training_bytes(resolution, value_bytes, micro_batches.alive, members)
            planned += estimate.LIBRARIES_BYTES if self._device.type == "cpu" else 0
        self._log("training", peak, planned)

    def _log(self, what: str, measured: int, planned: int | None) -> None:
        numbers = {"measured_mib": round(measured / _MIB, 1)}
        if planned:
            numbers["planned_mib"] = round(planned / _MIB, 1)
            if abs(measured / planned - 1) > estimate.TOLERANCE:
                self._attempt.progress.warn(
                    f"{self._pack.unit}: {what} takes {numbers['measured_mib']} MiB; lora-job plan says "
                    f"{numbers['planned_mib']}"
                )
        self._attempt.progress.note(f"memory of {what}", pack=self._pack.index, **numbers)


def _planned_value_bytes(unet: nn.Module) -> int | None:
    """The bytes of one weight of the UNet; None if it has another size than the UNet that the plan knows."""
    weights = [
        weight for name, weight in unet.named_parameters() if "lora_" not in name and not is_of_text_encoder(name)
    ]
    if sum(weight.numel() for weight in weights) != estimate.UNET_PARAMETERS:
        return None
    return weights[0].element_size()
