"""The report of each adapter, computed from its artefacts."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from job import layout
from job.errors import ExitCode, JobError
from job.layout import Member
from job.report.artefacts import missing, rows, stored
from job.report.losses import recheck, recheck_choices
from job.report.norms import read_norms
from job.report.objective import trained_with
from job.report.parts import Interval
from job.report.pictures import Pictures
from job.report.schema import (
    Checkpoint,
    Choice,
    EvaluationPoint,
    Fairness,
    File,
    ListeningReport,
    MemberReport,
    SetLoss,
    StartReport,
    TimestepLoss,
    TrainPoint,
)
from job.run.checkpoints import RESTORE, BestPointer, Commit, FinalPointer, committed_steps, read_commit
from job.run.held_out import HeldOut
from job.run.losses import read_losses, read_start_losses
from job.run.resolved import Resolved
from job.storage.folder import RunFolder
from lora_engine.evaluation.components import Weights
from lora_engine.evaluation.listening import listening
from lora_engine.evaluation.loss_file import EvaluationLosses, NotScoredError
from lora_engine.evaluation.statistics import CONFIDENCE, estimate
from lora_engine.evaluation.summary import summarise
from lora_engine.records import StepRecord, ValidationRecord

_TRAIN_POINTS = 100  # at most, on an adapter's curve of training losses

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trained:
    """An adapter of a run, with what its pairs are computed from. N held-out images."""

    member: Member
    report: MemberReport
    metrics: Sequence[StepRecord]
    base: EvaluationLosses  # of step 0
    final: EvaluationLosses | None  # of the last step; None where the adapter diverged
    curve: Mapping[int, Values]  # step to the loss as trained on the curve's timesteps, [N]; empty where not scored
    weights_sha256: str  # of the last checkpoint

    @property
    def moved(self) -> bool:
        """Whether the last weights are other than the first."""
        return self.weights_sha256 != self.report.fairness.initial_weights_sha256


def read_member(
    run: RunFolder,
    resolved: Resolved,
    held_out: HeldOut,
    pack: int,
    member: Member,
    pictures: Pictures,
) -> Trained:
    """Read one member.

    Args:
        pictures: the study's samples.

    Raises:
        JobError: 46 when a file is missing or two files contradict each other.
    """
    metrics = rows(run, layout.metrics(member), StepRecord)
    commits = [read_commit(run, member, step, resolved.run_id) for step in committed_steps(run, member)]
    if not commits or not metrics:
        raise missing(run, layout.metrics(member) if commits else layout.checkpoint(member, 0))
    validation, losses = _validation(run, held_out, member)
    best, final = _choices(run, held_out, member, commits, losses, validation)
    diverged_at = final.diverged_at
    last = losses[final.step] if diverged_at is None and final.step in losses else None
    if diverged_at is None and last is None:
        raise missing(run, layout.validation_losses(member, final.step))
    own = held_out.components.own[member.variant]
    curve = _curve(held_out, own, losses)
    trained_until = metrics[-1].step if diverged_at is None else diverged_at
    report = MemberReport(
        variant=member.variant,
        seed=member.seed,
        pack=pack,
        caption_set=resolved.set_of_variant[member.variant],
        steps=metrics[-1].step,
        skipped_steps=sum(row.skipped for row in metrics if row.step <= trained_until),
        diverged_at=diverged_at,
        trained_with=trained_with(resolved.identity.variants[member.variant].training),
        images_per_second=float(np.median([row.images_per_second for row in metrics])),
        start=_start(run, resolved, held_out, member, losses[0], last),
        **_own_losses(held_out, own, losses[0], last),
        curve_base_loss=float(curve[0].mean()) if 0 in curve else None,
        best_loss=float(curve[best.step].mean()) if best is not None and best.step in curve else None,
        listening=_listening(resolved, held_out, losses[0], last),
        caption_sets=_caption_sets(held_out, losses[0], last),
        validation=validation,
        train=_train_points(metrics),
        samples=pictures.points(member),
        memorised=pictures.memorised([member]),
        best=best,
        final=final,
        norms=read_norms(run, commits[-1]),
        checkpoints=[_checkpoint(commit) for commit in commits],
        fairness=Fairness(
            initial_weights_sha256=_initial_weights(commits),
            order_sha256=_chained(row.order_sha256 for row in metrics),
            timesteps_sha256=_chained(row.timesteps_sha256 for row in metrics),
            noise_sha256=_chained(row.noise_sha256 for row in metrics),
        ),
    )
    return Trained(member, report, metrics, losses[0], last, curve, commits[-1].weights_sha256)


def _start(
    run: RunFolder,
    resolved: Resolved,
    held_out: HeldOut,
    member: Member,
    base: EvaluationLosses,
    last: EvaluationLosses | None,
) -> StartReport | None:
    """What the adapter was before the first update; None where it did not start from a file.

    Raises:
        JobError: 46 when its losses are missing, or of other images or timesteps.
    """
    decision = resolved.models.starts.get(member.variant)
    if decision is None:
        return None
    weights, losses = held_out.components.summed(member.variant), read_start_losses(run, member)
    record = summarise(losses, weights, None)
    recheck(run, held_out, member, record, losses, base, layout.start_losses(member))
    change = _change(held_out, weights, losses, base)
    gain = None if last is None else _change(held_out, weights, losses, last)
    return StartReport(
        source=decision.source, sha256=decision.sha256, curve_loss=record.curve_loss, change=change, gain=gain
    )


def _initial_weights(commits: Sequence[Commit]) -> str:
    """The hash of the initial weights, of which all commits should say the same."""
    hashes = dict.fromkeys(commit.initial_weights_sha256 for commit in commits)
    return next(iter(hashes)) if len(hashes) == 1 else _chained(hashes)


def _own_losses(
    held_out: HeldOut, own: Weights, base: EvaluationLosses, last: EvaluationLosses | None
) -> dict[str, Any]:
    """The fields of a member's report about its loss as trained, at all timesteps, of the base and the last step."""
    base_NT = base.at_timesteps(own)
    fields = {"base_loss": float(base_NT.mean()), "min_snr_base_loss": _weighted(base_NT, base.min_snr_NT)}
    if last is None:
        return (
            fields
            | dict.fromkeys(("final_loss", "final_loss_interval", "min_snr_final_loss", "gain"))
            | {"timesteps": []}
        )
    last_NT = last.at_timesteps(own)
    final, gain = (
        estimate(of_NT.mean(axis=1)[np.newaxis], held_out.groups).interval(CONFIDENCE)
        for of_NT in (last_NT, base_NT - last_NT)
    )
    bins = [
        TimestepLoss(
            first=int(scored.min()), last=int(scored.max()), base=float(before.mean()), final=float(after.mean())
        )
        for scored, before, after in zip(last.timesteps_NT.T, base_NT.T, last_NT.T, strict=True)
    ]
    return fields | {
        "final_loss": float(last_NT.mean()),
        "final_loss_interval": Interval.of(final),
        "min_snr_final_loss": _weighted(last_NT, last.min_snr_NT),
        "gain": Interval.of(gain),
        "timesteps": bins,
    }


