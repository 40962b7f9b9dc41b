"""Checks the numbers in a run's files against the arrays of validation losses that they were derived from."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from job import layout
from job.errors import ExitCode, JobError
from job.layout import Member
from job.report.schema import Choice, EvaluationPoint
from job.run.checkpoints import Commit
from job.run.held_out import HeldOut
from job.storage.folder import RunFolder
from lora_engine.evaluation.loss_file import EvaluationLosses, NotScoredError
from lora_engine.evaluation.summary import summarise
from lora_engine.records import ValidationRecord

_TOLERANCE = 1e-6  # relative, for a sum that another version or machine rounds otherwise


def recheck(
    run: RunFolder,
    held_out: HeldOut,
    member: Member,
    row: ValidationRecord,
    losses: EvaluationLosses,
    base: EvaluationLosses,
    key: str | None = None,
) -> None:
    """Compute an evaluation's numbers from its array again.

    Args:
        row: the evaluation's row of `validation.jsonl`.
        base: the losses of step 0, at all timesteps.
        key: of the array's file, where it is not the row's step that names it.

    Raises:
        JobError: 46 when `validation.jsonl` has other numbers, or the array is of other images or timesteps.
    """
    key = key or layout.validation_losses(member, row.step)
    if losses.image_ids != held_out.image_ids:
        raise JobError(
            ExitCode.CONFLICT,
            f"{run.uri(key)} was scored on other images than those that {layout.IMAGES} holds out.",
            "One of the two files was changed; restore it, or run under another name: --set name=...",
        )
    curve_strata = held_out.curve_NC.shape[1]
    shared = [base.timesteps_NT]
    if held_out.curve_NC.max() < base.timesteps_NT.shape[1]:
        shared.append(np.take_along_axis(base.timesteps_NT, held_out.curve_NC, axis=1))
    if not any(np.array_equal(losses.timesteps_NT, timesteps_NT) for timesteps_NT in shared):
        raise JobError(
            ExitCode.CONFLICT,
            f"{run.uri(key)} was scored at other timesteps than step 0 and the curve.",
            "Restore it, or run under another name: --set name=...",
        )
    on_curve = losses.timesteps_NT.shape[1] == curve_strata
    try:
        if not on_curve and losses.timesteps_NT.shape[1] <= held_out.curve_NC.max():
            raise NotScoredError
        found = summarise(losses, held_out.components.summed(member.variant), None if on_curve else held_out.curve_NC)
    except NotScoredError as error:
        raise JobError(
            ExitCode.CONFLICT,
            f"{run.uri(key)} lacks losses of the adapter's own captions, or has fewer than {curve_strata} timesteps "
            "an image.",
            "Restore it, or run under another name: --set name=...",
        ) from error
    pairs = [(found.loss, row.loss), (found.curve_loss, row.curve_loss), (found.timesteps, row.timesteps)]
    pairs += [(value, row.caption_sets.get(name, math.nan)) for name, value in found.caption_sets.items()]
    more = row.caption_sets.keys() - found.caption_sets.keys()
    if more or not all(math.isclose(*pair, rel_tol=_TOLERANCE) for pair in pairs):
        raise JobError(
            ExitCode.CONFLICT,
            f"{member.variant}, seed {member.seed}, step {row.step}: validation.jsonl says {row.loss:.8g}, on the "
            f"curve {row.curve_loss:.8g}, but the losses that it was derived from give {found.loss:.8g} and "
            f"{found.curve_loss:.8g}.",
            "One of the two files was changed; restore it, or run under another name: --set name=...",
        )


def recheck_choices(
    run: RunFolder,
    held_out: HeldOut,
    member: Member,
    commits: Sequence[Commit],
    choices: tuple[Choice | None, Choice],
    losses: Mapping[int, EvaluationLosses],
    points: Sequence[EvaluationPoint],
) -> None:
    """Choose the best checkpoint again, among those that are kept and scored, and look up the last one.

    Args:
        commits: of the checkpoints that are kept.
        choices: the best checkpoint, None where there is none, and the last one.

    Raises:
        JobError: 46 when `best.json` or `final.json` says otherwise, or there should be a best checkpoint.
    """
    best, final = choices
    if _is_older(final, points):
        raise JobError(
            ExitCode.CONFLICT,
            f"{run.uri(layout.final(member))} is of step {final.step}, and the training went on to {points[-1].step}.",
            "Run the manifest again to finish it.",
        )
    if not _is_last(final, points) or not _is_in(commits, final):
        raise _not_borne_out(run.uri(layout.final(member)), final)
    kept = {commit.step for commit in commits} | ({best.step} if best else set())
    weights = held_out.components.summed(member.variant)
    chosen = held_out.choose_best({s: held_out.curve_loss(each, weights) for s, each in losses.items() if s in kept})
    key = layout.best(member)
    if best is None:
        if chosen is not None:
            raise JobError(
                ExitCode.CONFLICT,
                f"{run.uri(key)} is missing, though checkpoints were scored.",
                "Restore it, or run under another name: --set name=...",
            )
        return
    borne_out = chosen is not None and best.step == chosen.step and _is_close(chosen.loss, best.loss)
    if not borne_out or not _is_in(commits, best):
        raise _not_borne_out(run.uri(key), best)


def _is_older(final: Choice, points: Sequence[EvaluationPoint]) -> bool:
    """Whether a choice was the last step until the run was given more steps, which are not done yet."""
    scored = {point.step: point.loss for point in points}
    return final.diverged_at is None and final.step < points[-1].step and scored.get(final.step) == final.loss


def _is_last(final: Choice, points: Sequence[EvaluationPoint]) -> bool:
    """Whether a choice is the step that was scored last, or that of an adapter that had diverged by then."""
    if final.diverged_at is not None:
        return final.loss is None
    return (final.step, final.loss) == (points[-1].step, points[-1].loss)


def _is_in(commits: Sequence[Commit], choice: Choice) -> bool:
    """Whether a choice names the folder and the file of its checkpoint, unless that is not kept."""
    hashes = {file.sha256 for commit in commits if commit.step == choice.step for file in commit.files}
    folder = f"checkpoints/{layout.step_name(choice.step)}"
    return choice.checkpoint == folder and (not hashes or choice.sha256 in hashes)


def _not_borne_out(uri: str, choice: Choice) -> JobError:
    return JobError(
        ExitCode.CONFLICT,
        f"{uri} names step {choice.step} with a loss of {choice.loss} and the file {choice.sha256}, which "
        "validation.jsonl and the checkpoints do not bear out.",
        "One of these files was changed; restore it, or run under another name: --set name=...",
    )


def _is_close(found: float, said: float | None) -> bool:
    return said is not None and math.isclose(found, said, rel_tol=_TOLERANCE)
