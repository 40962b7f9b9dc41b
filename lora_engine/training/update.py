"""Updates a pack: from the inputs to new weights, all on the device and nothing waiting for it.

Shape legend: K members that take part.
"""

import torch
from torch import Tensor

from lora_engine.dataset.encoded import TrainingData
from lora_engine.diffusion import NoiseSchedule
from lora_engine.system.distributed import Processes
from lora_engine.training.gradients import Batch, PackGradients, make_batch
from lora_engine.training.inputs import Inputs
from lora_engine.training.loss_scale import LossScale


class PackUpdate:
    """Updates the adapters whose gradients `gradients` computes.

    Args:
        max_grad_norm: each adapter's gradient is clipped to; None does not clip.
        scale: the one that `gradients` multiplies losses by.
        processes: those that train together, each with its own part of an update's images.
    """

    def __init__(
        self,
        gradients: PackGradients,
        data: TrainingData,
        noise_schedule: NoiseSchedule,
        max_grad_norm: float | None,
        scale: LossScale,
        processes: Processes,
    ) -> None:
        self.gradients = gradients
        self._data = data
        self._noise_schedule = noise_schedule.to(data.device, data.moments.dtype)
        self._max_grad_norm = max_grad_norm
        self._scale = scale
        self._processes = processes

    def __call__(self, inputs: Inputs, learning_rate: float | Tensor) -> Tensor:
        """Update once, unless a member's loss or gradient is not finite: then no member is updated.

        Args:
            learning_rate: a number, or a scalar on the device where this is part of a CUDA graph.

        Returns:
            For each member its loss, its gradient's norm before clipping, whether both are finite, and whether they
            are not by its own fault, which is not the loss scale's. [4, K], on the device.
        """
        weights = self.gradients.weights
        weights.zero_grad()
        losses_K = self.gradients.accumulate(self.batch(inputs))
        self._processes.sum_(weights.gradients_KP)
        self._processes.sum_(losses_K)
        self._scale.unscale([weights.gradients_KP])
        norms_K = weights.clip(self._max_grad_norm)
        finite_K = norms_K.isfinite() & losses_K.isfinite()
        at_fault_K = ~losses_K.isfinite() | (~finite_K & self._scale.is_least)
        weights.update(learning_rate, refuse=~finite_K.all())
        self._scale.update(done=finite_K.all(), overflowed=(~finite_K & losses_K.isfinite()).any())
        return torch.stack((losses_K, norms_K, finite_K.to(norms_K), at_fault_K.to(norms_K)))

    def batch(self, inputs: Inputs) -> Batch:
        """Make the batch that an update of these inputs computes with."""
        return make_batch(inputs, self._data, self._noise_schedule)

    def tensors(self) -> list[Tensor]:
        """All tensors that an update changes, live."""
        return [*self.gradients.weights.tensors(), *self._scale.state().values()]
