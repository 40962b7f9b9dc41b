"""Pictures that are arrays of numbers: what a prompt has by itself, and what each picture adds to it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lora_engine.evaluation.pictures import PictureSet, References

Floats = npt.NDArray[np.float64]

DIMENSIONS = 64  # of an embedding
_MIX = np.random.default_rng(99).normal(0, 0.4, (6, 6)) + np.eye(6)  # which line-art measures go together


def unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float64)


def line_art(normal: Floats) -> Floats:
    """Measures in their ranges from normal numbers [..., 6]: shares in [0, 1], and two that are skewed and above 0."""
    mixed = normal @ _MIX
    return np.concatenate([1 / (1 + np.exp(-mixed[..., :4])), np.exp(0.6 * mixed[..., 4:] - 3)], axis=-1)


@dataclass(frozen=True)
class World:
    """What pictures are drawn from."""

    generator: np.random.Generator
    base: Floats  # [DIMENSIONS], which all embeddings have in common
    style: Floats  # [DIMENSIONS], what a shifted strategy's embeddings have besides
    references: References

    def sets(self, prompts: int, seeds: int, shifts: tuple[float, ...], own: float = 0.0) -> list[PictureSet]:
        """A set for each shift, of the same prompts, which are drawn anew.

        Args:
            prompts: their number.
            seeds: pictures of each prompt.
            shifts: what a set's pictures have in common; that of the references is 0.
            own: the standard deviation of what a prompt has in one set and not in the other.
        """
        shape, draw = (prompts, seeds), self.generator.normal
        of_prompt, line_of_prompt = draw(0, 1, (prompts, 1, DIMENSIONS)), draw(0, 1, (prompts, 1, 6))
        texts = unit(self.base + of_prompt[:, 0] + draw(0, 1.5, (prompts, DIMENSIONS)))
        prompts_N, seeds_N = np.repeat(np.arange(prompts), seeds), np.tile(np.arange(seeds), prompts)
        sets = []
        for shift in shifts:
            vectors = self.base + of_prompt + shift * self.style + own * draw(0, 1, (prompts, 1, DIMENSIONS))
            embeddings = unit(vectors + draw(0, 0.8, (*shape, DIMENSIONS))).reshape(-1, DIMENSIONS)
            normal = 0.7 * (line_of_prompt + own * draw(0, 1, (prompts, 1, 6)) + draw(0, 1, (*shape, 6))) + shift
            sets.append(
                PictureSet(prompts_N, seeds_N, line_art(normal).reshape(-1, 6), embeddings @ texts.T, embeddings)
            )
        return sets


def world(seed: int, held_out: int = 40, training: int = 200) -> World:
    print("seed", seed)
    generator = np.random.default_rng(seed)
    base, style = generator.normal(0, 1.2, DIMENSIONS), generator.normal(0, 1, DIMENSIONS)
    references = References(
        held_out=line_art(generator.normal(0, 1, (held_out, 6))),
        training=line_art(generator.normal(0, 1, (training, 6))),
        held_out_embeddings=unit(base + generator.normal(0, 1.3, (held_out, DIMENSIONS))),
    )
    return World(generator, base, style, references)
