"""Builds the comparison from a run's artifacts alone: equal artifacts give an equal report."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from job import layout
from job.errors import ExitCode, JobError
from job.layout import Member
from job.report.losses import final_losses_per_image, recheck, recheck_choices
from job.report.samples import sample_points, training_measures
from job.report.schema import (
    SKEW_GROUPS,
    STRONG_SKEW,
    Checkpoint,
    Choice,
    Comparison,
    DataCounts,
    Difference,
    EvaluationPoint,
    Fairness,
    File,
    MemberReport,
    PackReport,
    TrainPoint,
)
from job.run.checkpoints import BestPointer, Commit, FinalPointer, committed_steps, read_commit
from job.run.decisions import PackDecision, Resolved
from job.run.status import Status
from job.storage.folder import RunFolder
from lora_engine.captions.lint import lint
from lora_engine.evaluation.line_art import Measures
from lora_engine.evaluation.statistics import CONFIDENCE, FEWEST_SEEDS, paired_difference
from lora_engine.records import CaptionRecord, ImageRecord, StepRecord, ValidationRecord

_TRAIN_POINTS = 100  # at most, on an adapter's curve of training losses

Model = TypeVar("Model")


def build_comparison(run: RunFolder) -> Comparison:
    """Compare the adapters of a run that has trained all of them.

    Raises:
        JobError: 46 when a file is missing or two files contradict each other.
    """
    resolved = _stored(run, layout.RESOLVED, Resolved)
    images = _rows(run, layout.IMAGES, ImageRecord)
    training = training_measures(run)
    members = [
        _member(run, resolved, pack.index, member, training) for pack in resolved.packs for member in pack.members
    ]
    fair = _fair(members)
    differences = _differences(run, resolved, members, images)
    return Comparison(
        name=resolved.manifest.name,
        data=_data(images),
        data_sha256=resolved.data_sha256,
        models=resolved.models.model_dump(mode="json"),
        packs=[_pack(pack) for pack in resolved.packs],
        members=members,
        differences=differences,
        fair=fair,
        captions={name: _lint(run, name) for name in resolved.caption_sets},
        timing=_timing(run, len(resolved.packs)),
        environment=_environment(run),
        notes=_notes(resolved, fair, members, differences),
    )


def _environment(run: RunFolder) -> dict[str, Any]:
    """The run's `environment.json`. Raises JobError 46 where it is missing."""
    value = run.read_json(layout.ENVIRONMENT)
    if value is None:
        raise _missing(run, layout.ENVIRONMENT)
    return value


def _stored(run: RunFolder, key: str, kind: type[Model]) -> Model:
    """The object as a `kind`. Raises JobError 46 where it is missing or something else."""
    value = run.read_stored(key, kind)
    if value is None:
        raise _missing(run, key)
    return value


def _rows(run: RunFolder, key: str, kind: type[Model]) -> list[Model]:
    """The rows, each a `kind`. Raises JobError 46 where they are missing or something else."""
    rows = run.read_rows(key, kind)
    if rows is None:
        raise _missing(run, key)
    return rows


def _missing(run: RunFolder, key: str) -> JobError:
    return JobError(
        ExitCode.CONFLICT, f"{run.uri(key)} is missing, so there is no report.", "Run the manifest again to finish it."
    )


def _data(images: Sequence[ImageRecord]) -> DataCounts:
    used = [image for image in images if image.used]
    return DataCounts(
        files=len(images),
        train=sum(image.split == "train" for image in used),
        validation=sum(image.split == "validation" for image in used),
        groups=len({image.group for image in used}),
        duplicates=sum(image.duplicate_of is not None for image in images),
        ignored=sum(image.ignored for image in images),
        rejected=dict(sorted(Counter(image.rejected for image in images if image.rejected).items())),
    )


def _pack(pack: PackDecision) -> PackReport:
    return PackReport(
        index=pack.index,
        members=[f"{member.variant}/seed-{member.seed}" for member in pack.members],
        precision=pack.precision,
        differs=list(pack.differs),
    )


