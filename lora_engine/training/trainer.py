"""The training loop: a pack of adapters, one frozen UNet, one pass over all of them.

Shape legend: K members of the pack, S distinct seeds among them, A images a step and member (of several processes
that train together: this one's), B of them in one pass, C latent channels, H and W latent size, L tokens of a text and
D features of a token.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from lora_engine import diffusion
from lora_engine.adapters import lora
from lora_engine.config.training import TrainingConfig
from lora_engine.dataset.draws import Draws, PackMember
from lora_engine.dataset.encoded import TrainingData
from lora_engine.records import StepRecord
from lora_engine.system.distributed import ALONE, Processes
from lora_engine.system.prefetch import prefetch
from lora_engine.training.loss_scale import LossScale
from lora_engine.training.lr_schedule import learning_rate
from lora_engine.training.micro_batches import MicroBatches
from lora_engine.training.update import Inputs, PackUpdate
from lora_engine.training.weights import Moments, PackWeights

_FLUSH_STEPS = 10  # numbers stay on the device for so many steps ...
_FLUSH_SECONDS = 1.0  # ... or so long, since reading one waits for the device
_READ_AHEAD = 3  # updates whose input is read before it is needed
_VERDICT_STEPS = 10  # whether an adapter has diverged is asked at multiples, so that an interruption changes nothing

_NEVER = -1


@dataclass(frozen=True)
class _Read:
    """An update's input on the CPU, of all members."""

    step: int
    hashes: tuple[tuple[str, str, str], ...]  # order, timesteps, noise of each distinct seed
    inputs: Inputs


@dataclass(frozen=True)
class _Measured:
    """One update's numbers, still on the device."""

    step: int
    members: tuple[int, ...]  # the K places in the pack of those that take part
    numbers_4K: Tensor  # as `PackUpdate` returns them
    hashes: tuple[tuple[str, str, str], ...]  # as `_Read` has them


