"""A run that takes seconds (twelve drawings, two variants in one pack, four steps, samples), and its outcome."""

import hashlib
import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import load

from job.manifest.load import load_manifest
from job.process.progress import Progress
from job.process.stop import StopFlag
from job.run.context import Attempt, new_attempt
from job.storage import StorageSettings, open_storage
from job.storage.folder import RunFolder
from lora_engine import miniature as miniature_data
from lora_engine.adapters.names import STATE_NAME
from tests.lora_job import ROOT

BLIP = "{name: blip, captions: {strategy: blip}}"
VANILLA = "{name: vanilla, captions: {strategy: constant, text: a drawing}}"
PLAIN = """\
apiVersion: lora-job/v1
name: small
base_model: {source: models/sd}
dataset: {source: images}
variants: [{name: one, captions: {strategy: existing}}]
training: {steps: 10}
output: {destination: runs}
"""


def drawings(folder: Path) -> Path:
    """Copy twelve of the package's drawings with their captions to the folder, and return it."""
    if not folder.exists():
        folder.mkdir(parents=True)
        for path in sorted(miniature_data.folder("drawings").glob("*-100000.*"))[:24]:
            shutil.copy(path, folder)
    return folder


def arguments(miniature: Path, tmp_path: Path, *lines: str, name: str = "small") -> list[str | Path]:
    """The arguments of `lora-job run` for the small run: the manifest and its overrides, of which later ones win."""
    values = {
        "name": name,
        "base_model.source": miniature / "sd",
        "captioner.source": miniature / "blip",
        "variants": f"[{VANILLA}, {BLIP}]",
        "training.steps": 4,
        "training.batch_size": 2,
        "training.schedule.warmup_steps": 1,
        "evaluation.every": 2,
        "evaluation.timesteps": 2,
        "evaluation.final_timesteps": 4,
        "evaluation.samples": "{prompts: [a heart], steps: 1}",
        "dataset.source": drawings(tmp_path / "drawings"),
        "dataset.validation_min": 3,
        "output.destination": tmp_path / "runs",
    }
    return quickstart(values, lines)


def quickstart(values: Mapping[str, object], lines: Sequence[str]) -> list[str | Path]:
    """The arguments for the quickstart's manifest, with those values and then those lines, KEY=VALUE, as overrides."""
    sets = [f"{key}={value}" for key, value in values.items()]
    result: list[str | Path] = [ROOT / "manifests" / "quickstart.yaml"]
    for option in (*sets, *lines):
        result += ["--set", option]
    return result


def attempt_of(tmp_path: Path, *sets: str) -> tuple[Attempt, io.StringIO]:
    """An attempt below `tmp_path` at a plain manifest's run with these overrides, and the stream of its log."""
    shown = io.StringIO()
    manifest = load_manifest(PLAIN, "m.yaml", (f"output.destination={tmp_path / 'runs'}", *sets))
    return new_attempt(manifest, tmp_path, Progress(shown), StopFlag()), shown


def folder_of(root: str, endpoint: str | None = None) -> RunFolder:
    """The folder of the run at that root, which is a path or, with an endpoint, an S3 URI."""
    settings = StorageSettings(
        endpoint_url=endpoint, region="us-east-1", addressing_style="path" if endpoint else "auto"
    )
    return RunFolder(open_storage(root, settings), root)


def outcome(run: RunFolder) -> dict[str, Any]:
    """The files of a run whose content must not vary: weights, states, losses, captions, samples.

    Every commit is checked.

    Speeds, times and the hash of the best checkpoint's file, which tells when the run began, are left out.
    """
    found: dict[str, Any] = {}
    for key, _ in run.list():
        name = key.rpartition("/")[2]
        if name == "COMMIT.json":
            commit = run.read_json(key)
            assert commit is not None
            for entry in commit["files"]:
                data = run.read(f"{key.removesuffix(name)}{entry['path']}")
                assert data is not None, f"{key} lists {entry['path']}"
                assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size"], entry["sha256"]), key
            state = next(entry["sha256"] for entry in commit["files"] if entry["path"] == STATE_NAME)
            found[key] = (commit["weights_sha256"], state)
        elif name == "metrics.jsonl":
            rows = run.read_rows(key, dict) or []
            found[key] = [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]
        elif name.startswith("prompt-") or (key.startswith("data/") and name != "source.json"):
            found[key] = hashlib.sha256(run.read(key) or b"").hexdigest()
        elif name.endswith(".safetensors") and "/validation/" in key:
            found[key] = {name: values.tobytes() for name, values in load(run.read(key) or b"").items()}
        elif name in ("samples.json", "validation.jsonl"):
            found[key] = run.read(key)
        elif name == "index.json":
            index = run.read_json(key) or {}
            for entry in (entry for adapter in index["adapters"] for entry in (adapter["kohya"], adapter["diffusers"])):
                data = run.read(entry["path"]) or b""
                assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size"], entry["sha256"]), entry
            found[key] = [(adapter["name"], adapter["step"], adapter["reason"]) for adapter in index["adapters"]]
        elif name == "best.json":
            found[key] = (run.read_json(key) or {}) | {"sha256": None}
    found["success"] = run.exists("_SUCCESS")
    return found
