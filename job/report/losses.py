"""The arrays of validation losses: read, reduced, and held against the numbers that were derived from them."""

import json
import math

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load

from job import layout
from job.errors import ExitCode, JobError
from job.report.schema import EvaluationPoint
from job.storage.run_folder import RunFolder

_TOLERANCE = 1e-6  # relative


def read_losses(
    run: RunFolder, variant: str, seed: int, step: int
) -> tuple[npt.NDArray[np.float64], list[str], list[str]]:
    """Losses [caption_set, image, timestep], the names of the sets and the ids of the images.

    Raises:
        JobError: 46 when the file is missing.
    """
    key = layout.validation_losses(variant, seed, step)
    data = run.read(key)
    if data is None:
        raise JobError(
            ExitCode.CONFLICT, f"{run.uri(key)} is missing.", "Restore it, or run under another name: --set name=..."
        )
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    losses = load(data)["losses"].astype(np.float64)
    return losses, json.loads(header["caption_sets"]), json.loads(header["image_ids"])


def final_losses_per_image(
    run: RunFolder, variant: str, seed: int, step: int
) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Ids, and each image's primary loss: its mean over caption sets, but not the empty prompt, and timesteps."""
    losses, sets, ids = read_losses(run, variant, seed, step)
    return ids, losses[[at for at, name in enumerate(sets) if name]].mean(axis=(0, 2))


def recheck(run: RunFolder, variant: str, seed: int, point: EvaluationPoint) -> None:
    """Recompute an evaluation's numbers from its array.

    Raises:
        JobError: 46 when they are not what `validation.jsonl` says.
    """
    losses, sets, _ = read_losses(run, variant, seed, point.step)
    primary = float(losses[[at for at, name in enumerate(sets) if name]].mean())
    pairs = [(primary, point.loss)] + [
        (float(losses[at].mean()), point.caption_sets.get(name, math.nan)) for at, name in enumerate(sets)
    ]
    if not all(math.isclose(found, said, rel_tol=_TOLERANCE) for found, said in pairs):
        raise JobError(
            ExitCode.CONFLICT,
            f"{variant}, seed {seed}, step {point.step}: validation.jsonl says {point.loss:.8g}, "
            f"but the losses that it was derived from give {primary:.8g}.",
            "One of the two files was changed; restore it, or run under another name: --set name=...",
        )
