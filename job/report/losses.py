"""Reads the arrays of validation losses, and checks the numbers in other files that were derived from them."""

import json
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

from job import layout
from job.errors import ExitCode, JobError
from job.layout import Member
from job.report.schema import Choice, EvaluationPoint
from job.run.checkpoints import committed_steps
from job.storage.folder import RunFolder
from lora_engine.dataset.randomness import curve_columns
from lora_engine.evaluation.summary import choose_best, primary_losses, summarise
from lora_engine.records import ValidationRecord

_TOLERANCE = 1e-6  # relative, for a sum that another version or machine rounds otherwise


def read_losses(run: RunFolder, member: Member, step: int) -> tuple[npt.NDArray[np.float64], list[str], list[str]]:
    """The losses of one evaluation [caption_set, image, timestep], the names of the sets and the ids of the images.

    Raises:
        JobError: 46 when the file is missing or damaged.
    """
    key = layout.validation_losses(member, step)
    data, problem = run.read(key), "missing"
    if data is not None:
        try:
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
            losses = load(data)["losses"].astype(np.float64)
            return losses, json.loads(header["caption_sets"]), json.loads(header["image_ids"])
        except (ValueError, KeyError, TypeError, RecursionError, SafetensorError):
            problem = "damaged"
    raise JobError(
        ExitCode.CONFLICT, f"{run.uri(key)} is {problem}.", "Restore it, or run under another name: --set name=..."
    )


def final_losses_per_image(run: RunFolder, member: Member, step: int) -> tuple[list[str], npt.NDArray[np.float64]]:
    """The ids of the held-out images and, in their order, each image's primary loss at that step."""
    losses, sets, ids = read_losses(run, member, step)
    return ids, primary_losses(losses, sets).mean(axis=(0, 2))


def recheck(run: RunFolder, member: Member, point: EvaluationPoint, curve_timesteps: int) -> None:
    """Compute an evaluation's numbers from its array again.

    Args:
        curve_timesteps: on how many timesteps of each image all evaluations, and so the curve, are scored.

    Raises:
        JobError: 46 when `validation.jsonl` has other numbers.
    """
    losses, sets, ids = read_losses(run, member, point.step)
    timesteps = losses.shape[2]
    columns = np.stack([curve_columns(i, curve_timesteps, timesteps) for i in ids])
    found, said = summarise(point.step, losses, sets, columns), point
    pairs = [(found.loss, said.loss), (found.curve_loss, said.curve_loss), (found.timesteps, said.timesteps)]
    pairs += [(value, said.caption_sets.get(name, math.nan)) for name, value in found.caption_sets.items()]
    if not all(math.isclose(*pair, rel_tol=_TOLERANCE) for pair in pairs):
        raise JobError(
            ExitCode.CONFLICT,
            f"{member.variant}, seed {member.seed}, step {point.step}: validation.jsonl says {said.loss:.8g}, on the "
            f"curve {said.curve_loss:.8g}, but the losses that it was derived from give {found.loss:.8g} and "
            f"{found.curve_loss:.8g}.",
            "One of the two files was changed; restore it, or run under another name: --set name=...",
        )


def recheck_choices(
    run: RunFolder, member: Member, best: Choice | None, final: Choice, points: Sequence[EvaluationPoint]
) -> None:
    """Choose the best checkpoint again, among those that are kept and scored, and look up the loss of the last one.

    Raises:
        JobError: 46 when `best.json` or `final.json` says otherwise.
    """
    loss_of = {point.step: point.loss for point in points}
    wrong = None
    if final.diverged_at is None and final.loss != loss_of.get(final.step):
        wrong = layout.final(member), final
    if best is not None:
        kept = {best.step, *committed_steps(run, member)}
        rows = [ValidationRecord(**point.model_dump(), images=0) for point in points if point.step in kept]
        chosen = choose_best(rows) if best.step in loss_of else None
        if chosen is None or (chosen.step, chosen.loss) != (best.step, best.loss):
            wrong = layout.best(member), best
    if wrong is not None:
        key, choice = wrong
        raise JobError(
            ExitCode.CONFLICT,
            f"{run.uri(key)} names step {choice.step} with a loss of {choice.loss}, which validation.jsonl does not "
            "bear out.",
            "One of the two files was changed; restore it, or run under another name: --set name=...",
        )
