"""How noisy the difference of two adapters' validation losses is: the engine's way of scoring against two others.

Usage: python -m benchmarks.noise [--steps 60] [--repeats 10] [--timesteps 4]

Two strategies of the quickstart are trained. Then their difference as trained is measured again and again, each time
with other noise and other offsets of the timesteps: with the engine's strata and noise that both adapters share; with
shared noise at timesteps that are drawn at random; and with noise and random timesteps of each adapter's own, as two
runs of a usual script have. The standard errors are those that the noise causes; the held-out images are the same.
"""

import argparse
import hashlib
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.machine import describe
from lora_engine import miniature
from lora_engine.adapters import formats, lora
from lora_engine.config.adapter import LoraConfig
from lora_engine.dataset.encoded import ValidationData, text_name
from lora_engine.dataset.table import TensorTable
from lora_engine.dataset.tensor_files import TensorFiles
from lora_engine.evaluation.components import Condition
from lora_engine.evaluation.denoising import Grid, Scoring, final_grid
from lora_engine.models import schedule, stable_diffusion
from lora_engine.models.files import LocalModel

MANIFEST = Path(__file__).resolve().parents[1] / "manifests" / "quickstart.yaml"
VARIANTS = ("vanilla", "blip")
CACHED = ("latents", "embeddings")  # folders of the cache
DEVICE = torch.device("cpu")

Values = npt.NDArray[np.float64]


class Study:
    """The two adapters of a finished run, ready to be scored on its held-out images.

    Args:
        run: its folder, beside which lies its cache.
    """

    def __init__(self, run: Path, timesteps: int) -> None:
        images = [json.loads(line) for line in (run / "data" / "images.jsonl").read_text().splitlines()]
        ids = sorted(image["id"] for image in images if image["split"] == "validation")
        latents, embeddings = (TensorFiles(list((run.parent / ".cache" / k).rglob("*.shard"))) for k in CACHED)
        texts = [text for name in VARIANTS for text in _texts(run, name, ids)]
        shown = [embeddings[text_name(text)] for text in texts]
        table = TensorTable(shown.__getitem__, len(texts), DEVICE, torch.float32, resident=True)
        rows = {name: np.arange(len(ids)) + at * len(ids) for at, name in enumerate(VARIANTS)}
        means = torch.stack([latents[image][0] for image in ids])
        self._data = ValidationData(tuple(ids), means, table, rows)
        self._timesteps = timesteps
        model = LocalModel(miniature.folder("stable-diffusion"))
        self._noise_schedule = schedule.load_noise_schedule(model)
        self._unet = stable_diffusion.load_unet(model, torch.float32, DEVICE)
        lora.inject(self._unet, [(name, 0) for name in VARIANTS], LoraConfig(rank=8, alpha=8))
        for name in VARIANTS:
            (file,) = run.glob(f"variants/{name}/seed-*/checkpoints/*/pytorch_lora_weights.safetensors")
            lora.load(self._unet, name, formats.read_adapter(file))

    @property
    def images(self) -> int:
        """How many images are held out."""
        return len(self._data.image_ids)

    def strata(self, repeat: int) -> Values:
        """The difference of each image's losses with the engine's strata, [N]."""
        ids = self._named(f"strata {repeat}")
        losses = self._losses(VARIANTS, ids, self._strata(ids))
        return losses[0] - losses[1]

    def shared(self, repeat: int) -> Values:
        """The same at random timesteps, with noise that both adapters share."""
        ids = self._named(f"shared {repeat}")
        losses = self._losses(VARIANTS, ids, self._random(ids, repeat))
        return losses[0] - losses[1]

    def independent(self, repeat: int) -> Values:
        """The same at random timesteps and with noise that are each adapter's own."""
        own = []
        for at, name in enumerate(VARIANTS):
            ids = self._named(f"{name} {repeat}")
            own += list(self._losses([name], ids, self._random(ids, 1000 * (at + 1) + repeat)))
        return own[0] - own[1]

    def _named(self, purpose: str) -> tuple[str, ...]:
        """Ids for this purpose alone: they are what noise and offsets are keyed by."""
        return tuple(hashlib.sha256(f"{purpose} {image}".encode()).hexdigest() for image in self._data.image_ids)

    def _strata(self, ids: Sequence[str]) -> Grid:
        return final_grid(ids, self._timesteps, self._timesteps, self._noise_schedule.num_train_timesteps)

    def _random(self, ids: Sequence[str], seed: int) -> Grid:
        grid = self._strata(ids)
        drawn = np.random.default_rng(seed).integers(
            self._noise_schedule.num_train_timesteps, size=grid.timesteps_NT.shape
        )
        return replace(grid, timesteps_NT=drawn)

    def _losses(self, names: Sequence[str], ids: tuple[str, ...], grid: Grid) -> list[Values]:
        """The loss of each adapter under its own captions, of each image [N]."""
        conditions = [[Condition(name, whole=True)] for name in names]
        data = replace(self._data, image_ids=ids)
        scoring = Scoring(self._unet, names, conditions, data, grid, self._noise_schedule, batch_size=16)
        for _ in scoring:
            pass
        return [scoring.losses(k)[0].mean(axis=1, dtype=np.float64) for k in range(len(names))]


def _texts(run: Path, name: str, ids: Sequence[str]) -> list[str]:
    rows = [json.loads(line) for line in (run / "data" / "captions" / f"{name}.jsonl").read_text().splitlines()]
    texts = {row["id"]: row["texts"][0] for row in rows}
    return [texts[image] for image in ids]


def standard_error(measure: Callable[[int], Values], repeats: int) -> float:
    """Of the mean difference over images, as the noise of an evaluation causes it."""
    found = np.stack([measure(repeat) for repeat in range(repeats)])
    return math.sqrt(float(found.var(axis=0, ddof=1).sum())) / found.shape[1]


def train(folder: Path, steps: int) -> Path:
    """Train the two strategies; the run's folder."""
    captions = {"vanilla": '{strategy: constant, text: "a tattoo design"}', "blip": "{strategy: blip}"}
    variants = ", ".join(f"{{name: {name}, captions: {captions[name]}}}" for name in VARIANTS)
    sets = {
        "variants": f"[{variants}]",
        "training.steps": steps,
        "evaluation.every": steps,
        "evaluation.samples": "null",
        "output.destination": folder,
    }
    options = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    subprocess.run(
        [sys.executable, "-m", "job", "run", MANIFEST, *options, "--workdir", folder / "scratch"], check=True
    )
    return folder / "quickstart"


def main() -> None:
    """Train, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--timesteps", type=int, default=4, help="Of each image.")
    options = parser.parse_args()
    print(describe(str(DEVICE)))
    with tempfile.TemporaryDirectory() as folder:
        study = Study(train(Path(folder), options.steps), options.timesteps)
    ways = {
        "strata and shared noise": study.strata,
        "random timesteps, shared noise": study.shared,
        "noise of each adapter's own": study.independent,
    }
    errors = {name: standard_error(way, options.repeats) for name, way in ways.items()}
    print(f"{study.images} images at {options.timesteps} timesteps, {options.repeats} repeats")
    print("| | standard error | over ours |\n| --- | --- | --- |")
    ours = errors["strata and shared noise"]
    for name, error in errors.items():
        print(f"| {name} | {error:.2e} | {error / ours:.2f} |")


if __name__ == "__main__":
    main()
