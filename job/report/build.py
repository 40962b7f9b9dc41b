"""Builds the comparison from a run's artifacts alone: equal artifacts give an equal report."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from job import layout
from job.errors import ExitCode, JobError
from job.layout import Member
from job.report.artefacts import missing, rows, stored
from job.report.factors import factors_of
from job.report.headline import study_verdict
from job.report.members import Trained, read_member
from job.report.notes import notes
from job.report.pairs import compare_pairs
from job.report.picture_schema import VariantPictures
from job.report.pictures import Pictures, study_pictures
from job.report.rating.door import read_ratings
from job.report.schema import (
    Comparison,
    DataCounts,
    MemberReport,
    PackReport,
    Pair,
)
from job.run.held_out import held_out
from job.run.own_captions import OwnCaptionFacts
from job.run.resolved import PackDecision, Resolved
from job.run.status import Status
from job.run.unverified import unverified_notes
from job.storage.folder import RunFolder
from lora_engine.captions.lint import lint
from lora_engine.config.data import PreprocessConfig
from lora_engine.evaluation.loss_file import NotScoredError
from lora_engine.images.fates import fates_of
from lora_engine.records import CaptionRecord, ImageRecord


def build_comparison(run: RunFolder, pictures: Pictures | None = None) -> Comparison:
    """Compare the adapters of a run that has trained all of them.

    Args:
        pictures: the study's samples; None to read them.

    Raises:
        JobError: 46 when a file is missing or two files contradict each other.
    """
    resolved = stored(run, layout.RESOLVED, Resolved)
    images = rows(run, layout.IMAGES, ImageRecord)
    captions = {name: _captions(run, name) for name in resolved.caption_sets}
    scored = held_out(run, resolved, images, captions)
    pictures = pictures or study_pictures(run)
    try:
        trained = [
            read_member(run, resolved, scored, pack.index, member, pictures)
            for pack in resolved.packs
            for member in pack.members
        ]
        _require_equal_timesteps(run, trained)
        pairs = compare_pairs(resolved, scored, trained, factors_of(resolved, scored, captions), pictures)
    except NotScoredError as error:
        raise JobError(
            ExitCode.CONFLICT,
            f"An adapter of {run.root} cannot be compared: {error}.",
            "Restore its folder validation/, or run under another name: --set name=...",
        ) from error
    members = [each.report for each in trained]
    variants = list(dict.fromkeys(member.variant for member in members))
    ratings = read_ratings(run, resolved, pictures, variants, pairs)
    share, groups = resolved.manifest.evaluation.equivalence_margin, len(set(scored.groups))
    fair = _fair(members, pairs)
    return Comparison(
        name=resolved.manifest.name,
        verdict=study_verdict(pairs, members, groups, share, ratings),
        scoring=resolved.scoring,
        curve_timesteps=resolved.manifest.evaluation.timesteps,
        data=DataCounts(**asdict(fates_of(images, _resolution(resolved)))),
        data_sha256=resolved.data_sha256,
        models=resolved.models.model_dump(mode="json"),
        packs=[_pack(pack) for pack in resolved.packs],
        members=members,
        variants=_variants(trained, pictures),
        pairs=pairs,
        clip_sha256=pictures.clip_sha256,
        likeness=pictures.likeness(),
        ratings=ratings,
        fair=fair,
        captions={
            name: asdict(lint(records, may_repeat=_is_constant(resolved, name))) for name, records in captions.items()
        },
        own_captions=run.read_stored(layout.OWN_CAPTIONS, OwnCaptionFacts),
        timing=_timing(run, len(resolved.packs)),
        environment=_environment(run),
        notes=[*notes(resolved, members, pairs, is_earlier=scored.is_earlier), *unverified_notes(run)],
    )


def _variants(trained: Sequence[Trained], pictures: Pictures) -> list[VariantPictures]:
    """The last pictures of each variant whose adapters all have some."""
    members: dict[str, list[Member]] = {}
    for each in trained:
        members.setdefault(each.member.variant, []).append(each.member)
    return [found for of in members.values() if (found := pictures.variant(of)) is not None]


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


def _is_constant(resolved: Resolved, caption_set: str) -> bool:
    """Whether one caption for all images is what the variant asks for by which the set is named."""
    return resolved.identity.variants[caption_set].captions.get("strategy") == "constant"


def _resolution(resolved: Resolved) -> int:
    """The side in pixels that images were brought to; what the run stored need not be one."""
    stored = resolved.identity.preprocess.get("resolution")
    return stored if isinstance(stored, int) else PreprocessConfig().resolution


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
