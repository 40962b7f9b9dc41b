"""The files of an evaluation's losses, finished or interrupted: safetensors whose metadata say what was scored.

Torch-free. Shape legend: K adapters (1 for the base model), E caption sets, N held-out images, T timesteps an image.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

Losses = npt.NDArray[np.float32]

_LENGTH_BYTES = 8  # a safetensors file begins with the length of its header, little-endian


@dataclass(frozen=True)
class Scored:
    """The step, caption sets and images of an evaluation, in the order of its arrays."""

    step: int  # of the training; 0 is the base model
    caption_sets: tuple[str, ...]  # E names, of which "" is the empty prompt
    image_ids: tuple[str, ...]  # N


@dataclass(frozen=True)
class ScoredTogether:
    """All that decides an evaluation's losses to the bit. Only one of equal facts can go on where another stopped."""

    scored: Scored
    members: tuple[str, ...]  # the names of the adapters that are scored at once; none are the base model
    batch_size: int  # images at once


@dataclass(frozen=True)
class EvaluationLosses:
    """The losses of one adapter in a finished evaluation."""

    scored: Scored
    losses_ENT: Losses
    timesteps_NT: npt.NDArray[np.int64]


@dataclass(frozen=True)
class BegunEvaluation:
    """The losses of all adapters in an interrupted evaluation."""

    facts: ScoredTogether
    losses_KENT: Losses  # 0 where not scored yet
    done: int  # (image, timestep) pairs that are scored, in the order of the last two dimensions


def pack_losses(evaluation: EvaluationLosses) -> bytes:
    """The file of an adapter's losses in a finished evaluation."""
    return save({"losses": evaluation.losses_ENT, "timesteps": evaluation.timesteps_NT}, _metadata(evaluation.scored))


def unpack_losses(data: bytes) -> EvaluationLosses:
    """Read what `pack_losses` wrote.

    Raises:
        ValueError: the file is damaged, or holds something else.
    """
    metadata, arrays = _unpack(data)
    scored = _scored(metadata)
    losses_ENT, timesteps_NT = _array(arrays, "losses", 3), _array(arrays, "timesteps", 2)
    if losses_ENT.shape != (len(scored.caption_sets), *timesteps_NT.shape):
        raise ValueError(f"losses of shape {losses_ENT.shape} for timesteps of shape {timesteps_NT.shape}")
    _check_images(scored, losses_ENT)
    return EvaluationLosses(scored, losses_ENT, timesteps_NT)


def pack_begun(evaluation: BegunEvaluation) -> bytes:
    """The file of an interrupted evaluation."""
    facts = evaluation.facts
    metadata = _metadata(facts.scored) | {"members": json.dumps(facts.members), "batch_size": str(facts.batch_size)}
    return save({"losses": evaluation.losses_KENT, "done": np.array(evaluation.done)}, metadata)


def unpack_begun(data: bytes) -> BegunEvaluation:
    """Read what `pack_begun` wrote.

    Raises:
        ValueError: the file is damaged, or holds something else.
    """
    metadata, arrays = _unpack(data)
    scored = _scored(metadata)
    facts = ScoredTogether(scored, _names(metadata, "members"), _number(metadata, "batch_size"))
    losses_KENT, done = _array(arrays, "losses", 4), int(_array(arrays, "done", 0))
    _check_images(scored, losses_KENT)
    return BegunEvaluation(facts, losses_KENT, done)


def _metadata(scored: Scored) -> dict[str, str]:
    """The facts as a safetensors file takes them: text alone."""
    return {
        "caption_sets": json.dumps(scored.caption_sets),
        "image_ids": json.dumps(scored.image_ids),
        "step": str(scored.step),
    }


def _scored(metadata: dict[str, str]) -> Scored:
    return Scored(_number(metadata, "step"), _names(metadata, "caption_sets"), _names(metadata, "image_ids"))


def _unpack(data: bytes) -> tuple[dict[str, str], dict[str, npt.NDArray[Any]]]:
    """The metadata and the arrays of a file."""
    try:
        # The library gives the metadata of a file that it opened by its path, but not those of bytes.
        end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
        return dict(json.loads(data[_LENGTH_BYTES:end])["__metadata__"]), load(data)
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise ValueError(f"no file of an evaluation's losses: {error!r}") from error


def _number(metadata: dict[str, str], name: str) -> int:
    return int(metadata.get(name, f"no {name}"))


def _names(metadata: dict[str, str], name: str) -> tuple[str, ...]:
    try:
        names = json.loads(metadata.get(name, "null"))
    except RecursionError as error:
        raise ValueError(f"it gives no {name}") from error
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise ValueError(f"it gives no {name}")
    return tuple(names)


def _array(arrays: dict[str, npt.NDArray[Any]], name: str, dimensions: int) -> npt.NDArray[Any]:
    if name not in arrays or arrays[name].ndim != dimensions:
        raise ValueError(f"it holds no array {name} of {dimensions} dimensions")
    return arrays[name]


def _check_images(scored: Scored, losses: Losses) -> None:
    """Refuse losses whose dimensions of caption sets and images, before the last, are not those of the facts."""
    expected = (len(scored.caption_sets), len(scored.image_ids))
    if losses.shape[-3:-1] != expected:
        raise ValueError(f"losses of {losses.shape[-3:-1]} caption sets and images, where {expected} were scored")
