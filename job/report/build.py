"""Builds the comparison from a run's artifacts alone: equal artifacts give an equal report."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from job import layout
from job.errors import ExitCode, JobError
from job.report import words
from job.report.artefacts import missing, rows, stored
from job.report.factors import factors_of
from job.report.members import Trained, read_member
from job.report.pairs import compare_pairs
from job.report.samples import training_measures
from job.report.schema import (
    Comparison,
    DataCounts,
    MemberReport,
    PackReport,
    Pair,
    StudyVerdict,
)
from job.run.decisions import PackDecision, Resolved
from job.run.held_out import held_out
from job.run.status import Status
from job.storage.folder import RunFolder
from lora_engine.captions.lint import lint
from lora_engine.evaluation.loss_file import NotScoredError
from lora_engine.evaluation.statistics import FEWEST_SEEDS, SKEW_GROUPS, STRONG_SKEW
from lora_engine.records import CaptionRecord, ImageRecord


def build_comparison(run: RunFolder) -> Comparison:
    """Compare the adapters of a run that has trained all of them.

    Raises:
        JobError: 46 when a file is missing or two files contradict each other.
    """
    resolved = stored(run, layout.RESOLVED, Resolved)
    images = rows(run, layout.IMAGES, ImageRecord)
    captions = {name: _captions(run, name) for name in resolved.caption_sets}
    scored = held_out(run, resolved, images, captions)
    training = training_measures(run)
    try:
        trained = [
            read_member(run, resolved, scored, pack.index, member, training)
            for pack in resolved.packs
            for member in pack.members
        ]
        _require_equal_timesteps(run, trained)
        pairs = compare_pairs(resolved, scored, trained, factors_of(resolved, scored, captions))
    except NotScoredError as error:
        raise JobError(
            ExitCode.CONFLICT,
            f"An adapter of {run.root} cannot be compared: {error}.",
            "Restore its folder validation/, or run under another name: --set name=...",
        ) from error
    members = [each.report for each in trained]
    fair = _fair(members, pairs)
    return Comparison(
        name=resolved.manifest.name,
        verdict=StudyVerdict(sentence=words.study_sentence(pairs, members, len(set(scored.groups)))),
        scoring=resolved.scoring,
        curve_timesteps=resolved.manifest.evaluation.timesteps,
        data=_data(images),
        data_sha256=resolved.data_sha256,
        models=resolved.models.model_dump(mode="json"),
        packs=[_pack(pack) for pack in resolved.packs],
        members=members,
        pairs=pairs,
        fair=fair,
        captions={name: asdict(lint(records)) for name, records in captions.items()},
        timing=_timing(run, len(resolved.packs)),
        environment=_environment(run),
        notes=_notes(resolved, members, pairs, is_earlier=scored.is_earlier),
    )


def _require_equal_timesteps(run: RunFolder, trained: Sequence[Trained]) -> None:
    """Raise JobError 46 where two adapters were scored at different timesteps."""
    for each in trained[1:]:
        if not np.array_equal(each.base.timesteps_NT, trained[0].base.timesteps_NT):
            raise JobError(
                ExitCode.CONFLICT,
                f"{run.uri(layout.validation_losses(each.member, 0))} has other timesteps than other adapters.",
                "Restore it, or run under another name: --set name=...",
            )


def _environment(run: RunFolder) -> dict[str, Any]:
    """The run's `environment.json`. Raises JobError 46 where it is missing."""
    value = run.read_json(layout.ENVIRONMENT)
    if value is None:
        raise missing(run, layout.ENVIRONMENT)
    return value


def _captions(run: RunFolder, name: str) -> list[CaptionRecord]:
    """The captions of a set. Raises JobError 46 where the set holds no caption."""
    captions = rows(run, layout.captions(name), CaptionRecord)
    if not captions:
        raise missing(run, layout.captions(name))
    return captions


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


def _fair(members: Sequence[MemberReport], pairs: Sequence[Pair]) -> dict[str, bool]:
    """For each seed, whether all its pairs are like for like."""
    unlike = {pair.seed for pair in pairs if pair.seed is not None and not pair.like_for_like}
    return {str(seed): seed not in unlike for seed in dict.fromkeys(member.seed for member in members)}


def _timing(run: RunFolder, packs: int) -> dict[str, dict[str, float]]:
    """The seconds of each stage, by unit, over all attempts."""
    units = ["prepare", *(f"pack-{index}" for index in range(packs))]
    statuses = {unit: run.read_stored(layout.unit_status(unit), Status) for unit in units}
    return {unit: status.stages if status else {} for unit, status in statuses.items()}


def _notes(
    resolved: Resolved, members: Sequence[MemberReport], pairs: Sequence[Pair], *, is_earlier: bool
) -> list[str]:
    notes = ["Loss is denoising error on held-out images, not picture quality: a lower loss need not look better."]
    if is_earlier:
        notes.append(
            "An earlier version began this run. Its curve, and with it the choice of the best checkpoints, is the mean "
            "over all caption sets; whether adapters listen to their prompts was not measured."
        )
    if pairs and all(pair.seed is not None for pair in pairs):
        notes.append(
            f"With fewer than {FEWEST_SEEDS} seeds, a verdict is that of these adapters, not of the caption strategies."
        )
    notes += [
        f"{m.variant}, seed {m.seed}, has stopped reading its prompt: another image's caption costs it "
        f"{m.listening.mean:.2g}, and the base model {m.listening.base:.2g}."
        for m in members
        if m.listening is not None and m.listening.flagged
    ]
    notes += [
        f"The difference of {p.a} and {p.b}, seed {p.seed}, is strongly skewed over the held-out images (skew "
        f"{p.skew:.1f}): a few of them decide it, and its interval may be too narrow. More held-out images would tell."
        for p in pairs
        if p.seed is not None and p.skew is not None and abs(p.skew) > STRONG_SKEW and p.groups < SKEW_GROUPS
    ]
    for pack in resolved.packs:
        if pack.differs:
            names = ", ".join(dict.fromkeys(member.variant for member in pack.members))
            notes.append(f"Not in captions alone: {names} also differ in {', '.join(pack.differs)}.")
    notes += [
        f"{m.variant}, seed {m.seed}, diverged and was frozen at step {m.diverged_at}; it is not compared."
        for m in members
        if m.diverged_at is not None
    ]
    if not resolved.fenced:
        notes.append("The store ignores conditional writes: nothing kept a second process from writing this run.")
    notes += [
        f"{p.a} and {p.b}, seed {p.seed}, did not see the same: {', '.join(p.withheld)}."
        for p in pairs
        if p.seed is not None and p.withheld
    ]
    return notes
