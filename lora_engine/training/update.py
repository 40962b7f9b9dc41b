"""Updates a pack: from the inputs to new weights, all on the device and nothing waiting for it.

Shape legend: K members that take part.
"""

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from lora_engine.dataset.encoded import TrainingData
from lora_engine.diffusion import NoiseSchedule
from lora_engine.system.distributed import Processes
from lora_engine.training.gradients import Batch, PackGradients, make_batch
from lora_engine.training.inputs import Inputs

T = TypeVar("T")


class UpdateNumbers(NamedTuple, Generic[T]):
    """What an update says of a member, or of each."""

    loss: T  # that was trained on
    grad_norm: T  # before clipping
    finite: T  # whether both are
    at_fault: T  # whether they are not for another reason than the loss scale
    squared_error: T  # the mean, unweighted
    d: T  # the learning rate that Prodigy found; NaN for other optimizers


class PackUpdate:
    """Updates the adapters whose gradients `gradients` computes.

    Args:
        processes: those that train together, each with its own part of an update's images.
    """

    def __init__(
        self,
        gradients: PackGradients,
        data: TrainingData,
        noise_schedule: NoiseSchedule,
        processes: Processes,
    ) -> None:
        self.gradients = gradients
        self._data = data
        self.noise_schedule = noise_schedule.to(data.device, data.moments.dtype)
        self._processes = processes

    def __call__(self, inputs: Inputs, rates: Sequence[float] | Tensor) -> Tensor:
        """Update once every member whose loss and gradient are finite; the others stay as they are.

        Args:
            rates: each member's learning rate, or [K] on the device where this is part of a CUDA graph.

        Returns:
            The values of `UpdateNumbers` for each member. [6, K], on the device.
        """
        weights, scale = self.gradients.weights, self.gradients.scale
        weights.zero_grad()
        sums_2K = self.gradients.accumulate(self.batch(inputs))
        self._processes.sum_(weights.gradients_KP)
        self._processes.sum_(sums_2K)
        losses_K, squared_K = sums_2K
        scale.unscale(weights.gradients_KP)
        norms_K = weights.clip()
        finite_K = norms_K.isfinite() & losses_K.isfinite()
        at_fault_K = ~losses_K.isfinite() | (~finite_K & scale.is_least)
        weights.update(rates, refuse_K=~finite_K)
        scale.update(done_K=finite_K, overflowed_K=~finite_K & losses_K.isfinite())
        numbers = UpdateNumbers(losses_K, norms_K, finite_K, at_fault_K, squared_K, weights.measured("d"))
        return torch.stack([values_K.to(norms_K) for values_K in numbers])

    def batch(self, inputs: Inputs) -> Batch:
        """Make the batch that an update of these inputs computes with."""
        return make_batch(inputs, self._data, self.noise_schedule)

    def tensors(self) -> list[Tensor]:
        """All tensors that an update changes, live."""
        return [*self.gradients.weights.tensors(), *self.gradients.scale.tensors()]
