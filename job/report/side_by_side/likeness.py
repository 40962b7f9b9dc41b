"""What runs have to have in common for their numbers to be compared, and in words why some cannot be."""

from collections.abc import Callable, Mapping
from typing import Any

from job.report.side_by_side.runs import FinishedRun
from job.report.side_by_side.schema import Alike, Unlike
from lora_engine.evaluation.pictures import MEASURES

Facts = Mapping[str, Any]
Words = Mapping[str, Callable[[Any, Any], str]]  # fact to why runs that differ in it cannot be compared

COPIES = "copies"
_OF_CLIP = {"clip_score", "clip_retrieval", "diversity", "similarity", "kid", "cmmd"}
_OF_IMAGES = {"line_art_distance", "line_art_training_distance", "line_art_gap", "similarity", "kid", "cmmd", COPIES}
# Keys of `preprocess` that decide which images there are, and not what becomes of one.
_CHOOSING = {"deduplicate", "near_duplicate_distance", "max_pixels", "max_rejected_fraction", "resolution"}

_OF_PROMPTS = {"sizes", "seeds", "settings"}  # facts that are a list, with an entry a prompt


def _always(reason: str) -> Callable[[Any, Any], str]:
    return lambda _a, _b: reason


_LOSSES: Words = {
    "resolution": lambda a, b: f"losses at {a} and {b} pixels are of other latents",
    "preprocess": lambda a, b: f"their images are prepared otherwise ({', '.join(_unequal(a, b))})",
    "base_model": _always("they are of other base models"),
    "base_model_as": lambda a, b: f"their base model is used otherwise ({', '.join(_unequal(a, b))})",
    "held_out": _always("their held-out images are not the same"),
    "captions": _always("the captions of their held-out images are not the same"),
    "weights": _always("their captions are weighted otherwise"),
    "timesteps": lambda a, b: f"they are scored at other timesteps ({_listed(a)} and {_listed(b)} an image)",
    "scoring": _always("other versions scored them"),
}
_PICTURES: Words = {
    "prompts": _always("other prompts"),
    "sizes": _always("other sizes"),
    "seeds": _always("other seeds"),
    "settings": _always("other sampler settings"),
    "clip": _always("another CLIP model, or none"),
    "images": _always("other images to compare with"),
}


def _unequal(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def _listed(values: tuple[int, ...]) -> str:
    return "/".join(map(str, values))


def alike_losses(runs: Mapping[int, FinishedRun], variant: str) -> Alike:
    """Which of the runs, all of which have the variant, have losses of it that are like for like."""
    return _alike({at: _loss_facts(run, variant) for at, run in runs.items()}, _LOSSES)


def _loss_facts(run: FinishedRun, variant: str) -> Facts:
    identity, evaluation = run.resolved.identity, run.resolved.manifest.evaluation
    captions = identity.variants[variant].captions
    parts = captions.get("parts")
    return {
        "resolution": identity.preprocess.get("resolution"),
        "preprocess": {key: value for key, value in identity.preprocess.items() if key not in _CHOOSING},
        "base_model": identity.base_model,
        "base_model_as": identity.base_model_as,
        "held_out": run.held_out,
        "captions": run.held_out_captions(variant),
        "weights": (
            captions.get("caption_dropout"),
            [part.get("weight") if isinstance(part, Mapping) else part for part in parts]
            if isinstance(parts, list)
            else None,
        ),
        "timesteps": (evaluation.timesteps, evaluation.final_timesteps),
        "scoring": run.resolved.scoring,
    }


def alike_measures(runs: Mapping[int, FinishedRun]) -> dict[str, Alike]:
    """For each measure of pictures, which of the runs that have some can be compared in it."""
    facts = {at: _picture_facts(run) for at, run in runs.items() if run.drawn}
    return {
        measure: _alike({at: _of_measure(each, measure) for at, each in facts.items()}, _PICTURES)
        for measure in (*MEASURES, COPIES)
    }


def _of_measure(facts: Facts, measure: str) -> Facts:
    left_out = (set() if measure in _OF_CLIP else {"clip"}) | (set() if measure in _OF_IMAGES else {"images"})
    return {name: value for name, value in facts.items() if name not in left_out}


def _picture_facts(run: FinishedRun) -> Facts:
    index = next(iter(run.drawn.values()))
    settings, identity = index.settings, run.resolved.identity
    return {
        "prompts": settings.prompts,
        "sizes": [(each.width, each.height) for each in settings.settings],
        "seeds": index.drawn,
        "settings": (
            [(each.steps, each.guidance, each.negative, each.strength) for each in settings.settings],
            # The sampler that a base model brings along may be another than that of another one.
            settings.sampler or identity.base_model,
            identity.base_model_as,
        ),
        "clip": settings.clip_sha256,
        "images": (identity.data, run.held_out, identity.preprocess),
    }


def _alike(facts: Mapping[int, Facts], words: Words) -> Alike:
    """Runs of equal facts in groups, and why two groups are not alike."""
    groups: list[list[int]] = []
    for at in facts:
        mine = next((group for group in groups if facts[group[0]] == facts[at]), None)
        if mine is None:
            groups.append([at])
        else:
            mine.append(at)
    unlike = [
        Unlike(
            runs=[a[0], b[0]],
            reasons=_reasons(facts[a[0]], facts[b[0]], words),
        )
        for place, a in enumerate(groups)
        for b in groups[place + 1 :]
    ]
    return Alike(groups=groups, unlike=unlike)


def _reasons(a: Facts, b: Facts, words: Words) -> list[str]:
    """Why two runs cannot be compared. What each prompt was drawn with says nothing where the prompts are others."""
    differ = [name for name in words if name in a and a[name] != b[name]]
    told = [name for name in differ if name not in _OF_PROMPTS] if "prompts" in differ else differ
    return [words[name](a[name], b[name]) for name in told]
