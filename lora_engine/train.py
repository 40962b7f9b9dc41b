"""The training loop: a pack of adapters, one frozen UNet, one pass over all of them.

Shape legend: K members of the pack, S distinct seeds among them, B images per micro-batch and member, A micro-batches
(so A*B images a step), C latent channels, H and W latent size, M text embeddings of L tokens and D features,
N training images, P texts of an image.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lora_engine import adapters, diffusion, randomness
from lora_engine.config.training import TrainingConfig
from lora_engine.pack_weights import Moments, PackWeights
from lora_engine.precision import LossScale
from lora_engine.records import StepRecord
from lora_engine.schedule import learning_rate

_FLUSH_STEPS = 10  # numbers stay on the device for so many steps ...
_FLUSH_SECONDS = 1.0  # ... or so long, since reading one waits for the device
_VERDICT_STEPS = 10  # whether an adapter has diverged is asked at multiples, so that an interruption changes nothing

_NEVER = -1

EMPTY_PROMPT_ROW = 0  # of the embeddings


@dataclass(frozen=True)
class PackMember:
    """One adapter of a pack: a name, its seed and what its captions look up."""

    name: str
    seed: int
    caption_rows_NP: randomness.Ints  # rows of the embeddings, int64
    caption_weights: tuple[float, ...]  # of the P texts, summing to 1
    caption_dropout: float


@dataclass(frozen=True)
class TrainingData:
    """What the loop reads, on the training device; nothing else is read until it ends."""

    image_ids: tuple[str, ...]
    latent_mean_NCHW: Tensor  # of the VAE's posterior, scaled for the UNet
    latent_std_NCHW: Tensor
    embeddings_MLD: Tensor  # in the base's dtype; row 0 is the empty prompt


@dataclass(frozen=True)
class _Draw:
    """All that chance decides about one update. Arrays lead with the distinct seeds."""

    indices: randomness.Ints  # [S, A*B]
    epochs: randomness.Ints  # [S, A*B]
    timesteps: randomness.Ints  # [S, A*B]
    noise: randomness.Floats  # [S, A*B, C, H, W]
    posterior: randomness.Floats  # [S, A*B, C, H, W]


@dataclass(frozen=True)
class _Measured:
    """One update's numbers, still on the device."""

    step: int
    members: tuple[int, ...]  # the K places in the pack of those that take part
    losses_K: Tensor
    norms_K: Tensor
    finite_K: Tensor
    hashes: tuple[tuple[str, str, str], ...]  # order, timesteps, noise of each distinct seed