def _member(
    run: RunFolder, resolved: Resolved, pack: int, member: Member, training: Sequence[Measures] | None
) -> MemberReport:
    """The report of one member; `training` holds the measures of the training images, if samples were asked for."""
    metrics = _rows(run, layout.metrics(member), StepRecord)
    validation = _validation(run, resolved, member)
    commits = [read_commit(run, member, step) for step in committed_steps(run, member)]
    if not commits or not metrics:
        raise _missing(run, layout.metrics(member) if commits else layout.checkpoint(member, 0))
    best, final = _choices(run, member, validation)
    trained_until = metrics[-1].step if final.diverged_at is None else final.diverged_at
    return MemberReport(
        variant=member.variant,
        seed=member.seed,
        pack=pack,
        caption_set=resolved.set_of_variant[member.variant],
        steps=metrics[-1].step,
        skipped_steps=sum(row.skipped for row in metrics if row.step <= trained_until),
        diverged_at=final.diverged_at,
        images_per_second=float(np.median([row.images_per_second for row in metrics])),
        base_loss=validation[0].loss,
        final_loss=final.loss if final.diverged_at is None else None,
        validation=validation,
        train=_train_points(metrics),
        samples=sample_points(run, member, training),
        best=best,
        final=final,
        checkpoints=[_checkpoint(commit) for commit in commits],
        fairness=Fairness(
            initial_weights_sha256=commits[0].initial_weights_sha256,
            order_sha256=_chained(row.order_sha256 for row in metrics),
            timesteps_sha256=_chained(row.timesteps_sha256 for row in metrics),
            noise_sha256=_chained(row.noise_sha256 for row in metrics),
        ),
    )


def _validation(run: RunFolder, resolved: Resolved, member: Member) -> list[EvaluationPoint]:
    """The evaluations of a member, each checked against the losses that it was derived from.

    Raises:
        JobError: 46 when the base model was not scored, or a number is another than the losses give.
    """
    key = layout.validation(member)
    points = [EvaluationPoint(**_without(asdict(row), "images")) for row in _rows(run, key, ValidationRecord)]
    if not points or points[0].step != 0:
        raise JobError(
            ExitCode.CONFLICT,
            f"{run.uri(key)} has no row of step 0, the base model, to compare with.",
            "Remove _SUCCESS, and final.json beside that file, then run the manifest again to score the base model.",
        )
    for point in points:
        recheck(run, member, point, resolved.manifest.evaluation.timesteps)
    return points


def _choices(run: RunFolder, member: Member, validation: Sequence[EvaluationPoint]) -> tuple[Choice | None, Choice]:
    """The best checkpoint, which is None where no checkpoint could be scored, and the last one."""
    chosen = run.read_stored(layout.best(member), BestPointer)
    best = None if chosen is None else Choice(**chosen.model_dump())
    final = Choice(**_stored(run, layout.final(member), FinalPointer).model_dump())
    recheck_choices(run, member, best, final, validation)
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
        points.append(TrainPoint(step=window[-1].step, loss=sum(losses) / len(losses) if losses else None))
    return points


def _chained(hashes: Iterable[str]) -> str:
    """One hash over hashes in their order."""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _fair(members: Sequence[MemberReport]) -> dict[str, bool]:
    """For each seed, whether all its members have equal hashes of initial weights, order, timesteps and noise."""
    proofs: dict[str, set[str]] = {}
    for member in members:
        proofs.setdefault(str(member.seed), set()).add(member.fairness.model_dump_json())
    return {seed: len(found) == 1 for seed, found in proofs.items()}


