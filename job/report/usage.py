"""How to use an adapter of a run: texts for people, and a program that runs as it stands. Pure."""

import json
import shlex
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from job import layout
from job.errors import ExitCode, JobError
from job.manifest.models import BaseModelConfig, MergeConfig, ScoredSamplesConfig
from job.manifest.schema import StorageConfig
from job.run.adapters import AdapterEntry
from job.run.lora_files import split_hub_lora
from job.run.resolved import Resolved
from job.storage import is_remote, name_of
from job.storage.hub import is_hub, repository_of
from job.storage.uris import is_shipped, local_path
from lora_engine.config.base import Config
from lora_engine.config.data import PreprocessConfig
from lora_engine.config.evaluation import PromptConfig
from lora_engine.models.accepted import is_single_file
from lora_engine.text import printable

_SUBJECT = "a rose"  # what is drawn where the run has no prompts of its own

_OF_DORA = (  # of which diffusers drops the magnitudes in kohya's format, and scales the factors alone
    "A DoRA in kohya's format, or at another strength than 1, adds up otherwise: lora-job export FILE --merge BASE."
)

Settings = TypeVar("Settings", bound=Config)


@dataclass(frozen=True)
class Usage:
    """An adapter, the base model that it was trained on, and a picture to begin with. Paths are below the run."""

    name: str  # of the adapter's files, without their suffix
    kohya: str
    diffusers: str
    prompt: str  # as the adapter was trained: a text with {prompt}
    strength: float
    subject: str  # a prompt to begin with, bare
    width: int  # pixels, as height
    height: int
    steps: int  # of denoising
    guidance: float
    negative_prompt: str
    base: BaseModelConfig
    predicts_v: bool  # whether the base model's UNet predicts v
    zero_terminal_snr: bool  # whether its last timestep is noise alone
    endpoint_url: str | None  # of the store that holds an s3:// base model; None for AWS

    @property
    def whole_prompt(self) -> str:
        """The prompt to begin with, as the adapter was trained."""
        return self.prompt.replace("{prompt}", self.subject)


def usage_of(resolved: Resolved, adapter: AdapterEntry) -> Usage:
    """What there is to say of an adapter of a run. Its first picture is drawn as the run's samples were.

    Raises:
        JobError: 46 where another version wrote the run's manifest in a way that this one does not know.
    """
    manifest = resolved.manifest
    storage = _read(StorageConfig, (manifest.model_extra or {}).get("storage"))
    samples = _read(ScoredSamplesConfig, manifest.evaluation.samples)
    first = (samples.prompts or (_SUBJECT,))[0]
    size = samples.size or _read(PreprocessConfig, resolved.identity.preprocess).resolution
    width, height = size if isinstance(size, tuple) else (size, size)
    return Usage(
        name=adapter.name,
        kohya=adapter.kohya.path,
        diffusers=adapter.diffusers.path,
        prompt=adapter.prompt,
        strength=adapter.strength,
        subject=first.prompt if isinstance(first, PromptConfig) else first,
        width=width,
        height=height,
        steps=samples.steps,
        guidance=samples.guidance,
        negative_prompt=samples.negative_prompt,
        base=_read(BaseModelConfig, manifest.base_model),
        predicts_v=resolved.models.base.prediction_type == "v_prediction",
        zero_terminal_snr=resolved.models.base.zero_terminal_snr,
        endpoint_url=storage.endpoint_url,
    )


def _read(kind: type[Settings], value: dict[str, Any] | None) -> Settings:
    """A part of a manifest that an attempt kept; its defaults where there is none."""
    try:
        return kind.model_validate_json(json.dumps(value or {}))
    except ValidationError as error:
        raise JobError(
            ExitCode.CONFLICT,
            f"{layout.RESOLVED} holds a {kind.__name__} that this version does not know.",
            "Use the version that made the run, or a later one.",
        ) from error


