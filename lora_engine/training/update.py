"""One update of a pack: from what was read for it to new weights, all on the device and nothing waiting for it.

Shape legend: K members that take part, S distinct seeds, A images of an update and member (of several processes that
train together: this one's), B of them in one pass, C latent channels, H and W latent size, L tokens of a text and D
features of a token.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lora_engine import diffusion
from lora_engine.config.training import TrainingConfig
from lora_engine.dataset.encoded import TrainingData
from lora_engine.system.distributed import Processes
from lora_engine.system.memory import kept_bytes
from lora_engine.training.compiled import CompiledUnet, too_few_updates
from lora_engine.training.cuda_graph import CapturedUpdate
from lora_engine.training.loss_scale import LossScale
from lora_engine.training.micro_batches import MicroBatches
from lora_engine.training.weights import PackWeights

_GRADIENT_ERROR = 0.1  # relative, of one layer's; half precision alone stays well below


class Inputs(NamedTuple):
    """What decides an update, as tensors; of several processes, this one's share of it."""

    moments: Tensor  # as `TensorTable.place` takes them, [S, A, ...]
    embeddings: Tensor  # the same, [K, A, ...]
    timesteps: Tensor  # [S, A]
    noise: Tensor  # [S, A, C, H, W]
    posterior: Tensor  # [S, A, C, H, W]


@dataclass(frozen=True)
class _Batch:
    """What one update computes with; per seed, or per member."""

    noisy: Tensor  # [S, A, C, H, W]
    target: Tensor  # [S, A, C, H, W]
    timesteps: Tensor  # [S, A]
    text: Tensor  # [K, A, L, D]


