"""All that chance decides about an update: images, noise, timesteps, captions. On the CPU, the same for all of a seed.

Shape legend: K members of the pack, S distinct seeds among them, V distinct views, A images of an update and member, C
latent channels, H and W latent size, N training images, P texts of an image, at most.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lora_engine.config.noise import NoiseConfig, TimestepsConfig
from lora_engine.dataset import randomness
from lora_engine.dataset.views import ALL_TIMESTEPS, PLAIN_NOISE, View, seen_input_noise, seen_noise, seen_timesteps

Weights = npt.NDArray[np.float64]

EMPTY_PROMPT_ROW = 0  # the row of the embeddings' table that holds the empty prompt


@dataclass(frozen=True)
class PackMember:
    """One adapter of a pack: a name, its seed and which embeddings it is conditioned on."""

    name: str
    seed: int
    caption_rows_NP: randomness.Ints  # row of each text in the embeddings' table
    caption_weights_NP: Weights  # of each image's texts, summing to 1; 0 where it has fewer
    caption_dropout: float  # the probability that an image sees the empty prompt instead, in [0, 1)
    noise: NoiseConfig = PLAIN_NOISE
    timesteps: TimestepsConfig = ALL_TIMESTEPS

    @property
    def view(self) -> View:
        """What decides which noise and timesteps the member sees."""
        return View(self.seed, self.noise, self.timesteps)


def views_of(members: Sequence[PackMember]) -> tuple[View, ...]:
    """The distinct views of the members, in the order of the members."""
    return tuple(dict.fromkeys(member.view for member in members))


@dataclass(frozen=True)
class Draw:
    """The random numbers of one update. Arrays lead with the distinct seeds."""

    step: int  # 1 is the first update
    indices: randomness.Ints  # [S, A], in [0, N): which images
    epochs: randomness.Ints  # [S, A], 0 is the first
    flips: randomness.Ints  # [S, A]; 1 where the mirror image is meant, else 0
    timesteps: randomness.Ints  # [S, A]
    noise: randomness.Floats  # [S, A, C, H, W]
    posterior: randomness.Floats  # [S, A, C, H, W]
    dropout_keys: randomness.Ints  # [S, A], see `adapter_dropout_keys`


@dataclass(frozen=True)
class Seen:
    """What the views of a pack make of a draw. Arrays lead with the views."""

    seed_of_view: randomness.Ints  # [V], in [0, S): the place of each view's seed
    timesteps: randomness.Ints  # [V, A]
    noise: randomness.Floats  # [V, A, C, H, W]: what is learned
    input_noise: randomness.Floats  # [V, A, C, H, W]: what x_t is made with; `noise` itself where no view perturbs it


class DrawHashes(NamedTuple):
    """SHA-256 of what one seed draws for an update, so that a reader can check that members saw the same."""

    order_sha256: str  # of the ids of the images, in their order
    timesteps_sha256: str
    noise_sha256: str  # of the noise and of the latents' places in the VAE's posterior


@dataclass(frozen=True)
class Draws:
    """The draws of all updates, for a pack of these seeds that trains on these images."""

    seeds: tuple[int, ...]  # distinct
    image_ids: tuple[str, ...]  # N
    latent_shape: tuple[int, int, int]  # C, H, W
    images_per_step: int
    num_train_timesteps: int
    flips: bool = False
    views: tuple[View, ...] = ()  # distinct; none are each seed's plain one

    def __post_init__(self) -> None:
        views = self.views or tuple(View(seed) for seed in self.seeds)
        assert tuple(dict.fromkeys(view.seed for view in views)) == self.seeds, "the views are those of the seeds"
        object.__setattr__(self, "views", views)

    def of_step(self, step: int) -> Draw:
        """The draw of update `step` (1 is the first), which does not depend on any other draw."""
        count, shape = self.images_per_step, (self.images_per_step, *self.latent_shape)
        positions = [randomness.sample_positions(seed, step, count, len(self.image_ids)) for seed in self.seeds]
        timesteps = [randomness.training_timesteps(seed, step, count, self.num_train_timesteps) for seed in self.seeds]
        flips = [randomness.flips(seed, step, count) for seed in self.seeds]
        return Draw(
            step=step,
            indices=np.stack([indices for indices, _ in positions]),
            epochs=np.stack([epochs for _, epochs in positions]),
            flips=np.stack(flips) * self.flips,
            timesteps=np.stack(timesteps),
            noise=np.stack([randomness.training_noise(seed, step, shape) for seed in self.seeds]),
            posterior=np.stack([randomness.posterior_noise(seed, step, shape) for seed in self.seeds]),
            dropout_keys=np.stack([randomness.adapter_dropout_keys(seed, step, count) for seed in self.seeds]),
        )

    def seen(self, draw: Draw) -> Seen:
        """What the views make of a draw, of which plain ones, and those of no other seed, copy nothing."""
        places = np.array([self.seeds.index(view.seed) for view in self.views], dtype=np.int64)
        timesteps, noise, input_noise = draw.timesteps, draw.noise, None
        if self.views != tuple(View(seed) for seed in self.seeds):
            each = list(zip(self.views, places, strict=True))
            timesteps = np.stack([seen_timesteps(v, draw.timesteps[at], self.num_train_timesteps) for v, at in each])
            noise = np.stack([seen_noise(view, draw.step, draw.noise[at]) for view, at in each])
            if any(view.noise.input_perturbation for view in self.views):
                both = zip(self.views, noise, strict=True)
                input_noise = np.stack([seen_input_noise(view, draw.step, of_view) for view, of_view in both])
        return Seen(places, timesteps, noise, noise if input_noise is None else input_noise)

    def caption_rows(self, draw: Draw, members: Sequence[PackMember]) -> randomness.Ints:
        """The row of the embeddings' table that each image of each member is conditioned on. int64 [K, A]."""
        return np.stack([self._rows(draw, member) for member in members])

    def _rows(self, draw: Draw, member: PackMember) -> randomness.Ints:
        """The rows of one member's images. int64 [A]."""
        at = self.seeds.index(member.seed)
        indices, epochs = draw.indices[at], draw.epochs[at]
        texts = np.zeros(len(indices), dtype=np.int64)
        if member.caption_weights_NP.shape[1] > 1:
            uniform = [
                randomness.caption_uniform(member.seed, int(e), self.image_ids[i])
                for i, e in zip(indices, epochs, strict=True)
            ]
            texts = choose_texts(member.caption_weights_NP[indices], np.array(uniform))
        rows = member.caption_rows_NP[indices, texts]
        dropped = randomness.dropout_uniform(member.seed, draw.step, len(rows)) < member.caption_dropout
        return np.where(dropped, EMPTY_PROMPT_ROW, rows)

    def hashes(self, draw: Draw) -> tuple[DrawHashes, ...]:
        """The hashes of each distinct seed's part of the draw."""
        return tuple(
            DrawHashes(
                _sha256("\n".join(self._seen(draw, at)).encode()),
                _sha256(draw.timesteps[at].tobytes()),
                _sha256(draw.noise[at].tobytes() + draw.posterior[at].tobytes()),
            )
            for at in range(len(self.seeds))
        )

    def _seen(self, draw: Draw, at: int) -> Iterator[str]:
        """The ids of one seed's images, in their order; a mirror image's begins with a minus."""
        for index, flipped in zip(draw.indices[at], draw.flips[at], strict=True):
            yield "-" * int(flipped) + self.image_ids[index]


def choose_texts(weights_AP: Weights, uniform_A: Weights) -> randomness.Ints:
    """Which of the weighted texts each uniform number falls on.

    Args:
        weights_AP: of each image's texts, summing to 1.
        uniform_A: in [0, 1), one an image.

    Returns:
        The texts' places, int64 [A].
    """
    edges = np.cumsum(weights_AP, axis=1)[:, :-1]
    found: randomness.Ints = (edges <= uniform_A[:, np.newaxis]).sum(axis=1, dtype=np.int64)
    return found


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