def _weighted(losses_NT: Values, weights_NT: npt.NDArray[np.float32] | None) -> float | None:
    """The mean by these weights; None where there are none."""
    return None if weights_NT is None else float(np.average(losses_NT, weights=weights_NT.astype(np.float64)))


def _curve(held_out: HeldOut, own: Weights, losses: Mapping[int, EvaluationLosses]) -> dict[int, Values]:
    """Each step's loss as trained on the curve's timesteps, [N]; none where an earlier version did not score it."""
    try:
        return {step: held_out.curve_loss(each, own) for step, each in losses.items()}
    except NotScoredError:
        return {}


def _listening(
    resolved: Resolved, held_out: HeldOut, base: EvaluationLosses, last: EvaluationLosses | None
) -> ListeningReport | None:
    if last is None:
        return None
    members = sum(len(pack.members) for pack in resolved.packs)
    confidence = 1 - (1 - CONFIDENCE) / members
    found = listening(last, base, held_out.components, held_out.curve_NC, held_out.groups, confidence)
    if found is None:
        return None
    own = asdict(found.own)
    return ListeningReport(set=found.component, images=found.images, base=found.base, flagged=found.flagged, **own)


def _caption_sets(held_out: HeldOut, base: EvaluationLosses, last: EvaluationLosses | None) -> dict[str, SetLoss]:
    result: dict[str, SetLoss] = {}
    for name in () if last is None else last.components:
        before, after = (held_out.curve_loss(losses, {name: 1}) for losses in (base, last) if losses is not None)
        levels = (estimate(values[np.newaxis], held_out.groups) for values in (after, after - before))
        loss, change = (Interval.of(level.interval(CONFIDENCE)) for level in levels)
        result[name] = SetLoss(loss=loss, change=change)
    return result


