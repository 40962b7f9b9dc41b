"""Puts finished runs side by side, from their reports alone."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from job.manifest.overrides import flat
from job.report.picture_schema import Memorised, VariantPictures
from job.report.side_by_side.likeness import alike_losses, alike_measures
from job.report.side_by_side.runs import FinishedRun
from job.report.side_by_side.schema import (
    BesidePictures,
    Copies,
    MemberLosses,
    RunLosses,
    RunPart,
    RunPictures,
    Setting,
    SideBySide,
    VariantLosses,
)

_TOLD = 3  # settings that the sentence names, at most
_NOTES = (
    "Beside each other is not compared: no verdict is made across runs, and each run's own sentence is of itself. For "
    "a verdict, train both as variants of one run.",
    "Loss is denoising error on held-out images, not picture quality: a lower loss need not look better.",
)


def build_side_by_side(runs: Sequence[FinishedRun]) -> SideBySide:
    """Put the runs, two or more, side by side.

    Raises:
        JobError: 46 where captions or samples that a run's report is of are missing.
    """
    labels, settings, losses = _labels(runs), _settings(runs), _losses(runs)
    return SideBySide(
        sentence=_sentence(labels, settings, losses),
        runs=[
            RunPart(
                label=label,
                name=run.comparison.name,
                folder=run.folder.root,
                sentence=run.comparison.verdict.sentence,
            )
            for label, run in zip(labels, runs, strict=True)
        ],
        settings=settings,
        losses=losses,
        pictures=_pictures(runs),
        measures=alike_measures(dict(enumerate(runs))),
        notes=list(_NOTES),
    )


def _labels(runs: Sequence[FinishedRun]) -> list[str]:
    """The name of each run, with its folder where another has the same."""
    count = Counter(run.comparison.name for run in runs)
    names = [(run.comparison.name, run.folder.root) for run in runs]
    return [name if count[name] == 1 else f"{name} ({root})" for name, root in names]


def _variants(runs: Sequence[FinishedRun]) -> list[str]:
    return list(dict.fromkeys(variant for run in runs for variant in run.variants))


def _having(runs: Sequence[FinishedRun], variant: str) -> dict[int, FinishedRun]:
    return {at: run for at, run in enumerate(runs) if variant in run.variants}


def _settings(runs: Sequence[FinishedRun]) -> list[Setting]:
    """The settings in which the runs differ."""
    shared = [variant for variant in _variants(runs) if len(_having(runs, variant)) == len(runs)]
    every = [_settings_of(run, shared) for run in runs]
    keys = dict.fromkeys(key for settings in every for key in settings)
    found = [(key, [_as_json(settings[key]) if key in settings else None for settings in every]) for key in keys]
    return [Setting(key=key, values=values) for key, values in found if len(set(values)) > 1]


def _settings_of(run: FinishedRun, shared: Sequence[str]) -> dict[str, Any]:
    """Dotted key to value: the run's identity, and what else decides its numbers and pictures."""
    resolved = run.resolved
    identity = resolved.identity.model_dump(mode="json")
    variants: dict[str, dict[str, Any]] = identity.pop("variants")
    extra = {
        "base_model": {"source": resolved.models.base.source, "sha256": identity.pop("base_model")}
        | identity.pop("base_model_as", {}),
        "precision": list(dict.fromkeys(pack.precision for pack in resolved.packs)),
        "scoring": resolved.scoring,
        "samples": resolved.manifest.evaluation.samples,
    }
    of_variants = {name: flat(values) for name, values in variants.items()}
    common = _common(of_variants)
    result = flat(identity | extra) | common
    for name, values in of_variants.items():
        if name in shared:
            result |= {f"variants.{name}.{key}": value for key, value in values.items() if key not in common}
        else:
            result[f"variants.{name}"] = variants[name].get("captions")
    templates = {variant.name: variant.prompt_template for variant in resolved.manifest.variants}
    return result | {f"variants.{name}.prompt_template": templates.get(name) for name in shared}


def _common(variants: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The settings that all variants have, with one value."""
    first, *others = variants.values()
    return {key: value for key, value in first.items() if all(key in each and each[key] == value for each in others)}


def _as_json(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _losses(runs: Sequence[FinishedRun]) -> list[VariantLosses]:
    """The losses of variants that several runs have, of those that are like for like."""
    result = []
    for variant in _variants(runs):
        having = _having(runs, variant)
        if len(having) > 1:
            alike = alike_losses(having, variant)
            told = [at for group in alike.groups if len(group) > 1 for at in group]
            losses = [RunLosses(run=at, members=_members(having[at], variant)) for at in told]
            result.append(VariantLosses(variant=variant, alike=alike, runs=losses))
    return result


def _members(run: FinishedRun, variant: str) -> list[MemberLosses]:
    return [
        MemberLosses(
            seed=member.seed,
            steps=member.steps,
            best_step=None if member.best is None else member.best.step,
            base_loss=member.base_loss,
            final_loss=member.final_loss,
            gain=member.gain,
        )
        for member in run.members(variant)
    ]


def _pictures(runs: Sequence[FinishedRun]) -> list[BesidePictures]:
    found: dict[str, list[RunPictures]] = {}
    for at, run in enumerate(runs):
        for pictures in run.comparison.variants:
            found.setdefault(pictures.variant, []).append(_of_run(at, pictures))
    return [BesidePictures(variant=variant, runs=of) for variant, of in found.items()]


def _of_run(at: int, pictures: VariantPictures) -> RunPictures:
    memorised = pictures.memorised
    return RunPictures(
        run=at,
        seeds=pictures.seeds,
        bare=pictures.bare,
        as_trained=pictures.as_trained,
        copies_bare=None if memorised is None else _copies(memorised.bare),
        copies_as_trained=None if memorised is None or memorised.as_trained is None else _copies(memorised.as_trained),
    )


def _copies(found: Memorised) -> Copies:
    return Copies(pictures=found.pictures, copies=len(found.copies), share=found.share)


def _sentence(labels: Sequence[str], settings: Sequence[Setting], losses: Sequence[VariantLosses]) -> str:
    """What the runs differ in, and whether their losses stand beside each other."""
    named = f"{', '.join(labels[:-1])} and {labels[-1]}"
    keys = [setting.key for setting in settings]
    more = f" and {len(keys) - _TOLD} more settings" if len(keys) > _TOLD else ""
    differ = f"{named} differ in {', '.join(keys[:_TOLD])}{more}" if keys else f"{named} have the same settings"
    if not losses:
        return f"{differ}; no variant is in two of them, so that no losses stand beside each other."
    reasons = dict.fromkeys(reason for each in losses for pair in each.alike.unlike for reason in pair.reasons)
    if not reasons:
        return f"{differ}; their losses are like for like."
    some = "some of their losses are" if any(each.runs for each in losses) else "their losses are"
    return f"{differ}; {some} withheld: {'; '.join(reasons)}."