class PackTrainer:
    """Trains the adapters that `adapters.inject` put into `unet`, all in lockstep.

    The gradient of an adapter depends on its own rows alone, and the loss is the sum of the members' means, so every
    member trains exactly as it would by itself.

    Of several processes that train together, each has a trainer made with equal arguments and does with it what all do.
    """

    def __init__(
        self,
        unet: nn.Module,
        members: Sequence[PackMember],
        data: TrainingData,
        noise_schedule: diffusion.NoiseSchedule,
        config: TrainingConfig,
        *,
        half_precision: bool = False,
        processes: Processes = ALONE,
    ) -> None:
        self.step = 0  # updates done
        self._processes = processes
        self._local = processes.local_slice(config.images_per_step)
        self._unet = unet
        self._members = tuple(members)
        self._skipped = {member.name: 0 for member in members}  # updates refused by its own fault
        self.frozen_at: dict[str, int] = {}  # name to step, of members that diverged and train no more
        self._data = data
        self._config = config
        self._device = data.device
        self._draws = Draws(
            seeds=tuple(dict.fromkeys(member.seed for member in members)),
            image_ids=data.image_ids,
            latent_shape=data.latent_shape,
            images_per_step=config.images_per_step,
            num_train_timesteps=noise_schedule.num_train_timesteps,
            flips=data.flips,
        )
        self._scale = LossScale(self._device, enabled=half_precision)
        micro_batches = MicroBatches(config.batch_size, len(members))
        self._update = PackUpdate(unet, data, noise_schedule, config, self._scale, processes, micro_batches)
        self._gather_active({})

    @property
    def active(self) -> tuple[PackMember, ...]:
        """The members that have not diverged."""
        return tuple(member for member in self._members if member.name not in self.frozen_at)

    def freeze(self, name: str) -> None:
        """Let a member that has diverged keep its weights from here on; the others go on."""
        moments = {member.name: self._moments(member.name) for member in self._members}
        self.frozen_at[name] = self.step
        self._gather_active(moments)

    def _gather_active(self, moments: Mapping[str, Moments]) -> None:
        """Gather the members that are active; the others keep the moments that they have."""
        members = self.active
        self._resting = {name: moments[name] for name in self.frozen_at}
        self._places = [at for at, member in enumerate(self._members) if member.name not in self.frozen_at]
        if not members:
            return
        self._pack = PackWeights(self._unet, [m.name for m in members], self._config.optimizer)
        for member in members:
            if member.name in moments:
                self._pack.load_moments(member.name, moments[member.name])
        seed_of_member = torch.tensor([self._draws.seeds.index(m.seed) for m in members], device=self._device)
        self._update.set_members(self._pack, seed_of_member)

    def _moments(self, name: str) -> Moments:
        return self._resting[name] if name in self._resting else self._pack.moments(name)

    def run(self, last_step: int, stop: Callable[[], bool]) -> Iterator[tuple[StepRecord, ...]]:
        """Update up to and including `last_step`, or until `stop` says so, yielding a record a member for every step.

        A member that had more updates refused by its own fault than the configuration allows is frozen; ends when all
        of them are. Of several processes, all stop when one is told to.
        """
        pending: list[_Measured] = []
        since = time.monotonic()
        if self.active:
            self._pack.select()
        with closing(prefetch(self._read, range(self.step + 1, last_step + 1), _READ_AHEAD)) as reads:
            while self.step < last_step and self.active and not self._processes.any(stop()):
                read = next(reads)
                numbers_4K = self._update(self._inputs(read), learning_rate(self._config, read.step))
                pending.append(_Measured(read.step, tuple(self._places), numbers_4K, read.hashes))
                self.step += 1
                verdict = self.step % _VERDICT_STEPS == 0 or self.step == self._config.steps
                if verdict or len(pending) >= _FLUSH_STEPS or time.monotonic() - since >= _FLUSH_SECONDS:
                    yield from self._flush(pending, since)
                    pending, since = [], time.monotonic()
                if verdict:
                    self._freeze_the_diverged()
        yield from self._flush(pending, since)

    def image_bytes(self) -> int:
        """What one image of one member keeps for the backward pass. Computes one forward pass."""
        return self._update.image_bytes(self._inputs(self._read(self.step + 1)))

    def use(self, micro_batches: MicroBatches) -> None:
        """Cut updates up in this way, after trying the gradients of one of them on a GPU.

        Raises:
            torch.cuda.OutOfMemoryError: they do not fit.
        """
        self._update.micro_batches = micro_batches
        if micro_batches.recompute:
            cast(Any, self._unet).enable_gradient_checkpointing()
        if self._device.type == "cuda":
            self._update.try_gradients(self._inputs(self._read(self.step + 1)))

    @property
    def micro_batches(self) -> MicroBatches:
        """How updates are cut up."""
        return self._update.micro_batches

    def remarks(self) -> list[str]:
        """What is new to say on how it trains, to whoever asked for something else."""
        said, self._update.remarks = self._update.remarks, []
        return said

    def _freeze_the_diverged(self) -> None:
        diverged = [m.name for m in self.active if self._skipped[m.name] > self._config.max_skipped_steps]
        for name in diverged:
            self.freeze(name)
        if diverged and self.active:
            self._pack.select()

    def _read(self, step: int) -> _Read:
        """All of an update's input, on the CPU. May be called in another thread than all else."""
        draw, local, data = self._draws.of(step), self._local, self._data
        rows_KA = self._draws.caption_rows(draw, self._members)[:, local]
        inputs = Inputs(
            data.moments.read((draw.indices + draw.flips * len(data.image_ids))[:, local]),
            data.embeddings.read(rows_KA),
            *(self._pinned(array[:, local]) for array in (draw.timesteps, draw.noise, draw.posterior)),
        )
        return _Read(step, self._draws.hashes(draw), inputs)

    def _inputs(self, read: _Read) -> Inputs:
        """Those of the members that take part, on the device."""
        placed = Inputs(*(tensor.to(self._device, non_blocking=True) for tensor in read.inputs))
        if len(self._places) == len(self._members):
            return placed
        return placed._replace(embeddings=placed.embeddings[self._places])

    def _pinned(self, array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self._device.type == "cuda" else tensor

    def _flush(self, pending: list[_Measured], since: float) -> Iterator[tuple[StepRecord, ...]]:
        if not pending:
            return
        values = torch.cat([measured.numbers_4K for measured in pending], dim=1).double().cpu().numpy()
        images = self._config.images_per_step * values.shape[1]
        rate = images / max(time.monotonic() - since, 1e-9)
        start = 0
        for measured in pending:
            losses, norms, finite, at_fault = values[:, start : start + len(measured.members)]
            start += len(measured.members)
            for at, k in enumerate(measured.members):
                self._skipped[self._members[k].name] += int(at_fault[at])
            numbers = {k: (losses[at], norms[at]) for at, k in enumerate(measured.members)}
            yield self._records(measured, numbers, rate, skipped=not finite.all())

    def _records(
        self, measured: _Measured, numbers: dict[int, tuple[float, float]], rate: float, *, skipped: bool
    ) -> tuple[StepRecord, ...]:
        """A record a member; of a frozen one it says that nothing was updated."""
        result = []
        for k, member in enumerate(self._members):
            loss, norm = numbers.get(k, (math.nan, math.nan))
            order, timesteps, noise = measured.hashes[self._draws.seeds.index(member.seed)]
            result.append(
                StepRecord(
                    step=measured.step,
                    loss=_finite(loss),
                    learning_rate=learning_rate(self._config, measured.step),
                    grad_norm=_finite(norm),
                    images_per_second=rate,
                    skipped=skipped or k not in numbers,
                    order_sha256=order,
                    timesteps_sha256=timesteps,
                    noise_sha256=noise,
                )
            )
        return tuple(result)

    def state(self, name: str) -> dict[str, Tensor]:
        """All that continuing one member needs, on the CPU: weights, optimizer moments, counters."""
        saved = {"step": torch.tensor(self.step), "skipped": torch.tensor(self._skipped[name])}
        saved["frozen_at"] = torch.tensor(self.frozen_at.get(name, _NEVER))
        saved |= {f"loss_scale.{key}": value for key, value in self._scale.state().items()}
        saved |= {f"adapter.{key}": weight.detach() for key, weight in lora.parameters(self._unet, name).items()}
        saved |= {f"optimizer.{key}": value for key, value in self._moments(name).items()}
        return {key: value.to("cpu", copy=True).contiguous() for key, value in saved.items()}

    def restore(self, states: dict[str, dict[str, Tensor]]) -> None:
        """Continue from what `state` gave for every member, all at the same step.

        Raises:
            ValueError: a state lacks something, or is that of another pack.
        """
        try:
            self._restore(states)
        except (KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"a state does not fit this pack: {error}") from error

    def _restore(self, states: dict[str, dict[str, Tensor]]) -> None:
        steps, names = {int(state["step"]) for state in states.values()}, {member.name for member in self._members}
        if states.keys() != names or len(steps) != 1:
            raise ValueError(f"a pack of {sorted(names)} cannot continue from {sorted(states)} at {steps}")
        for name, state in states.items():
            lora.load(self._unet, name, _part(state, "adapter."))
            self._scale.load(_part(state, "loss_scale."))
            self._skipped[name] = int(state["skipped"])
            if int(state.get("frozen_at", _NEVER)) != _NEVER:
                self.frozen_at[name] = int(state["frozen_at"])
        self.step = steps.pop()
        self._gather_active({name: _part(state, "optimizer.") for name, state in states.items()})


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