class PackTrainer:
    """Trains the adapters that `adapters.inject` put into `unet`, all in lockstep.

    The gradient of an adapter depends on its own rows alone, and the loss is the sum of the members' means, so every
    member trains exactly as it would by itself.
    """

    def __init__(
        self,
        unet: nn.Module,
        members: Sequence[PackMember],
        data: TrainingData,
        schedule: diffusion.NoiseSchedule,
        config: TrainingConfig,
        *,
        half_precision: bool = False,
    ) -> None:
        self.step = 0  # updates done
        self._unet = unet
        self._members = tuple(members)
        self._skipped = {member.name: 0 for member in members}  # updates refused for a gradient of its own
        self.frozen_at: dict[str, int] = {}  # name to step, of members that diverged and train no more
        self._data = data
        self._config = config
        self._device = data.latent_mean_NCHW.device
        self._schedule = schedule.to(self._device, data.latent_mean_NCHW.dtype)
        self._seeds = tuple(dict.fromkeys(member.seed for member in members))
        self._scale = LossScale(self._device, enabled=half_precision)
        self._take_part({})

    @property
    def active(self) -> tuple[PackMember, ...]:
        """The members that have not diverged."""
        return tuple(member for member in self._members if member.name not in self.frozen_at)

    def freeze(self, name: str) -> None:
        """Let a member that has diverged keep its weights from here on; the others go on."""
        moments = {member.name: self._moments(member.name) for member in self._members}
        self.frozen_at[name] = self.step
        self._take_part(moments)

    def _take_part(self, moments: Mapping[str, Moments]) -> None:
        """Gather the members that are active; the others keep the moments that they have."""
        members = self.active
        self._resting = {name: moments[name] for name in self.frozen_at}
        self._seed_of_member = torch.tensor([self._seeds.index(m.seed) for m in members], device=self._device)
        if members:
            self._pack = PackWeights(self._unet, [m.name for m in members], self._config.optimizer)
        for member in members:
            if member.name in moments:
                self._pack.load_moments(member.name, moments[member.name])

    def _moments(self, name: str) -> Moments:
        return self._resting[name] if name in self._resting else self._pack.moments(name)

    def run(self, last_step: int, stop: Callable[[], bool]) -> Iterator[tuple[StepRecord, ...]]:
        """Update up to and including `last_step`, or until `stop` says so, yielding a record a member for every step.

        A member that had more updates refused than the configuration allows is frozen; ends when all of them are.
        """
        pending: list[_Measured] = []
        since = time.monotonic()
        if self.active:
            self._pack.engage()
        while self.step < last_step and self.active and not stop():
            pending.append(self._update(self._draw(self.step + 1)))
            self.step += 1
            verdict = self.step % _VERDICT_STEPS == 0 or self.step == self._config.steps
            if verdict or len(pending) >= _FLUSH_STEPS or time.monotonic() - since >= _FLUSH_SECONDS:
                yield from self._flush(pending, since)
                pending, since = [], time.monotonic()
            if verdict:
                self._freeze_the_diverged()
        yield from self._flush(pending, since)

    def _freeze_the_diverged(self) -> None:
        diverged = [m.name for m in self.active if self._skipped[m.name] > self._config.max_skipped_steps]
        for name in diverged:
            self.freeze(name)
        if diverged and self.active:
            self._pack.engage()

    def _draw(self, step: int) -> _Draw:
        images = self._config.images_per_step
        shape = (images, *self._data.latent_mean_NCHW.shape[1:])
        positions = [randomness.sample_positions(s, step, images, len(self._data.image_ids)) for s in self._seeds]
        return _Draw(
            indices=np.stack([indices for indices, _ in positions]),
            epochs=np.stack([epochs for _, epochs in positions]),
            timesteps=np.stack(
                [randomness.training_timesteps(s, step, images, self._schedule.timesteps) for s in self._seeds]
            ),
            noise=np.stack([randomness.training_noise(s, step, shape) for s in self._seeds]),
            posterior=np.stack([randomness.posterior_noise(s, step, shape) for s in self._seeds]),
        )

    def _update(self, draw: _Draw) -> _Measured:
        step, size = self.step + 1, self._config.batch_size
        self._pack.forget_gradients()
        rows_KA = self._to_device(self._caption_rows(draw, step))
        inputs = [self._to_device(a) for a in (draw.indices, draw.timesteps, draw.noise, draw.posterior)]
        losses_K = torch.zeros(len(self.active), device=self._device, dtype=self._schedule.alphas_cumprod_T.dtype)
        for start in range(0, self._config.images_per_step, size):
            part = slice(start, start + size)
            indices, timesteps, noise, posterior = (tensor[:, part] for tensor in inputs)
            losses_K += self._backward(indices, timesteps, noise, posterior, rows_KA[:, part])
        self._scale.unscale([self._pack.gradients_KP])
        norms_K = self._pack.clip(self._config.max_grad_norm)
        finite_K = norms_K.isfinite() & losses_K.isfinite()
        self._pack.update(learning_rate(self._config, step), refuse=~finite_K.all())
        self._scale.update(finite_K.all())
        places = tuple(at for at, member in enumerate(self._members) if member.name not in self.frozen_at)
        return _Measured(step, places, losses_K, norms_K, finite_K, self._hashes(draw))

    def _backward(
        self,
        indices: Tensor,
        timesteps: Tensor,
        noise: Tensor,
        posterior: Tensor,
        rows_KB: Tensor,
    ) -> Tensor:
        """Add a micro-batch's gradients; returns its share of each member's loss. [K]."""
        mean, std = self._data.latent_mean_NCHW, self._data.latent_std_NCHW
        shape = (-1, *mean.shape[1:])
        latents = mean[indices] + std[indices] * posterior.to(mean.dtype)
        flat, noise, steps = latents.view(shape), noise.to(mean.dtype).reshape(shape), timesteps.reshape(-1)
        noisy = diffusion.add_noise(self._schedule, flat, noise, steps)
        target = diffusion.target(self._schedule, flat, noise, steps)

        def per_member(per_seed: Tensor) -> Tensor:
            grouped = per_seed.view(len(self._seeds), -1, *per_seed.shape[1:])
            return grouped[self._seed_of_member].flatten(0, 1)

        text = self._data.embeddings_MLD[rows_KB.flatten()]
        prediction = self._unet(per_member(noisy).to(text.dtype), per_member(steps), text).sample
        losses = diffusion.loss_per_image(prediction, per_member(target))
        losses_K = losses.view(len(self.active), -1).mean(dim=1) / self._config.gradient_accumulation
        torch.autograd.backward(self._scale.scaled(losses_K.sum()))
        self._pack.gather_gradients()
        return losses_K.detach()

    def _caption_rows(self, draw: _Draw, step: int) -> randomness.Ints:
        """Which embedding each sample of each active member is conditioned on. [K, A*B]."""
        return np.stack([self._member_rows(member, draw, step) for member in self.active])

    def _member_rows(self, member: PackMember, draw: _Draw, step: int) -> randomness.Ints:
        at = self._seeds.index(member.seed)
        indices, epochs = draw.indices[at], draw.epochs[at]
        part = np.zeros(len(indices), dtype=np.int64)
        if len(member.caption_weights) > 1:
            uniform = [
                randomness.caption_uniform(member.seed, int(e), self._data.image_ids[i])
                for i, e in zip(indices, epochs, strict=True)
            ]
            part = choose_parts(member.caption_weights, np.array(uniform))
        rows = member.caption_rows_NP[indices, part]
        dropped = randomness.dropout_uniform(member.seed, step, len(rows)) < member.caption_dropout
        return np.where(dropped, EMPTY_PROMPT_ROW, rows)

    def _to_device(self, array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor

    def _hashes(self, draw: _Draw) -> tuple[tuple[str, str, str], ...]:
        """What each seed's members saw, so that a reader can check that it was the same for all of them."""
        return tuple(
            (
                _sha256("\n".join(self._data.image_ids[i] for i in draw.indices[at]).encode()),
                _sha256(draw.timesteps[at].tobytes()),
                _sha256(draw.noise[at].tobytes() + draw.posterior[at].tobytes()),
            )
            for at in range(len(self._seeds))
        )

    def _flush(self, pending: list[_Measured], since: float) -> Iterator[tuple[StepRecord, ...]]:
        if not pending:
            return
        host = [torch.stack((m.losses_K, m.norms_K, m.finite_K.to(m.norms_K))) for m in pending]
        values = torch.cat(host, dim=1).double().cpu().numpy()
        images = self._config.images_per_step * values.shape[1]
        rate = images / max(time.monotonic() - since, 1e-9)
        start = 0
        for measured in pending:
            losses, norms, finite = values[:, start : start + len(measured.members)]
            start += len(measured.members)
            for at, k in enumerate(measured.members):
                self._skipped[self._members[k].name] += not finite[at]
            numbers = {k: (losses[at], norms[at]) for at, k in enumerate(measured.members)}
            yield self._records(measured, numbers, rate, skipped=not finite.all())

    def _records(
        self, measured: _Measured, numbers: dict[int, tuple[float, float]], rate: float, *, skipped: bool
    ) -> tuple[StepRecord, ...]:
        """A record a member; of a frozen one it says that nothing was updated."""
        result = []
        for k, member in enumerate(self._members):
            loss, norm = numbers.get(k, (math.nan, math.nan))
            order, timesteps, noise = measured.hashes[self._seeds.index(member.seed)]
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
        saved |= {f"adapter.{key}": weight.detach() for key, weight in adapters.parameters(self._unet, name).items()}
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
            adapters.load(self._unet, name, _part(state, "adapter."))
            self._scale.load(_part(state, "loss_scale."))
            self._skipped[name] = int(state["skipped"])
            if int(state.get("frozen_at", _NEVER)) != _NEVER:
                self.frozen_at[name] = int(state["frozen_at"])
        self.step = steps.pop()
        self._take_part({name: _part(state, "optimizer.") for name, state in states.items()})


def choose_parts(weights: Sequence[float], uniform: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> randomness.Ints:
    """Which of the weighted texts each uniform draw in [0, 1) falls on. int64, shape of `uniform`."""
    edges = np.cumsum(weights)[:-1]
    return np.searchsorted(edges, uniform, side="right").astype(np.int64)


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
