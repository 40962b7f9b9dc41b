"""What makes a run the same run: two starts of one name must agree on it."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from job.manifest.overrides import different_fields
from job.manifest.packs import resolve_variants
from job.manifest.schema import Manifest
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.captions import CaptionsConfig
from lora_engine.config.data import PreprocessConfig, SplitConfig
from lora_engine.config.evaluation import EvaluationConfig
from lora_engine.config.models import CaptionerConfig
from lora_engine.config.training import TrainingConfig

_NOT_IDENTITY = {"source", "revision", "allow_pickle"}  # of a captioner: its files' hash says more
_SCORING = {"every", "timesteps", "final_timesteps"}
_CAPTIONS: TypeAdapter[Any] = TypeAdapter(CaptionsConfig)


def identity(manifest: Manifest, *, data_sha256: str, models: Mapping[str, str]) -> dict[str, Any]:
    """Seeds, base, data, preprocessing, captioner, variants and how they train.

    The split decides what is held out and the evaluation's timesteps what the losses mean, so they belong to it.
    Limits, storage, destinations and samples do not.
    """
    captioner = manifest.captioner
    return {
        "seeds": list(manifest.seeds),
        "base_model": models["base"],
        "data": data_sha256,
        "split": manifest.dataset.split.model_dump(mode="json"),
        "preprocess": manifest.preprocess.model_dump(mode="json"),
        "captioner": None
        if captioner is None
        else captioner.model_dump(mode="json", exclude=_NOT_IDENTITY) | {"sha256": models["captioner"]},
        "evaluation": manifest.evaluation.model_dump(mode="json", include=_SCORING),
        "split_packs_by": sorted(set(manifest.split_packs_by)),
        "variants": {
            variant.name: {
                "captions": variant.captions.model_dump(mode="json"),
                "lora": variant.lora.model_dump(mode="json"),
                "training": variant.training.model_dump(mode="json"),
            }
            for variant in resolve_variants(manifest)
        },
    }


def identity_conflicts(stored: Mapping[str, Any], current: Mapping[str, Any]) -> tuple[str, ...]:
    """Dotted fields in which a stored identity and this one cannot be the same run.

    `steps` may grow under a constant schedule, whose rate does not depend on them.
    """
    return tuple(field for field in _different(stored, current) if not _steps_grew(field, stored, current))


def has_more_steps(stored: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    """Whether this identity, which does not conflict with a stored one, has more to train."""
    return bool(_different(stored, current))


def _different(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    return different_fields(_with_defaults(stored), current, "")


def _with_defaults(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored identity with the defaults of fields that are newer than it."""
    captioner = stored["captioner"]
    if captioner is not None:
        defaults = CaptionerConfig(source="unknown").model_dump(mode="json", exclude=_NOT_IDENTITY)
        captioner = defaults | captioner
    return dict(stored) | {
        "split": SplitConfig().model_dump(mode="json") | stored["split"],
        "preprocess": PreprocessConfig().model_dump(mode="json") | stored["preprocess"],
        "captioner": captioner,
        "split_packs_by": stored.get("split_packs_by", []),
        "evaluation": EvaluationConfig().model_dump(mode="json", include=_SCORING) | stored["evaluation"],
        "variants": {
            name: {
                "captions": _filled(_CAPTIONS, variant["captions"]),
                "lora": _filled(TypeAdapter(LoraConfig), variant["lora"]),
                "training": _filled(TypeAdapter(TrainingConfig), variant["training"]),
            }
            for name, variant in stored["variants"].items()
        },
    }


def _filled(kind: TypeAdapter[Any], stored: Any) -> Any:
    """As the model of today would write it; unchanged where it cannot read it, which then shows as a difference."""
    try:
        return kind.dump_python(kind.validate_json(json.dumps(stored)), mode="json")
    except ValidationError:
        return stored


def _steps_grew(field: str, stored: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    parts = field.split(".")
    if parts[0] != "variants" or parts[2:] != ["training", "steps"]:
        return False
    before = stored["variants"][parts[1]]["training"]
    after = current["variants"][parts[1]]["training"]
    return bool(after["schedule"]["name"] == "constant" and after["steps"] > before["steps"])
