"""The model card of a run's adapters, as the hub shows one: `report/README.md`.

Its paths are relative to the run's folder, since a card belongs at the top of what is uploaded.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import yaml

from job import layout
from job.layout import Member
from job.manifest.models import BaseModelConfig
from job.manifest.overrides import flat
from job.report import table
from job.report.findings import Findings
from job.report.pictures import Pictures
from job.report.settings import shown
from job.report.templating import environment
from job.report.usage import Usage, usage_of, use_in_diffusers
from job.run.resolved import Resolved
from job.storage.hub import is_hub, repository_of
from job.storage.uris import is_shipped, name_of
from lora_engine.models.accepted import is_single_file

_TAGS = ("text-to-image", "stable-diffusion", "lora", "diffusers")
_WIDGETS = 12  # pictures that the hub is to show, at most
_LENGTHS = ("training.steps", "training.epochs")  # of which an adapter has one
_LICENSES = (  # identifiers of the hub that people give to adapters
    *("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0"),
    *("cc-by-nc-nd-4.0", "openrail", "creativeml-openrail-m", "unknown"),
)
_SETTINGS = (
    *_LENGTHS,
    "training.batch_size",
    "training.gradient_accumulation",
    "training.optimizer.name",
    "training.optimizer.learning_rate",
    "training.schedule.name",
    "training.schedule.warmup_steps",
    "training.max_grad_norm",
    "lora.kind",
    "lora.rank",
    "lora.alpha",
    "lora.target_modules",
    "lora.text_encoder",
)


def render_card(found: Findings) -> bytes:
    """The card: what the hub reads, how to use the adapters, how they were trained, and what was found.

    Raises:
        JobError: 46 when `resolved.json` holds settings that this version does not know.
    """
    resolved, comparison, figures = found.resolved, found.comparison, table.adapters(found.comparison)
    source, widget = resolved.models.base.source, _widget(found.pictures)
    base = repository_of(source) if is_hub(source) else None
    template = environment().get_template("card.md.j2")
    return template.render(
        front_matter=front_matter(_metadata(resolved, base, widget)),
        has_license=bool(_license(resolved)),
        base=base,
        base_sha256=resolved.models.base.sha256[:12],
        resolution=shown(resolved.identity.preprocess.get("resolution")),
        comparison=comparison,
        adapters=[(entry.variant, entry.kohya.path, entry.prompt) for entry in found.adapters.adapters],
        code=use_in_diffusers(_published(usage_of(resolved, found.recommended))),
        settings=list(_settings(resolved)),
        columns=figures.columns,
        rows=table.texts(figures),
        has_samples=any(found.pictures.indices.values()),
    ).encode()


def _published(usage: Usage) -> Usage:
    """The usage as anybody may read it: a base model that is in no hub lies where only its owner knows."""
    base, hidden = usage.base, dict[str, Any]()
    if not _is_public(base.source):
        components = BaseModelConfig.model_fields["components"].default
        hidden = {"source": "base-model", "revision": None, "components": components}
        hidden |= {"prediction_type": "v_prediction"} if usage.predicts_v else {}
    if base.vae is not None and not _is_public(base.vae):
        hidden |= {"vae": "vae", "vae_revision": None}
    if any(not _is_public(each.source) for each in base.merge):
        named = [name_of(each.source) if is_single_file(each.source) else "merged" for each in base.merge]
        hidden["merge"] = tuple(
            each if _is_public(each.source) else each.model_copy(update={"source": name, "revision": None})
            for each, name in zip(base.merge, named, strict=True)
        )
    return replace(usage, base=base.model_copy(update=hidden))


def _is_public(source: str) -> bool:
    return is_hub(source) or is_shipped(source)


def front_matter(values: Mapping[str, Any]) -> str:
    """The values as YAML that reads back as they are, and holds no character that does not print."""
    for allow_unicode in (True, False):
        text: str = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=allow_unicode, width=math.inf)
        if all(line.isprintable() for line in text.split("\n")):
            break
    return text


def _metadata(resolved: Resolved, base: str | None, widget: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    phrase = next((found for member in _members(resolved) if (found := _phrase(resolved, member.variant))), None)
    values = {
        "base_model": base,
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": list(_TAGS),
        "instance_prompt": phrase,
        **_license(resolved),
        "widget": list(widget),
    }
    return {key: value for key, value in values.items() if value}


def _license(resolved: Resolved) -> dict[str, str]:
    """What the manifest says of the licence, as the hub reads it: by its identifier, or as another with its name."""
    name = resolved.manifest.output.license
    if name is None:
        return {}
    known = name.lower()
    return {"license": known} if known in _LICENSES else {"license": "other", "license_name": name}


def _phrase(resolved: Resolved, variant: str) -> str | None:
    """The text that calls an adapter up: its trigger, or the constant text that it was trained on."""
    captions = resolved.identity.variants[variant].captions
    found = captions.get("trigger") or (captions.get("text") if captions.get("strategy") == "constant" else None)
    return found if isinstance(found, str) and found else None


def _widget(pictures: Pictures) -> list[dict[str, Any]]:
    """The last pictures of the first seed's adapters, with their prompts as trained; as many prompts of each."""
    drawn = [member for member, indices in pictures.indices.items() if indices]
    first = [member for member in drawn if member.seed == drawn[0].seed][:_WIDGETS]
    result: list[dict[str, Any]] = []
    for member in first:
        step = max(pictures.indices[member])
        settings = pictures.indices[member][step].settings
        prompting, texts = ("as_trained", settings.as_trained) if settings.as_trained else ("bare", settings.prompts)
        rows = {
            row.prompt: row
            for row in reversed(pictures.indices[member][step].images)
            if row.file is not None and row.sha256 and row.prompting in (prompting, "both") and row.prompt < len(texts)
        }
        result += [
            {"text": texts[prompt], "output": {"url": layout.report_picture(rows[prompt].sha256[:16])}}
            for prompt in sorted(rows)[: _WIDGETS // len(first)]
        ]
    return result


def _members(resolved: Resolved) -> list[Member]:
    return [member for pack in resolved.packs for member in pack.members]


def _settings(resolved: Resolved) -> Iterator[tuple[str, str]]:
    """The settings of the training, each with its value, or with that of each variant where they differ."""
    variants = {name: flat(each.model_dump(mode="json")) for name, each in resolved.identity.variants.items()}
    keys = dict.fromkeys(key for values in variants.values() for key in values if not key.startswith("captions."))
    unlike = [key for key in keys if len({shown(values.get(key)) for values in variants.values()}) > 1]
    unasked = {key for key in _LENGTHS if all(values.get(key) is None for values in variants.values())}
    for key in dict.fromkeys((*_SETTINGS, *unlike)):
        if key in unasked:
            continue
        found = {name: shown(values[key]) for name, values in variants.items() if key in values}
        if len(set(found.values())) == 1 and len(found) == len(variants):
            yield key, next(iter(found.values()))
        elif found:
            yield key, ", ".join(f"{name}: {value}" for name, value in found.items())
    yield "precision", ", ".join(dict.fromkeys(pack.precision for pack in resolved.packs))
    yield "seeds", ", ".join(str(seed) for seed in resolved.identity.seeds)
