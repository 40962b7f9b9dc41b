"""Reads the arrays of validation losses, and checks the numbers in other files that were derived from them."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from job import layout
from job.errors import ExitCode, JobError
from job.layout import Member
from job.report.schema import Choice, EvaluationPoint
from job.run.checkpoints import committed_steps
from job.storage.folder import RunFolder
from lora_engine.dataset.randomness import curve_columns
from lora_engine.evaluation.loss_file import EvaluationLosses, unpack_losses
from lora_engine.evaluation.summary import choose_best, primary_losses, summarise
from lora_engine.records import ValidationRecord

_TOLERANCE = 1e-6  # relative, for a sum that another version or machine rounds otherwise


def read_losses(run: RunFolder, member: Member, step: int) -> EvaluationLosses:
    """The losses of an adapter in its evaluation at a step.

    Raises:
        JobError: 46 when the file is missing or damaged.
    """
    key = layout.validation_losses(member, step)
    data, problem = run.read(key), "missing"
    if data is not None:
        try:
            return unpack_losses(data)
        except ValueError:
            problem = "damaged"
    raise JobError(
        ExitCode.CONFLICT, f"{run.uri(key)} is {problem}.", "Restore it, or run under another name: --set name=..."
    )


def final_losses_per_image(run: RunFolder, member: Member, step: int) -> tuple[list[str], npt.NDArray[np.float64]]:
    """The ids of the held-out images and, in their order, each image's primary loss at that step."""
    found = read_losses(run, member, step)
    losses_ENT = found.losses_ENT.astype(np.float64)
    return list(found.scored.image_ids), primary_losses(losses_ENT, found.scored.caption_sets).mean(axis=(0, 2))


def recheck(run: RunFolder, member: Member, point: EvaluationPoint, curve_timesteps: int) -> None:
    """Compute an evaluation's numbers from its array again.

    Args:
        curve_timesteps: on how many timesteps of each image all evaluations, and so the curve, are scored.

    Raises:
        JobError: 46 when `validation.jsonl` has other numbers.
    """
    stored, said = read_losses(run, member, point.step), point
    losses_ENT, scored = stored.losses_ENT.astype(np.float64), stored.scored
    try:
        columns = np.stack([curve_columns(i, curve_timesteps, losses_ENT.shape[2]) for i in scored.image_ids])
    except ValueError as error:
        raise JobError(
            ExitCode.CONFLICT,
            f"{run.uri(layout.validation_losses(member, point.step))} holds no losses of images at "
            f"{curve_timesteps} timesteps and more.",
            "Restore it, or run under another name: --set name=...",
        ) from error
    found = summarise(point.step, losses_ENT, scored.caption_sets, columns)
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
