"""The order of a run: fetch, preprocess, caption, encode, train, sample, report."""

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from job import layout
from job.context import Job
from job.environment import environment
from job.errors import ExitCode, JobError
from job.handover import Captions, Images
from job.identity import identity, identity_conflicts
from job.report.publish import publish_report
from job.report.schema import Comparison
from job.stages.caption import caption
from job.stages.encode import encode_all
from job.stages.fetch import fetch_dataset, fetch_model, fetch_weights, source_fingerprint
from job.stages.preprocess import images_of
from job.stages.sample import Scorer, has_samples, measure_training_images, sample
from job.stages.train import PackRun, Study, is_finished
from job.unit import unit_of
from job.variants import Pack, pack_members, resolve_variants, set_of_variant
from lora_engine import base_model
from lora_engine.captions.vision import require_captioner
from lora_engine.clip_score import FILE_PATTERNS as CLIP_PATTERNS
from lora_engine.clip_score import require_clip
from lora_engine.data.split import data_sha256
from lora_engine.device import Resolved, find_device, resolve_precision
from lora_engine.errors import DivergedError
from lora_engine.model_files import model_sha256

CAPTIONER_PATTERNS = ("*.json", "*.txt", "*.safetensors", "*.model")


def is_done(job: Job) -> bool:
    """Whether the run is finished, so that there is nothing to do.

    Raises:
        JobError: 46 when what is finished is another run of the same name.
    """
    stored = job.run.read_json(layout.RESOLVED)
    if stored is None or not job.run.exists(layout.SUCCESS):
        return False
    data, models = stored["data_sha256"], {k: v["sha256"] for k, v in stored["models"].items() if v}
    _refuse_conflicts(job, stored, identity(job.manifest, data_sha256=data, models=models))
    samples = job.manifest.model_dump(mode="json")["evaluation"]["samples"]
    as_drawn = stored["manifest"]["evaluation"]["samples"] == samples
    return as_drawn and pack_members(job.manifest)[0].training.steps == _stored_steps(stored)


@dataclass(frozen=True)
class _Models:
    """What the run loads, on this machine and fit for it."""

    base: Path
    captioner: Path | None
    scorer: Scorer | None


def run(job: Job) -> None:
    """Do all that is not done yet.

    Raises:
        DivergedError: adapters diverged; all else is done.
    """
    device = find_device()
    with unit_of(job, "prepare") as prepare:
        models = _models(prepare)
        images = images_of(prepare, source_fingerprint(prepare), lambda: fetch_dataset(prepare))
        resolved = _resolve(prepare, images, models, device)
        captions = caption(prepare, images, models.captioner, base_model.load_tokenizer(models.base))
        study = _study(prepare, images, captions, models.base, resolved, device)
        measure_training_images(prepare, images)
    for pack in pack_members(job.manifest):
        with unit_of(job, pack.unit) as train:
            _train(train, study, pack, device, resolved["packs"][pack.index]["precision"], models.scorer)
    with unit_of(job, "report") as report:
        comparison = publish_report(report.run)
        _require_converged(comparison)
        report.run.write(layout.SUCCESS, b"")


def _require_converged(comparison: Comparison) -> None:
    diverged = {f"{m.variant}, seed {m.seed}": m.diverged_at for m in comparison.members if m.diverged_at is not None}
    if diverged:
        where = "; ".join(f"{name} at step {step}" for name, step in diverged.items())
        raise DivergedError(
            f"Diverged: {where}. It keeps its last finite weights; the others are trained and reported.",
            "Lower training.optimizer.learning_rate or use precision: bf16 or fp32, with --set name=...",
        )


def _models(job: Job) -> _Models:
    """Fetch the models and refuse those that cannot serve, before anything is computed."""
    manifest = job.manifest
    base = _base_folder(job)
    for pack in pack_members(manifest):
        base_model.require_trainable(base, pack.lora)
    captioner = None
    if manifest.captioner is not None:
        captioner = fetch_weights(job, "captioner.source", manifest.captioner, CAPTIONER_PATTERNS)
        require_captioner(captioner, allow_pickle=manifest.captioner.allow_pickle)
    return _Models(base, captioner, _scorer(job))


def _base_folder(job: Job) -> Path:
    config = job.manifest.base_model
    model = fetch_weights(job, "base_model.source", config, base_model.FILE_PATTERNS)
    if model.is_dir():
        base_model.require_weights(model, allow_pickle=config.allow_pickle)
        return model
    components = fetch_model(job, "base_model.components", config.components, None, base_model.CONFIG_PATTERNS)
    folder = job.workdir / "models" / f"{model.stem}-{model_sha256(model)[:16]}"
    if not (folder / "model_index.json").exists():
        base_model.convert_single_file(model, components, folder)
    return folder