def _differences(
    run: RunFolder, resolved: Resolved, members: Sequence[MemberReport], images: Sequence[ImageRecord]
) -> list[Difference]:
    """The differences of every pair of variants: seed by seed, and over the seeds that both have, if those are enough.

    Raises:
        JobError: 46 when two adapters were scored on different images, or on some that the run does not hold out.
    """
    losses: dict[str, dict[int, npt.NDArray[np.float64]]] = {}
    scored_on: dict[str, list[str]] = {}
    for member in members:
        if member.diverged_at is None:
            ids, values = final_losses_per_image(run, Member(member.variant, member.seed), member.steps)
            losses.setdefault(member.variant, {})[member.seed] = values
            scored_on[f"{member.variant}, seed {member.seed}"] = ids
    ids = _common_ids(scored_on)
    group_of = {image.id: image.group for image in images if image.split == "validation" and image.group is not None}
    if not group_of.keys() >= set(ids):
        raise JobError(
            ExitCode.CONFLICT,
            f"{run.uri(layout.IMAGES)} lacks images that adapters were scored on.",
            "Restore it, or run under another name: --set name=...",
        )
    groups = np.array([group_of[i] for i in ids])
    settings = {name: (own.lora, own.training) for name, own in resolved.identity.variants.items()}
    pairs: list[tuple[str, str, int | None, npt.NDArray[np.float64]]] = []  # a, b, seed, differences [seed, image]
    for a, b in combinations(losses, 2):
        by_seed = {seed: own - losses[b][seed] for seed, own in losses[a].items() if seed in losses[b]}
        pairs += [(a, b, seed, difference[np.newaxis]) for seed, difference in by_seed.items()]
        if len(by_seed) >= FEWEST_SEEDS:
            pairs.append((a, b, None, np.stack(list(by_seed.values()))))
    interval_count = Counter(seed is None for _, _, seed, _ in pairs)
    result = []
    for a, b, seed, differences in pairs:
        # Of several intervals, one is likelier to miss than each by itself. They are widened (Bonferroni), so that all
        # intervals over seeds hold together with the stated confidence, and all those of single seeds do.
        interval = paired_difference(differences, groups, 1 - (1 - CONFIDENCE) / interval_count[seed is None])
        alike = settings[a] == settings[b]
        result.append(Difference(a=a, b=b, seed=seed, seeds=len(differences), like_for_like=alike, **asdict(interval)))
    return result


def _common_ids(scored_on: dict[str, list[str]]) -> list[str]:
    """The ids of the images that every adapter was scored on, given those of each.

    Raises:
        JobError: 46 when two adapters were scored on different images.
    """
    first, *others = scored_on.items() or [("", [])]
    for name, ids in others:
        if ids != first[1]:
            raise JobError(
                ExitCode.CONFLICT,
                f"{first[0]} and {name} were scored on different images.",
                "Start the run again under another name: --set name=...",
            )
    return first[1]


def _lint(run: RunFolder, name: str) -> dict[str, Any]:
    """The lint of the caption set of that name. Raises JobError 46 where the set holds no caption."""
    captions = _rows(run, layout.captions(name), CaptionRecord)
    if not captions:
        raise _missing(run, layout.captions(name))
    return asdict(lint(captions))


def _timing(run: RunFolder, packs: int) -> dict[str, dict[str, float]]:
    """The seconds of each stage, by unit, over all attempts."""
    units = ["prepare", *(f"pack-{index}" for index in range(packs))]
    statuses = {unit: run.read_stored(layout.unit_status(unit), Status) for unit in units}
    return {unit: status.stages if status else {} for unit, status in statuses.items()}


def _notes(
    resolved: Resolved, fair: dict[str, bool], members: Sequence[MemberReport], differences: Sequence[Difference]
) -> list[str]:
    notes = [
        "Loss is denoising error on held-out images, not picture quality: a lower loss need not look better.",
        "The primary loss scores every adapter under all caption sets alike; own-caption losses are descriptive.",
    ]
    pairs = dict.fromkeys((d.a, d.b) for d in differences)
    lacking = [pair for pair in pairs if not any((d.a, d.b, d.seed) == (*pair, None) for d in differences)]
    if lacking:
        which = "" if len(lacking) == len(pairs) else f" of {', of '.join(f'{a} and {b}' for a, b in lacking)}"
        notes.append(
            f"With fewer than {FEWEST_SEEDS} seeds to compare, a difference{which} is that of these adapters, not of "
            "the caption strategies."
        )
    notes += [
        f"The difference of {d.a} and {d.b}, seed {d.seed}, is strongly skewed over the held-out images (skew "
        f"{d.skew:.1f}): a few of them decide it, and its interval may be too narrow. More held-out images would tell."
        for d in differences
        if d.seed is not None and d.skew is not None and abs(d.skew) > STRONG_SKEW and d.groups < SKEW_GROUPS
    ]
    for pack in resolved.packs:
        if pack.differs:
            names = ", ".join(member.variant for member in pack.members)
            notes.append(f"Not like for like: {names} also differ in {', '.join(pack.differs)}.")
    notes += [
        f"{m.variant}, seed {m.seed}, diverged and was frozen at step {m.diverged_at}; it is not compared."
        for m in members
        if m.diverged_at is not None
    ]
    if not resolved.fenced:
        notes.append("The store ignores conditional writes: nothing kept a second process from writing this run.")
    notes += [
        f"Seed {seed}: the members did not see the same weights, order or noise." for seed in fair if not fair[seed]
    ]
    return notes