def use_in_diffusers(usage: Usage) -> str:
    """A program that draws one picture with the adapter. It is run in the run's folder, or in a collected one."""
    folder, _, file = usage.diffusers.rpartition("/")
    name = _literal(usage.name)
    imports, notes, pipeline = _pipeline(usage)
    more_imports, more_notes, changes = _as_it_was_used(usage)
    classes = ", ".join(["StableDiffusionPipeline", *more_imports])
    negative = [f"    negative_prompt={_literal(usage.negative_prompt)},"] if usage.negative_prompt else []
    lines = [
        *(f"# {note}" for note in dict.fromkeys([*notes, *more_notes])),
        "import torch",
        f"from diffusers import {classes}",
        *imports,
        "",
        'device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)',
        f"pipeline = StableDiffusionPipeline.{pipeline}",
        *changes,
        "pipeline.to(device)",
        f"pipeline.load_lora_weights({_literal(folder)}, weight_name={_literal(file)}, adapter_name={name})",
        f"pipeline.set_adapters({name}, {usage.strength:g})  # 0 is the base model, 1 as trained",
        "",
        f"# It was trained on prompts like {_literal(usage.prompt)}.",
        "image = pipeline(",
        f"    {_literal(usage.whole_prompt)},",
        *negative,
        f"    width={usage.width},",
        f"    height={usage.height},",
        f"    num_inference_steps={usage.steps},",
        f"    guidance_scale={usage.guidance:g},",
        '    generator=torch.Generator("cpu").manual_seed(0),',
        ").images[0]",
        f"image.save({_literal(f'{usage.name}.png')})",
    ]
    return "\n".join(lines) + "\n"


def _pipeline(usage: Usage) -> tuple[list[str], list[str], str]:
    """Imports and notes that loading the base model needs, and the call of a pipeline's class that loads it."""
    base = usage.base
    imports, notes, source = _place(base.source, "base_model", usage.endpoint_url)
    if not is_single_file(base.source):
        return imports, notes, f"from_pretrained({source}{_pinned(base.source, base.revision)}, dtype=dtype)"
    more_imports, more_notes, components = _place(base.components, "components", usage.endpoint_url)
    imports, notes = list(dict.fromkeys([*imports, *more_imports])), list(dict.fromkeys([*notes, *more_notes]))
    return imports, notes, f"from_single_file({source}, config={components}, dtype=dtype)"


def _pinned(source: str, revision: str | None) -> str:
    """The argument that pins a hub's model; none where it is not pinned."""
    return f", revision={_literal(revision)}" if revision and is_hub(source) else ""


def _as_it_was_used(usage: Usage) -> tuple[list[str], list[str], list[str]]:
    """Classes of diffusers, notes and lines with which the base model is used as it was in training."""
    base, classes, notes, lines = usage.base, list[str](), list[str](), list[str]()
    if base.vae is not None:
        _, notes, vae = _place(base.vae, "vae", usage.endpoint_url)
        _, _, config = _place(base.components if is_single_file(base.source) else base.source, "base_model", None)
        pinned = _pinned(base.vae, base.vae_revision)
        load = f'from_pretrained({vae}{pinned}, dtype=dtype)  # in a pipeline\'s folder, add subfolder="vae"'
        if is_single_file(base.vae):
            load = f'from_single_file({vae}, config={config}, subfolder="vae", dtype=dtype)'
        classes.append("AutoencoderKL")
        lines.append(f"pipeline.vae = AutoencoderKL.{load}")
    for merged in base.merge:
        more_notes, more_lines = _merged(merged, usage.endpoint_url)
        notes, lines = [*notes, *more_notes], [*lines, *more_lines]
    says_so = is_single_file(base.source) or base.prediction_type != "auto" or base.zero_terminal_snr != "auto"
    if says_so and usage.predicts_v:
        rescaled = ', rescale_betas_zero_snr=True, timestep_spacing="trailing"' if usage.zero_terminal_snr else ""
        classes.append("DDIMScheduler")
        lines += [
            "pipeline.scheduler = DDIMScheduler.from_config(",
            f'    pipeline.scheduler.config, clip_sample=False, prediction_type="v_prediction"{rescaled}',
            ")",
        ]
    if base.clip_skip > 1:
        lines += [
            'text_encoder = getattr(pipeline.text_encoder, "text_model", pipeline.text_encoder)',
            f"del text_encoder.encoder.layers[{1 - base.clip_skip}:]  # clip skip {base.clip_skip}",
        ]
    return classes, notes, lines


def _merged(merged: MergeConfig, endpoint_url: str | None) -> tuple[list[str], list[str]]:
    """Notes and lines with which a LoRA is merged into the pipeline."""
    scale = f"pipeline.fuse_lora(lora_scale={merged.strength:g})  # as before the training"
    if is_hub(merged.source):
        repository, file = split_hub_lora(merged.source)
        load = f"{_literal(repository)}, weight_name={_literal(file)}{_pinned(merged.source, merged.revision)}"
        notes = list[str]()
    else:
        # Of a folder, diffusers reads the file of the very name that is read here.
        _, notes, load = _place(merged.source, "merged", endpoint_url)
    notes = [*notes, _OF_DORA]
    return notes, [f"pipeline.load_lora_weights({load})", scale, "pipeline.unload_lora_weights()"]


