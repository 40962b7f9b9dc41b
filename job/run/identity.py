"""The identity of a run: the values in which all starts under one name have to agree."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, SerializerFunctionWrapHandler, TypeAdapter, ValidationError, model_serializer

from job.manifest.models import BaseModelConfig
from job.manifest.overrides import different_fields
from job.manifest.packs import NO_STARTS, ResolvedVariant, Starts, resolve_variants
from job.manifest.schema import Manifest
from job.storage.stored import StoredJson
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.captions import CAPTIONER, CaptionsConfig
from lora_engine.config.data import PreprocessConfig, SplitConfig
from lora_engine.config.evaluation import EvaluationConfig
from lora_engine.config.models import BaseModelUse, CaptionerConfig
from lora_engine.config.training import TrainingConfig
from lora_engine.text import shortened

RESTORE_OR_RENAME = "Restore what it was to go on with that run, or give this one another name: --set name=..."
_ONLY_CONSTANT = (
    "training.steps may only grow, and only where training.schedule.name is constant and has no warmup_share: other "
    "schedules' rates depend on them."
)
_CONTINUE = (
    "To train its adapters on under other settings, give the run another name and let it start from their files: "
    "lora.init_from. Latents, embeddings and captions come from the cache, where they are the same."
)
_NEWER_FIELDS = ("captioners", "base_model_as", "own_captions")  # of an identity, which earlier versions did not write
# What a person calls the fields of an identity that stand elsewhere in a manifest, by how they begin.
_IN_A_MANIFEST = {"base_model_as.": "base_model.", "split.": "dataset."}
_LONGER = (["training", "steps"], ["training", "schedule"])  # what is changed by who wants to train for longer
_MOST_NAMED = 8  # fields, in a sentence
_NOT_IDENTITY = {"source", "revision", "allow_pickle"}  # keys of a captioner, for which the hash of its files stands
# keys of the evaluation that decide what losses and verdicts mean
_SCORING = {"every", "timesteps", "final_timesteps", "batch_size", "pairs", "equivalence_margin"}
_NEWER = {"batch_size", "pairs", "equivalence_margin"}  # of these, a run of the first version accepts any value
_AS_ITS_FILES_SAY: dict[str, Any] = BaseModelUse().model_dump(mode="json")
_CAPTIONS: TypeAdapter[Any] = TypeAdapter(CaptionsConfig)


class VariantIdentity(StoredJson):
    """One variant, with its overrides merged in."""

    captions: dict[str, Any]
    lora: dict[str, Any]
    training: dict[str, Any]
    seed_offset: int = 0


class Identity(StoredJson):
    """The values in which all starts of one run agree.

    Keys that only a later version knows are kept, so that they count as differences.
    """

    model_config = ConfigDict(extra="allow")

    seeds: tuple[int, ...]
    base_model: str  # SHA-256 of its files
    # How it is used, where that is not as its files say, and the hashes of its VAE and of what is merged into it.
    base_model_as: dict[str, Any] = {}
    data: str  # SHA-256 of the images that are used
    own_captions: str | None = None  # see `Images`; None where an earlier version began the run, too
    split: dict[str, Any]
    preprocess: dict[str, Any]
    captioner: dict[str, Any] | None  # the one of that name
    captioners: dict[str, dict[str, Any]] = {}  # the others by their names
    evaluation: dict[str, Any]
    split_packs_by: tuple[str, ...] = ()
    variants: dict[str, VariantIdentity]

    @model_serializer(mode="wrap")
    def _without_what_none_has(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What a run does not use is not written, as by versions that did not know of it."""
        values: dict[str, Any] = dump(self)
        return {key: value for key, value in values.items() if value or key not in _NEWER_FIELDS}


def model_name(captioner: str) -> str:
    """What the captioner of that name is called among a run's models."""
    return captioner if captioner == CAPTIONER else f"captioners.{captioner}"


def merged_name(at: int) -> str:
    """What the LoRA at that place of `base_model.merge` is called among a run's models."""
    return f"merge.{at}"


def start_name(variant: str) -> str:
    """What the file that a variant's adapters start from is called among a run's models."""
    return f"start.{variant}"


