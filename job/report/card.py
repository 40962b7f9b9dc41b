"""The model card of a run's adapters, as the hub shows one: `report/README.md`.

Its paths are relative to the run's folder, since a card belongs at the top of what is uploaded.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from pydantic import TypeAdapter

from job import layout
from job.errors import ExitCode, JobError
from job.layout import Member
from job.report import table
from job.report.artefacts import stored
from job.report.pictures import Pictures
from job.report.schema import Comparison
from job.report.settings import flat, shown
from job.report.templating import environment
from job.run.decisions import Resolved
from job.storage.folder import RunFolder
from job.storage.hub import is_hub, repository_of
from lora_engine.captions.prompts import as_trained
from lora_engine.config.captions import CaptionsConfig, PromptTemplate

_TAGS = ("text-to-image", "stable-diffusion", "lora", "diffusers")
_FOLDER = "adapters"
_WIDGETS = 12  # pictures that the hub is to show, at most
_PARTS: tuple[tuple[str, TypeAdapter[Any]], ...] = (
    ("captions", TypeAdapter(CaptionsConfig)),
    ("prompt_template", TypeAdapter(PromptTemplate | None)),
)
_SETTINGS = (
    "training.steps",
    "training.batch_size",
    "training.gradient_accumulation",
    "training.optimizer.name",
    "training.optimizer.learning_rate",
    "training.schedule.name",
    "training.schedule.warmup_steps",
    "training.max_grad_norm",
    "lora.rank",
    "lora.alpha",
    "lora.target_modules",
)


def render_card(run: RunFolder, comparison: Comparison, pictures: Pictures) -> bytes:
    """The card: what the hub reads, how to use the adapters, how they were trained, and what was found.

    Raises:
        JobError: 46 when `resolved.json` holds captions or a template that this version does not know.
    """
    resolved = stored(run, layout.RESOLVED, Resolved)
    source, figures, widget = resolved.models.base.source, table.adapters(comparison), _widget(pictures)
    base = repository_of(source) if is_hub(source) else None
    template = environment().get_template("card.md.j2")
    return template.render(
        front_matter=front_matter(_metadata(resolved, base, widget)),
        base=base,
        base_sha256=resolved.models.base.sha256[:12],
        resolution=shown(resolved.identity.preprocess.get("resolution")),
        comparison=comparison,
        adapters=_adapters(run, resolved),
        code=_code(run, resolved, comparison, base),
        settings=list(_settings(resolved)),
        columns=figures.columns,
        rows=table.texts(figures),
        has_samples=any(pictures.indices.values()),
    ).encode()


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
        "widget": list(widget),
    }
    return {key: value for key, value in values.items() if value}


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
            if row.file is not None and row.prompting in (prompting, "both") and row.prompt < len(texts)
        }
        folder = layout.samples(member, step, pictures.set_name)
        result += [
            {"text": texts[prompt], "output": {"url": f"{folder}/{rows[prompt].file}"}}
            for prompt in sorted(rows)[: _WIDGETS // len(first)]
        ]
    return result


def _members(resolved: Resolved) -> list[Member]:
    return [member for pack in resolved.packs for member in pack.members]


def _has_seeds(resolved: Resolved) -> bool:
    return len({member.seed for member in _members(resolved)}) > 1


def _file(resolved: Resolved, member: Member) -> str:
    """The file of an adapter's best checkpoint below the run's folder."""
    return f"{_FOLDER}/{member.adapter_name if _has_seeds(resolved) else member.variant}.safetensors"


def _adapters(run: RunFolder, resolved: Resolved) -> list[tuple[str, str, str]]:
    """The variant, the file and the prompt of each adapter."""
    prompts = {variant.name: _prompt_as_trained(run, resolved, variant.name) for variant in resolved.manifest.variants}
    return [(member.variant, _file(resolved, member), prompts[member.variant]) for member in _members(resolved)]


def _code(run: RunFolder, resolved: Resolved, comparison: Comparison, base: str | None) -> dict[str, str]:
    """The texts of an example of use, as Python has them: of the first winner's adapter, else of the first."""
    winners = [pair.verdict.winner for pair in comparison.pairs if pair.verdict is not None and pair.verdict.winner]
    used = next((member for member in _members(resolved) if member.variant in winners[:1]), _members(resolved)[0])
    return {
        "base": repr(base or "the base model's folder"),
        "file": repr(_file(resolved, used).removeprefix(f"{_FOLDER}/")),
        "prompt": repr(_prompt_as_trained(run, resolved, used.variant).replace("{prompt}", "a heart")),
    }


def _prompt_as_trained(run: RunFolder, resolved: Resolved, variant: str) -> str:
    """How an adapter is to be prompted, with {prompt} where one's own text goes."""
    template = next((each.prompt_template for each in resolved.manifest.variants if each.name == variant), None)
    found = {"captions": resolved.identity.variants[variant].captions, "prompt_template": template}
    try:
        captions, checked = (adapter.validate_python(found[key], strict=False) for key, adapter in _PARTS)
        return as_trained("{prompt}", captions, checked, lambda _: 0).text
    except ValueError as error:
        raise JobError(
            ExitCode.CONFLICT,
            f"{run.uri(layout.RESOLVED)} holds captions or a prompt template of {variant} that are unknown.",
            "Restore it, or run under another name: --set name=...",
        ) from error


def _settings(resolved: Resolved) -> Iterator[tuple[str, str]]:
    """The settings of the training, each with its value, or with that of each variant where they differ."""
    variants = {name: flat(each.model_dump(mode="json")) for name, each in resolved.identity.variants.items()}
    for key in _SETTINGS:
        found = {name: shown(values[key]) for name, values in variants.items() if key in values}
        if len(set(found.values())) == 1 and len(found) == len(variants):
            yield key, next(iter(found.values()))
        elif found:
            yield key, ", ".join(f"{name}: {value}" for name, value in found.items())
    yield "precision", ", ".join(dict.fromkeys(pack.precision for pack in resolved.packs))
    yield "seeds", ", ".join(str(seed) for seed in resolved.identity.seeds)
