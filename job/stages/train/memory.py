"""What a pack's training takes of memory, and whether `lora-job plan` knew."""

import torch
from torch import nn

from job.manifest.packs import Pack
from job.run.context import Attempt
from lora_engine.system.memory import peak_bytes
from lora_engine.training import estimate
from lora_engine.training.micro_batches import MicroBatches

_MIB = 2**20


class PackMemory:
    """Says what was measured. The plan knows one size of UNet, so other sizes are compared with nothing."""

    def __init__(self, attempt: Attempt, pack: Pack, device: torch.device) -> None:
        """Before the pack's base model is loaded."""
        self._attempt, self._pack, self._device = attempt, pack, device
        self._before = peak_bytes(device)
        self._is_said = False

    def image(self, unet: nn.Module, image_bytes: int) -> None:
        """Say what an image keeps, counted before the first update."""
        value_bytes = _planned_for(unet)
        planned = value_bytes and estimate.kept_bytes(self._attempt.manifest.preprocess.resolution, value_bytes)
        self._say("an image", image_bytes, planned)

    def peak(self, unet: nn.Module, micro_batches: MicroBatches) -> None:
        """Say once, after the first updates, what all of it took; nothing if stages before took more."""
        peak = peak_bytes(self._device)
        if self._is_said or peak <= self._before:
            return
        self._is_said = True
        planned = None
        if value_bytes := _planned_for(unet):
            ranks = len(self._pack.members) * self._pack.lora.rank
            resolution = self._attempt.manifest.preprocess.resolution
            planned = estimate.training_bytes(resolution, value_bytes, micro_batches.alive, ranks)
            planned += estimate.LIBRARIES_BYTES if self._device.type == "cpu" else 0
        self._say("training", peak, planned)

    def _say(self, what: str, measured: int, planned: int | None) -> None:
        numbers = {"measured_mib": round(measured / _MIB, 1)}
        if planned:
            numbers["planned_mib"] = round(planned / _MIB, 1)
            if abs(measured / planned - 1) > estimate.TOLERANCE:
                self._attempt.progress.warn(
                    f"{self._pack.unit}: {what} takes {numbers['measured_mib']} MiB; lora-job plan says "
                    f"{numbers['planned_mib']}"
                )
        self._attempt.progress.say(f"memory of {what}", pack=self._pack.index, **numbers)


def _planned_for(unet: nn.Module) -> int | None:
    """Bytes of one of its values; None if it is not the UNet that is planned for."""
    weights = [weight for name, weight in unet.named_parameters() if "lora_" not in name]
    if sum(weight.numel() for weight in weights) != estimate.UNET_PARAMETERS:
        return None
    return weights[0].element_size()
