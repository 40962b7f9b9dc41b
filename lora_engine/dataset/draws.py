"""All that chance decides about an update: images, noise, timesteps, captions. On the CPU, the same for all of a seed.

Shape legend: K members of the pack, S distinct seeds among them, A images a step and member, C latent channels, H and W
latent size, N training images, P texts of an image.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lora_engine.dataset import randomness

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
class Draw:
    """One update's. Arrays lead with the distinct seeds."""

    step: int  # of the update, 1 is the first
    indices: randomness.Ints  # [S, A]
    epochs: randomness.Ints  # [S, A]
    flips: randomness.Ints  # [S, A]; 1 where the mirror image is meant
    timesteps: randomness.Ints  # [S, A]
    noise: randomness.Floats  # [S, A, C, H, W]
    posterior: randomness.Floats  # [S, A, C, H, W]


@dataclass(frozen=True)
class Draws:
    """What a pack of these seeds sees of these images."""

    seeds: tuple[int, ...]  # distinct
    image_ids: tuple[str, ...]  # N
    latent_shape: tuple[int, int, int]  # C, H, W
    images_per_step: int
    num_train_timesteps: int
    flips: bool = False

    def of(self, step: int) -> Draw:
        """An update's draw, whatever was drawn before."""
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
        )

    def caption_rows(self, draw: Draw, members: Sequence[PackMember]) -> randomness.Ints:
        """Which embedding each image of each member is conditioned on. [K, A]."""
        return np.stack([self._rows(draw, member) for member in members])

    def _rows(self, draw: Draw, member: PackMember) -> randomness.Ints:
        at = self.seeds.index(member.seed)
        indices, epochs = draw.indices[at], draw.epochs[at]
        part = np.zeros(len(indices), dtype=np.int64)
        if len(member.caption_weights) > 1:
            uniform = [
                randomness.caption_uniform(member.seed, int(e), self.image_ids[i])
                for i, e in zip(indices, epochs, strict=True)
            ]
            part = choose_parts(member.caption_weights, np.array(uniform))
        rows = member.caption_rows_NP[indices, part]
        dropped = randomness.dropout_uniform(member.seed, draw.step, len(rows)) < member.caption_dropout
        return np.where(dropped, EMPTY_PROMPT_ROW, rows)

    def hashes(self, draw: Draw) -> tuple[tuple[str, str, str], ...]:
        """Of each seed: SHA-256 of order, timesteps and noise, so that a reader can check that members saw the same."""
        return tuple(
            (
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


def choose_parts(weights: Sequence[float], uniform: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> randomness.Ints:
    """Which of the weighted texts each uniform draw in [0, 1) falls on. int64, shape of `uniform`."""
    edges = np.cumsum(weights)[:-1]
    return np.searchsorted(edges, uniform, side="right").astype(np.int64)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