class PackUpdate:
    """Updates the adapters that take part, pass by pass."""

    def __init__(
        self,
        unet: nn.Module,
        data: TrainingData,
        noise_schedule: diffusion.NoiseSchedule,
        config: TrainingConfig,
        scale: LossScale,
        processes: Processes,
        micro_batches: MicroBatches,
    ) -> None:
        self.micro_batches = micro_batches
        self.remarks: list[str] = []  # on how it computes, for whoever asked for something else
        self._unet = unet
        self._compiled: Callable[[], AbstractContextManager[None]] = nullcontext  # compiled, within
        self._data = data
        self._noise_schedule = noise_schedule.to(data.device, data.moments.dtype)
        self._config = config
        self._scale = scale
        self._processes = processes
        self._to_compile = config.compile != "off"

    def set_members(self, pack: PackWeights, seed_of_member: Tensor) -> None:
        """Update these from now on.

        Args:
            seed_of_member: the place of each one's seed among the distinct ones, int64 [K] on the device.
        """
        self._pack, self._seed_of_member = pack, seed_of_member
        self._captured: CapturedUpdate | None = None
        self._to_capture = self._config.cuda_graph == "auto"

    @property
    def _members(self) -> int:
        return len(self._seed_of_member)

    def __call__(self, inputs: Inputs, rate: float) -> Tensor:
        """Update at that learning rate.

        Returns:
            Of each member its loss, its gradient's norm, whether both are finite, and whether they are not by its own
            fault: not because of the loss scale. [4, K], on the device.
        """
        if self._to_compile:
            self._compile(inputs)
        if self._to_capture:
            self._capture(inputs, rate)
        if self._captured is not None:
            return self._captured((*inputs, torch.tensor(rate)))
        return self._compute(inputs, rate)

    def image_bytes(self, inputs: Inputs) -> int:
        """What one image of one member keeps for the backward pass. Computes one forward pass."""
        self._pack.select(0, 1)
        batch = self._batch(inputs)
        return kept_bytes(lambda: self._losses(batch, slice(0, 1), slice(0, 1)), self._unet.parameters())

    def try_gradients(self, inputs: Inputs) -> None:
        """Compute an update's gradients, and forget them."""
        self._pack.select()
        self._gradients(self._batch(inputs))

    def _compile(self, inputs: Inputs) -> None:
        """Compile the UNet, if that pays and works for these inputs."""
        self._to_compile, mode = False, self._config.compile
        assert mode != "off", "it is asked for"
        reason = too_few_updates(mode, self._config.steps)
        if reason is None:
            batch = self._batch(inputs)
            try:
                eager_KP = self._fresh_gradients(batch)
                self._compiled = CompiledUnet(self._unet, mode).applied
                error = self._pack.relative_error(self._fresh_gradients(batch), eager_KP)
                if not error <= _GRADIENT_ERROR:  # true of NaN
                    reason = f"compiled, the UNet gives other gradients (a layer's differ by {error:.0%})"
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as failure:  # no compiler here, or one that cannot: neither keeps us from training
                reason = f"the UNet cannot be compiled here: {_line(failure)}"
        if reason is not None:
            self._compiled = nullcontext
            self.remarks.append(f"Training without compiling: {reason}.")

    def _fresh_gradients(self, batch: _Batch) -> Tensor:
        """A copy of an update's gradients. [K, P]."""
        self._pack.zero_grad()
        self._gradients(batch)
        return self._pack.gradients_KP.clone()

    def _capture(self, inputs: Inputs, rate: float) -> None:
        """Make updates one graph, if that works. On a CPU there is nothing to gain, and nothing to say."""
        self._to_capture = False
        if self._data.device.type != "cuda":
            return
        reason = "several processes train together"
        if self._processes.count == 1:
            state = [*self._pack.tensors(), *self._scale.state().values()]
            first = (*inputs, torch.tensor(rate, device=self._data.device))
            try:
                self._captured = CapturedUpdate(lambda t: self._compute(Inputs(*t[:-1]), t[-1]), first, state)
            except RuntimeError as error:  # also of memory: an update without a graph needs less
                reason = _line(error)
            else:
                return
            torch.cuda.empty_cache()  # only now is what it had captured gone
        self.remarks.append(f"Training without a CUDA graph: {reason}.")

    def _compute(self, inputs: Inputs, rate: float | Tensor) -> Tensor:
        """One update, of which nothing waits for the device. See `__call__`."""
        self._pack.zero_grad()
        losses_K = self._gradients(self._batch(inputs))
        self._processes.sum_(self._pack.gradients_KP)
        self._processes.sum_(losses_K)
        self._scale.unscale([self._pack.gradients_KP])
        norms_K = self._pack.clip(self._config.max_grad_norm)
        finite_K = norms_K.isfinite() & losses_K.isfinite()
        at_fault_K = ~losses_K.isfinite() | (~finite_K & self._scale.is_least)
        self._pack.update(rate, refuse=~finite_K.all())
        self._scale.update(done=finite_K.all(), overflowed=(~finite_K & losses_K.isfinite()).any())
        return torch.stack((losses_K, norms_K, finite_K.to(norms_K), at_fault_K.to(norms_K)))

    def _batch(self, inputs: Inputs) -> _Batch:
        mean, std = self._data.moments.place(inputs.moments).unbind(2)
        latents = mean + std * inputs.posterior.to(mean.dtype)
        noise, timesteps = inputs.noise.to(mean.dtype), inputs.timesteps
        flat = (latents.flatten(0, 1), noise.flatten(0, 1), timesteps.flatten())
        noisy, target = (
            of(self._noise_schedule, *flat).view_as(mean) for of in (diffusion.add_noise, diffusion.target)
        )
        return _Batch(noisy, target, timesteps, self._data.embeddings.place(inputs.embeddings))

    def _gradients(self, batch: _Batch) -> Tensor:
        """Add an update's gradients, pass by pass; returns what they add to each member's loss. [K]."""
        losses_K = torch.zeros(self._members, device=self._data.device, dtype=batch.target.dtype)
        for members, images in self.micro_batches.slices(self._members, batch.timesteps.shape[1]):
            if self.micro_batches.members < self._members:
                self._pack.select(members.start, members.stop)
            with self._compiled():
                losses_KB = self._losses(batch, members, images) / self._config.images_per_step
                torch.autograd.backward(self._scale.scaled(losses_KB.sum()))
            self._pack.accumulate_gradients()
            losses_K[members] += losses_KB.detach().sum(dim=1)
        return losses_K

    def _losses(self, batch: _Batch, members: slice, images: slice) -> Tensor:
        """Of some members for some images. [K, B]."""
        seeds, text_KBLD = self._seed_of_member[members], batch.text[members, images]

        def per_member(per_seed: Tensor) -> Tensor:
            return per_seed[:, images][seeds].flatten(0, 1)

        noisy, timesteps = per_member(batch.noisy).to(text_KBLD.dtype), per_member(batch.timesteps)
        prediction = self._unet(noisy, timesteps, text_KBLD.flatten(0, 1)).sample
        return diffusion.loss_per_image(prediction, per_member(batch.target)).view(text_KBLD.shape[:2])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