def _resolve(job: Job, images: Images, models: _Models, device: torch.device) -> dict[str, Any]:
    """Decide what the manifest leaves open, once: later attempts read the decision.

    Raises:
        JobError: 46 when the name belongs to a run with another identity.
    """
    hashes = {"base": model_sha256(models.base)}
    if models.captioner is not None:
        hashes["captioner"] = model_sha256(models.captioner)
    current = identity(job.manifest, data_sha256=data_sha256(images.records), models=hashes)
    stored = job.run.read_json(layout.RESOLVED)
    if stored is not None:
        _refuse_conflicts(job, stored, current)
        job.run.delete(layout.SUCCESS)  # or a stop on the way to more would pass for finished
    resolved = _decide(job, hashes, current, stored, device)
    job.run.write_json(layout.RESOLVED, resolved)
    dump = yaml.safe_dump(job.manifest.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    job.run.write(layout.MANIFEST, dump.encode())
    job.run.write_json(layout.ENVIRONMENT, environment(device))
    return resolved


def _decide(
    job: Job, models: dict[str, str], current: dict[str, Any], stored: dict[str, Any] | None, device: torch.device
) -> dict[str, Any]:
    manifest = job.manifest
    sources = {"base": manifest.base_model, "captioner": manifest.captioner}
    return {
        "schema": 1,
        "started_at": time.time() if stored is None else stored["started_at"],
        "manifest": manifest.model_dump(mode="json"),
        "identity": current,
        "fenced": job.fenced,
        "data_sha256": current["data"],
        "caption_sets": list(dict.fromkeys(set_of_variant(manifest).values())),
        "set_of_variant": set_of_variant(manifest),
        "packs": [_decided_pack(pack, stored, device) for pack in pack_members(manifest)],
        "models": {
            what: {"source": config.source, "sha256": models[what]} if config is not None and what in models else None
            for what, config in sources.items()
        },
    }


def _decided_pack(pack: Pack, stored: dict[str, Any] | None, device: torch.device) -> dict[str, Any]:
    precision: Resolved = resolve_precision(pack.training.precision, device)
    if stored is not None:
        precision = resolve_precision(stored["packs"][pack.index]["precision"], device)
    return {
        "index": pack.index,
        "members": [asdict(member) for member in pack.members],
        "differs": list(pack.differs),
        "precision": precision,
    }


def _refuse_conflicts(job: Job, stored: dict[str, Any], current: dict[str, Any]) -> None:
    conflicts = identity_conflicts(stored["identity"], current)
    if conflicts:
        raise JobError(
            ExitCode.CONFLICT,
            f"{job.run.root} holds a run of this name with other values of {', '.join(conflicts)}.",
            "Give this one another name: --set name=...",
        )


def _stored_steps(stored: dict[str, Any]) -> int:
    return int(stored["manifest"]["training"]["steps"])


def _study(
    job: Job, images: Images, captions: Captions, model: Path, resolved: dict[str, Any], device: torch.device
) -> Study:
    manifest_sha256 = hashlib.sha256(job.manifest.model_dump_json().encode()).hexdigest()
    precision = resolved["packs"][0]["precision"]
    return Study(
        variants={variant.name: variant for variant in resolve_variants(job.manifest)},
        set_of_variant=set_of_variant(job.manifest),
        captions=captions,
        encoded=encode_all(job, images, captions, model, device, precision),
        model=model,
        base_name=job.manifest.base_model.source,
        manifest_sha256=manifest_sha256,
        started_at=resolved["started_at"],
    )


def _scorer(job: Job) -> Scorer | None:
    samples = job.manifest.evaluation.samples
    if samples is None or samples.clip is None:
        return None
    source = samples.clip
    folder = fetch_weights(job, "evaluation.samples.clip.source", source, CLIP_PATTERNS)
    require_clip(folder, allow_pickle=source.allow_pickle)
    return Scorer(folder, model_sha256(folder), source.allow_pickle)


def _train(
    job: Job, study: Study, pack: Pack, device: torch.device, precision: Resolved, scorer: Scorer | None
) -> None:
    if is_finished(job, pack) and has_samples(job, pack, scorer):
        return
    pack_run = PackRun(job, study, pack, device, precision)
    pack_run.run()
    sample(job, pack, study.model, pack_run.unet, device, scorer)
