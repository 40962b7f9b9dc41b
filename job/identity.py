"""What makes a run the same run: two starts of one name must agree on it."""

from collections.abc import Mapping
from typing import Any

from job.manifest import Manifest
from job.overrides import different_fields
from job.variants import resolve_variants


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
        else captioner.model_dump(mode="json", exclude={"source", "revision", "allow_pickle"})
        | {"sha256": models["captioner"]},
        "evaluation": manifest.evaluation.model_dump(mode="json", include={"every", "timesteps", "final_timesteps"}),
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
    different = different_fields(stored, current, "")
    return tuple(field for field in different if not _steps_grew(field, stored, current))


def _steps_grew(field: str, stored: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    parts = field.split(".")
    if parts[0] != "variants" or parts[2:] != ["training", "steps"]:
        return False
    before = stored["variants"][parts[1]]["training"]
    after = current["variants"][parts[1]]["training"]
    return bool(after["schedule"]["name"] == "constant" and after["steps"] > before["steps"])