def identity(
    manifest: Manifest,
    *,
    data_sha256: str,
    models: Mapping[str, str],
    own_captions: str | None = None,
    starts: Starts = NO_STARTS,
) -> Identity:
    """The identity of the manifest's run.

    The split decides which images are held out, and the evaluation's timesteps what the losses mean, so they belong to
    it. Limits, storage, destinations and samples do not.

    Args:
        data_sha256: the hash of the images that are used.
        models: the hashes of the files of `base`, of the `vae` that it is used with, of `captioner`, and of
            `captioners.NAME` for the others, see `model_name`; of what is merged, see `merged_name`; and of what
            variants start from, see `start_name`; of those that the run has had so far.
        own_captions: see `Images`.
        starts: see `resolve_variants`.
    """
    captioners = {
        name: captioner.model_dump(mode="json", exclude=_NOT_IDENTITY) | {"sha256": models.get(model_name(name))}
        for name, captioner in manifest.named_captioners().items()
    }
    return Identity(
        seeds=manifest.seeds,
        base_model=models["base"],
        base_model_as=_base_model_as(manifest.base_model, models),
        data=data_sha256,
        own_captions=own_captions,
        split=manifest.dataset.split.model_dump(mode="json"),
        preprocess=manifest.preprocess.model_dump(mode="json"),
        captioner=captioners.get(CAPTIONER),
        captioners={name: values for name, values in captioners.items() if name != CAPTIONER},
        evaluation=manifest.evaluation.model_dump(mode="json", include=_SCORING),
        split_packs_by=tuple(sorted(set(manifest.split_packs_by))),
        variants={
            variant.name: VariantIdentity(
                captions=variant.captions.model_dump(mode="json"),
                lora=_lora(variant, models),
                training=variant.training.model_dump(mode="json"),
                seed_offset=variant.seed_offset,
            )
            for variant in resolve_variants(manifest, starts=starts)
        },
    )


def _base_model_as(config: BaseModelConfig, models: Mapping[str, str]) -> dict[str, Any]:
    made = config.use.model_dump(mode="json", exclude_defaults=True)
    if config.vae is not None:
        made["vae"] = models.get("vae")
    if config.merge:
        made["merge"] = [
            {"sha256": models.get(merged_name(at)), "strength": each.strength} for at, each in enumerate(config.merge)
        ]
    return made


def _lora(variant: ResolvedVariant, models: Mapping[str, str]) -> dict[str, Any]:
    """The settings of an adapter, in which the hash of the file that it starts from stands for the place of it."""
    values = variant.lora.model_dump(mode="json")
    if variant.lora.init_from is not None:
        values["init_from"] = models.get(start_name(variant.name), "")
    return values


def identity_conflicts(stored: Identity, current: Identity) -> tuple[str, ...]:
    """The dotted fields whose values keep a stored identity and the current one from being the same run.

    `steps` may have grown under a constant schedule without a `warmup_share`, whose rate does not depend on them.
    """
    return tuple(field for field in _different(stored, current) if not _steps_grew(field, stored, current))


def differences(fields: Sequence[str], stored: Identity, current: Identity) -> str:
    """The fields in which two identities differ, each with its value in the one and in the other."""
    before, now = _compared(stored, current)
    named = [
        f"{_key_of(field)} ({_change(field, _at(before, field), _at(now, field))})" for field in fields[:_MOST_NAMED]
    ]
    more = f" and {len(fields) - _MOST_NAMED} more" * (len(fields) > _MOST_NAMED)
    return ", ".join(named) + more


def way_on(fields: Sequence[str]) -> str:
    """What somebody can do whose manifest differs from the run in these fields."""
    asked = [field.split(".")[2:] for field in fields if field.startswith("variants.")]
    says = [_ONLY_CONSTANT] * (["training", "steps"] in asked) + [RESTORE_OR_RENAME]
    return " ".join(says + [_CONTINUE] * any(key[:2] in _LONGER for key in asked))


def _key_of(field: str) -> str:
    """The manifest's key that decides the field."""
    begin = next((begin for begin in _IN_A_MANIFEST if field.startswith(begin)), "")
    return _IN_A_MANIFEST.get(begin, "") + field.removeprefix(begin)


