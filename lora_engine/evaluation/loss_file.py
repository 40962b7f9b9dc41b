"""The files of an evaluation's losses, finished or interrupted: safetensors whose metadata say what was scored.

Torch-free. Shape legend: E components, N held-out images, T timesteps an image, C of them on the curve, L losses in
all.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

Losses = npt.NDArray[np.float32]

_LENGTH_BYTES = 8  # a safetensors file begins with the length of its header, little-endian


class NotScoredError(LookupError):
    """A loss is asked for under captions, or at timesteps, that the evaluation did not score."""


@dataclass(frozen=True)
class EvaluationLosses:
    """The losses of one adapter in a finished evaluation."""

    step: int  # of the training; 0 is the base model
    components: tuple[str, ...]  # E names, of which "" is the empty prompt
    image_ids: tuple[str, ...]  # N
    losses_ENT: Losses  # NaN at the timesteps at which a component was not scored
    timesteps_NT: npt.NDArray[np.int64]
    min_snr_NT: Losses | None = None  # the min-SNR weight of each timestep; None where the file has none

    def at_timesteps(
        self, weights: Mapping[str, float], columns_NC: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.float64]:
        """The mean over components by these weights, of each image and timestep: [N, T], or [N, C] of these columns.

        Raises:
            NotScoredError: one of them was not scored.
        """
        total = np.zeros(self.timesteps_NT.shape if columns_NC is None else columns_NC.shape)
        for name, weight in weights.items():
            if name not in self.components:
                raise NotScoredError(f"the captions {name!r} were not scored at step {self.step}")
            losses_NT = self.losses_ENT[self.components.index(name)].astype(np.float64)
            total += weight * (losses_NT if columns_NC is None else np.take_along_axis(losses_NT, columns_NC, axis=1))
        if np.isnan(total).any():
            raise NotScoredError(f"{' and '.join(map(repr, weights))} were not scored at all of those timesteps")
        return total

    def per_image(
        self, weights: Mapping[str, float], columns_NC: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.float64]:
        """The mean of `at_timesteps` over the timesteps, [N]."""
        means: npt.NDArray[np.float64] = self.at_timesteps(weights, columns_NC).mean(axis=1)
        return means


@dataclass(frozen=True)
class BegunEvaluation:
    """The losses of all adapters in an interrupted evaluation."""

    facts: str  # all that decides the losses to the bit; only an evaluation of equal facts can go on with them
    losses_L: Losses  # 0 where not scored yet
    done: int  # how far the scoring came, as it counts itself


def pack_losses(evaluation: EvaluationLosses) -> bytes:
    """The file of an adapter's losses in a finished evaluation."""
    arrays: dict[str, npt.NDArray[Any]] = {"losses": evaluation.losses_ENT, "timesteps": evaluation.timesteps_NT}
    if evaluation.min_snr_NT is not None:
        arrays["min_snr"] = evaluation.min_snr_NT
    metadata = {
        "caption_sets": json.dumps(evaluation.components),
        "image_ids": json.dumps(evaluation.image_ids),
        "step": str(evaluation.step),
    }
    return save(arrays, metadata)


def unpack_losses(data: bytes) -> EvaluationLosses:
    """Read what `pack_losses` wrote.

    Raises:
        ValueError: the file is damaged, or holds something else.
    """
    metadata, arrays = _unpack(data)
    components, image_ids = _names(metadata, "caption_sets"), _names(metadata, "image_ids")
    losses_ENT, timesteps_NT = _array(arrays, "losses", np.float32, 3), _array(arrays, "timesteps", np.int64, 2)
    min_snr_NT = _array(arrays, "min_snr", np.float32, 2) if "min_snr" in arrays else None
    shape = (len(components), len(image_ids), timesteps_NT.shape[1])
    if losses_ENT.shape != shape or timesteps_NT.shape != shape[1:] or 0 in shape:
        raise ValueError(f"losses of shape {losses_ENT.shape} and timesteps of {timesteps_NT.shape} for {shape}")
    if min_snr_NT is not None and min_snr_NT.shape != shape[1:]:
        raise ValueError(f"min-SNR weights of shape {min_snr_NT.shape} for {shape[1:]}")
    if min_snr_NT is not None and not (np.isfinite(min_snr_NT).all() and (min_snr_NT >= 0).all() and min_snr_NT.any()):
        raise ValueError("min-SNR weights that are none")
    return EvaluationLosses(_number(metadata, "step"), components, image_ids, losses_ENT, timesteps_NT, min_snr_NT)


def pack_begun(evaluation: BegunEvaluation) -> bytes:
    """The file of an interrupted evaluation."""
    return save({"losses": evaluation.losses_L, "done": np.array(evaluation.done)}, {"facts": evaluation.facts})


def unpack_begun(data: bytes) -> BegunEvaluation:
    """Read what `pack_begun` wrote.

    Raises:
        ValueError: the file is damaged, or holds something else.
    """
    metadata, arrays = _unpack(data)
    losses_L, done = _array(arrays, "losses", np.float32, 1), _array(arrays, "done", np.int64, 0)
    return BegunEvaluation(metadata.get("facts", ""), losses_L, int(done))


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


def _array(arrays: dict[str, npt.NDArray[Any]], name: str, dtype: type, dimensions: int) -> npt.NDArray[Any]:
    found = arrays.get(name)
    if found is None or found.dtype != dtype or found.ndim != dimensions:
        raise ValueError(f"it holds no array {name} of {dtype.__name__} and {dimensions} dimensions")
    return found