def _validation(
    run: RunFolder, held_out: HeldOut, member: Member
) -> tuple[list[EvaluationPoint], dict[int, EvaluationLosses]]:
    """The evaluations of a member, each checked against the losses that it was derived from, and these losses, by step.

    Raises:
        JobError: 46 when the base model was not scored, or a number is another than the losses give.
    """
    key = layout.validation(member)
    records = rows(run, key, ValidationRecord)
    if not records or records[0].step != 0:
        raise JobError(
            ExitCode.CONFLICT,
            f"{run.uri(key)} has no row of step 0, the base model, to compare with.",
            "Remove _SUCCESS, and final.json beside that file, then run the manifest again to score the base model.",
        )
    steps = [record.step for record in records]
    if steps != sorted(set(steps)):
        raise JobError(ExitCode.CONFLICT, f"{run.uri(key)} has a step twice, or its steps in another order.", RESTORE)
    weights = held_out.components.summed(member.variant)
    points, losses = [], {}
    for record in records:
        losses[record.step] = read_losses(run, member, record.step)
        recheck(run, held_out, member, record, losses[record.step], losses[0])
        change = _change(held_out, weights, losses[record.step], losses[0]) if record.step else None
        points.append(EvaluationPoint(**_without(asdict(record), "images"), change=change))
    return points, losses


def _change(held_out: HeldOut, weights: Weights, losses: EvaluationLosses, base: EvaluationLosses) -> Interval:
    """The loss on the curve's timesteps, less that of the base model, or of what stands for it."""
    change_N = held_out.curve_loss(losses, weights) - held_out.curve_loss(base, weights)
    return Interval.of(estimate(change_N[np.newaxis], held_out.groups).interval(CONFIDENCE))


def _choices(
    run: RunFolder,
    held_out: HeldOut,
    member: Member,
    commits: Sequence[Commit],
    losses: Mapping[int, EvaluationLosses],
    validation: Sequence[EvaluationPoint],
) -> tuple[Choice | None, Choice]:
    """The best checkpoint, which is None where no checkpoint could be scored, and the last one."""
    chosen = run.read_stored(layout.best(member), BestPointer)
    best = None if chosen is None else Choice(**chosen.model_dump())
    final = Choice(**stored(run, layout.final(member), FinalPointer).model_dump())
    recheck_choices(run, held_out, member, commits, (best, final), losses, validation)
    return best, final


def _checkpoint(commit: Commit) -> Checkpoint:
    files = [File(**asdict(entry)) for entry in commit.files]
    return Checkpoint(step=commit.step, weights_sha256=commit.weights_sha256, files=files)


def _without(row: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: value for k, value in row.items() if k != key}


def _train_points(metrics: Sequence[StepRecord]) -> list[TrainPoint]:
    """The training losses, averaged over windows of equal length."""
    window_steps = math.ceil(len(metrics) / _TRAIN_POINTS)
    points = []
    for start in range(0, len(metrics), window_steps):
        window = metrics[start : start + window_steps]
        losses = [row.loss for row in window if row.loss is not None]
        loss = math.fsum(loss / len(losses) for loss in losses)  # so that no sum is too large for a number
        points.append(TrainPoint(step=window[-1].step, loss=loss if losses else None))
    return points


def _chained(hashes: Iterable[str]) -> str:
    """One hash over hashes in their order."""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