def _at(values: Any, field: str) -> Any:
    """The value of a dotted field; None where there is none."""
    for part in field.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _change(field: str, before: Any, now: Any) -> str:
    if field.startswith("variants.") and field.count(".") == 1:  # all of a variant, of which its name says enough
        return "not in the run" if before is None else "not in the manifest"
    return f"{_shown(before)} -> {_shown(now)}"


def _shown(value: Any) -> str:
    """A value for a person: of a hash its beginning, of others at most so much that it fits a line."""
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return f"SHA-256 {value[:12]}..."
    return "none" if value is None else shortened(json.dumps(value, ensure_ascii=False), 60)


def has_more_steps(stored: Identity, current: Identity) -> bool:
    """Whether the current identity, which does not conflict with the stored one, has more steps to train."""
    return bool(_different(stored, current))


def _different(stored: Identity, current: Identity) -> list[str]:
    return different_fields(*_compared(stored, current), "")


def _compared(stored: Identity, current: Identity) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both as they are compared: where the stored one is of an earlier version, without what that left open."""
    now = current.model_dump(mode="json")
    now["base_model_as"] = _AS_ITS_FILES_SAY | current.base_model_as
    before = _with_defaults(stored)
    for name in stored.variants.keys() & current.variants.keys():
        captions = before["variants"][name]["captions"]
        _join_lines(captions, stored.variants[name].captions, current.variants[name].captions)
    before["evaluation"] = {key: now["evaluation"].get(key) for key in _NEWER} | before["evaluation"]
    if stored.own_captions is None:
        now.pop("own_captions", None)
    return before, now


def _join_lines(filled: dict[str, Any], stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Have `filled` join lines where `now` asks for it: so did earlier versions, which had no key for it."""
    if "lines" not in stored and now.get("lines") == "join":
        filled["lines"] = "join"
    parts = (captions.get("parts", ()) for captions in (filled, stored, now))
    for part, stored_part, part_now in zip(*parts, strict=False):
        _join_lines(part["captions"], stored_part["captions"], part_now["captions"])


def _with_defaults(stored: Identity) -> dict[str, Any]:
    """A stored identity, to which fields that are newer than it are added with their defaults."""
    generating = CaptionerConfig(source="unknown").model_dump(mode="json", exclude=_NOT_IDENTITY)
    others = {name: generating | captioner for name, captioner in stored.captioners.items()}
    return stored.model_dump(mode="json") | {
        "base_model_as": _AS_ITS_FILES_SAY | stored.base_model_as,
        "split": SplitConfig().model_dump(mode="json") | stored.split,
        "preprocess": PreprocessConfig().model_dump(mode="json") | stored.preprocess,
        "captioner": None if stored.captioner is None else generating | stored.captioner,
        **({"captioners": others} if others else {}),
        "evaluation": EvaluationConfig().model_dump(mode="json", include=_SCORING - _NEWER) | stored.evaluation,
        "variants": {
            name: {
                "captions": _filled(_CAPTIONS, variant.captions),
                "lora": _filled(TypeAdapter(LoraConfig), variant.lora),
                "training": _filled(TypeAdapter(TrainingConfig), variant.training),
                "seed_offset": variant.seed_offset,
            }
            for name, variant in stored.variants.items()
        },
    }


def _filled(kind: TypeAdapter[Any], stored: Any) -> Any:
    """The stored value with the fields and defaults of today's model.

    It is unchanged where today's model does not accept it, and then shows as a difference.
    """
    try:
        return kind.dump_python(kind.validate_json(json.dumps(stored)), mode="json")
    except ValidationError:
        return stored


def _steps_grew(field: str, stored: Identity, current: Identity) -> bool:
    """Whether the field is a variant's `training.steps`, and these have grown where no rate depends on them."""
    parts = field.split(".")
    if parts[0] != "variants" or parts[2:] != ["training", "steps"]:
        return False
    before, after = (which.variants[parts[1]].training.get("steps") for which in (stored, current))
    grew = isinstance(before, int) and isinstance(after, int) and after > before
    schedule = current.variants[parts[1]].training["schedule"]
    return grew and schedule["name"] == "constant" and schedule.get("warmup_share") is None
