"""What two variants differ in, and which differences between the hashes of their training that explains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from job.manifest.overrides import OVERRIDABLE, different_fields
from job.report.members import Trained
from job.run.held_out import HeldOut
from job.run.identity import VariantIdentity
from job.run.resolved import Resolved
from job.storage import name_of
from lora_engine.records import CaptionRecord, StepRecord

CAPTIONS = "captions"
SEED_OFFSET = "seed_offset"

_WEIGHTS, _ORDER, _TIMESTEPS, _NOISE = (
    "initial_weights_sha256",
    "order_sha256",
    "timesteps_sha256",
    "noise_sha256",
)
_START = "lora.init_from"
_SHAPES = (  # that decide the initial weights
    "lora.rank",
    "lora.conv_rank",
    "lora.patterns",
    "lora.kind",
    "lora.target_modules",
    "lora.text_encoder.rank",
    _START,
)
_OF_CONVOLUTIONS = ("lora.conv_rank", "lora.conv_alpha")
_TEXT_ENCODER, _PATTERNS = "lora.text_encoder", "lora.patterns"
_EXPLAINED: Mapping[str, tuple[str, ...]] = {  # factor to the hashes that may differ with it
    **dict.fromkeys(_SHAPES, (_WEIGHTS,)),
    "training.timesteps": (_TIMESTEPS,),
    "training.random_flip": (_ORDER,),  # the order names mirror images as such
    SEED_OFFSET: (_WEIGHTS, _ORDER, _TIMESTEPS, _NOISE),
}
_REQUIRED: Mapping[str, dict[str, Any]] = {"lora": {}, "training": {"steps": 1}}  # keys that have no default


@dataclass(frozen=True)
class Factor:
    """What two variants differ in."""

    names: tuple[str, ...]  # captions, and dotted keys of the manifest
    values: Mapping[str, tuple[Any, Any]]  # of each of these keys, in the one and in the other
    explained: frozenset[str]  # the hashes that may differ with these


def factors_of(
    resolved: Resolved, held_out: HeldOut, captions: Mapping[str, Sequence[CaptionRecord]]
) -> dict[tuple[str, str], Factor]:
    """What the two variants of each compared pair differ in."""
    variants, own = resolved.identity.variants, held_out.components.own
    result = {}
    for a, b in held_out.pairs:
        texts = [[(record.id, record.texts) for record in captions[resolved.set_of_variant[name]]] for name in (a, b)]
        same = texts[0] == texts[1] and own[a] == own[b]
        values = _settings(variants[a], variants[b])
        if _START in values:  # A hash stands for the file in an identity; a person knows it by its place.
            values[_START] = (_start_of(resolved, a), _start_of(resolved, b))
        names = (() if same else (CAPTIONS,)) + tuple(values)
        explained = {
            field for name in names for key, fields in _EXPLAINED.items() if _is_below(name, key) for field in fields
        }
        if _TEXT_ENCODER in names:  # which only one of them trains; its rates do not change what it begins with
            explained.add(_WEIGHTS)
        if _images_per_step(variants[a]) != _images_per_step(variants[b]):
            explained |= {_ORDER, _TIMESTEPS, _NOISE}  # updates of unlike size draw unlike much
        result[a, b] = Factor(names, values, frozenset(explained))
    return result


def _start_of(resolved: Resolved, variant: str) -> str | None:
    decision = resolved.models.starts.get(variant)
    return None if decision is None else f"{name_of(decision.source)} {decision.sha256[:8]}"


def _settings(a: VariantIdentity, b: VariantIdentity) -> dict[str, tuple[Any, Any]]:
    """The settings in which two variants differ, as dotted keys, with the values of both.

    Where one chose another optimizer, schedule or the like, that is its `name`; what comes with the name is no
    difference of its own: a key that the other has not, or one that both left at its default.
    """
    both = [{"lora": each.lora, "training": each.training} for each in (a, b)]
    unlike = [key for name in both[0] for key in different_fields(both[0][name], both[1][name], name)]
    keys = list(dict.fromkeys(_PATTERNS if _is_below(key, _PATTERNS) else key for key in unlike))
    chosen = {key.rpartition(".")[0] for key in keys if key.endswith(".name")}
    found = {}
    for key in keys:
        section, _, last = key.rpartition(".")
        sections = [_at(each, section) for each in both]
        if (
            last == "name"
            or section not in chosen
            or not all(_comes_with_name(each, section, last) for each in sections)
        ):
            found[key] = (_at(both[0], key), _at(both[1], key))
    if "lora.target_modules" in found:  # with which the sizes come of convolutions that the other has none of
        found = {k: values for k, values in found.items() if k not in _OF_CONVOLUTIONS or None not in values}
    if a.seed_offset != b.seed_offset:
        found[SEED_OFFSET] = (a.seed_offset, b.seed_offset)
    return found


def _comes_with_name(settings: Mapping[str, Any], section: str, key: str) -> bool:
    """Whether a key of a section that has a `name` says no more than the name: it is not there, or at its default."""
    if key not in settings:
        return True
    parts = section.split(".")
    model = dict(OVERRIDABLE)[parts[0]]
    nested: Any = {key: settings[key] for key in ("name",) if key in settings}
    for part in reversed(parts[1:]):
        nested = {part: nested}
    try:
        defaults = model.model_validate(_REQUIRED[parts[0]] | nested, strict=False).model_dump(mode="json")
    except ValidationError:  # a name that another version knows
        return False
    return bool(_at({parts[0]: defaults}, f"{section}.{key}") == settings[key])


def _at(settings: Any, key: str) -> Any:
    """The value under a dotted key; None where there is none."""
    for part in key.split("."):
        settings = settings.get(part) if isinstance(settings, Mapping) else None
    return settings


def _is_below(name: str, key: str) -> bool:
    return name == key or name.startswith(f"{key}.")


def _images_per_step(variant: VariantIdentity) -> int:
    training = variant.training
    return int(training.get("batch_size", 1)) * int(training.get("gradient_accumulation", 1))


def hashes_that_differ(a: Trained, b: Trained, factor: Factor) -> list[str]:
    """The hashes of the initial weights and of what was drawn, in which two adapters differ without an explanation.

    Draws are compared up to the fewer steps.
    """
    steps = min(len(a.metrics), len(b.metrics))
    first, second = (
        {_WEIGHTS: each.report.fairness.initial_weights_sha256} | _draws(each.metrics[:steps]) for each in (a, b)
    )
    return [field for field in first if first[field] != second[field] and field not in factor.explained]


def _draws(metrics: Sequence[StepRecord]) -> dict[str, list[str]]:
    """The hashes of each step's draws."""
    return {field: [str(getattr(row, field)) for row in metrics] for field in (_ORDER, _TIMESTEPS, _NOISE)}