def _place(source: str, to: str, endpoint_url: str | None) -> tuple[list[str], list[str], str]:
    """Imports and notes that a place of a model needs, and the Python expression of where the model is.

    Args:
        to: the local name of what has to be downloaded first.
    """
    if is_hub(source):
        return [], [], _literal(repository_of(source))
    if is_shipped(source):
        name = _literal(source.partition("://")[2])
        return ["from lora_engine import miniature  # comes with lora-job"], [], f"str(miniature.folder({name}))"
    if is_remote(source):
        local = name_of(source) if is_single_file(source) else to
        options = [] if is_single_file(source) else ["--recursive"]
        options += ["--endpoint-url", endpoint_url] if endpoint_url else []
        command = shlex.join(["aws", "s3", "cp", *options, source, local])
        return [], [f"First: {printable(command)}"], _literal(local)
    path = local_path(source)
    notes = [] if path.is_absolute() else ["Paths of the base model are relative to where lora-job was started."]
    return [], notes, _literal(str(path))


def use_in_a1111(usage: Usage) -> tuple[str, ...]:
    """Steps for AUTOMATIC1111's web UI, a sentence or two each."""
    return _in_a_web_ui(usage, "stable-diffusion-webui/models/Lora")


def use_in_forge(usage: Usage) -> tuple[str, ...]:
    """Steps for Forge's web UI, a sentence or two each."""
    return _in_a_web_ui(usage, "stable-diffusion-webui-forge/models/Lora (of the one-click package: webui/models/Lora)")


def use_in_comfyui(usage: Usage) -> tuple[str, ...]:
    """Steps for ComfyUI, a sentence or two each."""
    prompt = _escaped(usage.whole_prompt, "()")
    return (
        f"Copy {printable(usage.kohya)} to ComfyUI/models/loras and reload the page.",
        _base_step(usage, "Load Checkpoint"),
        f"Put a Load LoRA node behind it, choose {printable(usage.name)}.safetensors, and set strength_model to "
        f"{usage.strength:g}; strength_clip changes nothing, for only the UNet was trained.",
        f"Prompt it as it was trained: {prompt}",
    )


def _in_a_web_ui(usage: Usage, folder: str) -> tuple[str, ...]:
    call = f"<lora:{printable(usage.name)}:{usage.strength:g}>"
    prompt = _escaped(usage.whole_prompt, "()[]")
    return (
        f"Copy {printable(usage.kohya)} to {folder} and press Refresh in the Lora tab.",
        _base_step(usage, "the Stable Diffusion checkpoint"),
        f"Prompt it as it was trained, and call it by its name; the number is its strength: {prompt} {call}",
    )


def _base_step(usage: Usage, where: str) -> str:
    trained_on = printable(usage.base.source)
    if is_shipped(usage.base.source):
        return f"This adapter is for {trained_on}, a miniature for trying out, which no such program loads."
    skip = usage.base.clip_skip
    skipped = f" Skip CLIP layers as in training: clip skip {skip} (in ComfyUI, CLIP Set Last Layer -{skip})."
    merged = ", ".join(f"{printable(name_of(each.source))} at {each.strength:g}" for each in usage.base.merge)
    merged = f" LoRAs were merged into it before the training, so call them, too: {merged}." if merged else ""
    vae = f" Choose its VAE, too: {printable(usage.base.vae or '')} (SD VAE; in ComfyUI, a Load VAE node)."
    return (
        f"As {where}, choose the base model that it was trained on, {trained_on}, or one made from it."
        f"{vae if usage.base.vae else ''}{skipped if skip > 1 else ''}{merged}"
    )


def _escaped(prompt: str, special: str) -> str:
    """The prompt for a program in which brackets weigh words, so that they mean themselves."""
    escaped = prompt.replace("\\", "\\\\") if "[" in special else prompt
    for bracket in special:
        escaped = escaped.replace(bracket, f"\\{bracket}")
    return printable(escaped)


def _literal(text: str) -> str:
    """The text as a Python literal on one line, in double quotes where it holds none."""
    return repr(text) if '"' in text else '"' + repr("'" + text)[2:]
