"""What is decided once for a run, and kept in `resolved.json`: later attempts read the decision."""

import time
from pathlib import Path
from typing import Any

import torch
import yaml

from job import layout
from job.errors import ExitCode, JobError
from job.manifest.packs import Pack, packs_of, set_of_variant
from job.process.versions import environment
from job.run.context import Attempt
from job.run.dataset import Images, source_fingerprint
from job.run.identity import has_more_steps, identity, identity_conflicts
from lora_engine.images.split import data_sha256
from lora_engine.models.files import model_sha256
from lora_engine.system.device import DtypeName, has_bf16, resolve_precision


def is_done(attempt: Attempt) -> bool:
    """Whether the run is finished, so that there is nothing to do.

    Raises:
        JobError: 46 when the name belongs to another run, as far as that can be told before anything is fetched.
    """
    stored = attempt.run.read_json(layout.RESOLVED)
    if stored is None:
        return False
    data, models = stored["data_sha256"], {k: v["sha256"] for k, v in stored["models"].items() if v}
    current = identity(attempt.manifest, data_sha256=data, models=models)
    _refuse_conflicts(attempt, stored, current)
    if not attempt.run.exists(layout.SUCCESS) or has_more_steps(stored["identity"], current):
        return False
    now, then = attempt.manifest.model_dump(mode="json"), stored["manifest"]
    if now["evaluation"]["samples"] != then["evaluation"]["samples"]:
        return False
    # of other names and listings, only what they hold can tell whether it is the same
    source = attempt.run.read_json(layout.SOURCE)
    same_data = source is not None and source["fingerprint"] == source_fingerprint(attempt)
    return same_data and all(now[key] == then[key] for key in ("base_model", "captioner"))


def is_prepared(attempt: Attempt, fingerprint: str) -> bool:
    """Whether a process with this manifest has made all that training needs, of the source with that fingerprint."""
    keys = (layout.unit_status("prepare"), layout.SOURCE, layout.RESOLVED)
    status, source, stored = (attempt.run.read_json(key) for key in keys)
    if not (status and source and stored) or status["state"] != "done":
        return False
    same = stored["manifest"] == attempt.manifest.model_dump(mode="json")
    return same and bool(source["fingerprint"] == fingerprint)


def resolve(
    attempt: Attempt, images: Images, base: Path, captioner: Path | None, device: torch.device
) -> dict[str, Any]:
    """Decide what the manifest leaves open, unless an earlier attempt has. `base` and `captioner` are models on disk.

    Raises:
        JobError: 46 when the name belongs to a run with another identity.
    """
    hashes = {"base": model_sha256(base)}
    if captioner is not None:
        hashes["captioner"] = model_sha256(captioner)
    current = identity(attempt.manifest, data_sha256=data_sha256(images.records), models=hashes)
    stored = attempt.run.read_json(layout.RESOLVED)
    if stored is not None:
        _refuse_conflicts(attempt, stored, current)
    resolved = _decide(attempt, hashes, current, stored, device)
    if not has_bf16(device) and any(pack["precision"] == "bf16" for pack in resolved["packs"]):
        attempt.progress.warn("training.precision is bf16, which this device emulates: fp32 would be many times faster")
    if resolved != stored:
        attempt.run.delete(layout.SUCCESS)  # or a stop on the way to more would pass for finished
        dump = yaml.safe_dump(attempt.manifest.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        attempt.run.write(layout.MANIFEST, dump.encode())
        attempt.run.write_json(layout.ENVIRONMENT, environment(device))
        attempt.run.write_json(layout.RESOLVED, resolved)  # last: the rest is there
    return resolved


def _decide(
    attempt: Attempt,
    models: dict[str, str],
    current: dict[str, Any],
    stored: dict[str, Any] | None,
    device: torch.device,
) -> dict[str, Any]:
    manifest = attempt.manifest
    sources = {"base": manifest.base_model, "captioner": manifest.captioner}
    return {
        "schema": 1,
        "started_at": time.time() if stored is None else stored["started_at"],
        "manifest": manifest.model_dump(mode="json"),
        "identity": current,
        "fenced": attempt.fenced,
        "data_sha256": current["data"],
        "caption_sets": list(dict.fromkeys(set_of_variant(manifest).values())),
        "set_of_variant": set_of_variant(manifest),
        "packs": [_decided_pack(pack, stored, device) for pack in packs_of(manifest)],
        "models": {
            what: {"source": config.source, "sha256": models[what]} if config is not None and what in models else None
            for what, config in sources.items()
        },
    }


def _decided_pack(pack: Pack, stored: dict[str, Any] | None, device: torch.device) -> dict[str, Any]:
    precision: DtypeName = resolve_precision(pack.training.precision, device)
    if stored is not None:
        precision = resolve_precision(stored["packs"][pack.index]["precision"], device)
    return {
        "index": pack.index,
        "members": _members(pack),
        "differs": list(pack.differs),
        "precision": precision,
    }


def _refuse_conflicts(attempt: Attempt, stored: dict[str, Any], current: dict[str, Any]) -> None:
    conflicts = identity_conflicts(stored["identity"], current)
    if conflicts:
        raise JobError(
            ExitCode.CONFLICT,
            f"{attempt.run.root} holds a run of this name with other values of {', '.join(conflicts)}.",
            "Give this one another name: --set name=...",
        )
    if [pack["members"] for pack in stored["packs"]] != [_members(pack) for pack in packs_of(attempt.manifest)]:
        raise JobError(
            ExitCode.CONFLICT,
            f"{attempt.run.root} holds a run of this name whose adapters train in other packs: of those that train "
            "together, some are to have more steps than others.",
            "Let training.steps grow for all of them, or give this one another name: --set name=...",
        )


def _members(pack: Pack) -> list[dict[str, Any]]:
    return [member._asdict() for member in pack.members]
