"""Three diffusers runs and three kohya runs against one `lora-job run` of three variants.

Usage: PYTHONPATH=scripts python -m benchmarks.peers DIFFUSERS_SCRIPT [--diffusers-python PYTHON]
           [--kohya FOLDER --kohya-python PYTHON] [--width 320] [--resolution 384] [--steps 50] [--batch 1]
           [--images 16] [--precision bf16] [--rounds 3] [--runs 3] [--folder FOLDER]

DIFFUSERS_SCRIPT is diffusers' `train_text_to_image_lora.py`; FOLDER that of kohya's `train_network.py`, which takes
real size (320) alone. Same images, steps, batch, resolution, rank and precision, latents and text embeddings from
nothing, loading included, nothing validated: what validation took of ours is shown and taken off. Adapters are in fp32
over a base in that precision with us; the peers keep them as they do. Ways take turns. The three runs of a peer differ
in their captions alone: with --runs 1 one is made, and counts three times.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from operator import add
from pathlib import Path
from statistics import median

from benchmarks.commands import Spent, spend
from benchmarks.machine import describe
from benchmarks.rounds import in_turns
from benchmarks.strategies import STRATEGIES, VARIANTS

_RANK = 8
_LEARNING_RATE = 1e-4
_OURS = f"lora-job, {len(VARIANTS)} variants in one run"
_ALONE = "lora-job, one variant"

# Where torchvision's compiled part does not fit the build of torch, its import asks for the names of two operators.
_WITHOUT_OPERATORS = """
import os, runpy, sys, torch
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
del sys.argv[0]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Work:
    """What every way has to do, and where it finds and leaves things."""

    folder: Path
    resolution: int
    steps: int
    batch: int
    precision: str
    validation_seconds: dict[str, list[float]] = field(default_factory=dict)  # in ours, way by way

    def fresh(self, name: str) -> Path:
        """A folder that nobody has used."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))


def ours(work: Work, name: str, variants: Sequence[Mapping[str, object]]) -> Spent:
    """One `lora-job run` into an empty folder, less what it took to validate."""
    out = work.fresh("lora-job")
    manifest = {
        "apiVersion": "lora-job/v1",
        "name": "study",
        "base_model": {"source": str(work.folder / "model")},
        "dataset": {"source": str(work.folder / "images"), "validation_fraction": 1e-6, "validation_min": 1},
        "preprocess": {"resolution": work.resolution},
        "variants": variants,
        "lora": {"rank": _RANK, "alpha": _RANK},
        "training": {
            "steps": work.steps,
            "batch_size": work.batch,
            "optimizer": {"name": "adamw", "learning_rate": _LEARNING_RATE},
            "precision": work.precision,
        },
        "evaluation": {"every": work.steps, "timesteps": 1, "final_timesteps": 1},
        "output": {"destination": str(out / "runs")},
    }
    (out / "manifest.yaml").write_text(json.dumps(manifest))
    command: list[str | Path] = [
        Path(sys.executable).parent / "lora-job",
        "run",
        out / "manifest.yaml",
        "--workdir",
        out / "scratch",
    ]
    spent = spend(command, out / "log.txt")
    report = json.loads((out / "runs/study/report/comparison.json").read_text())
    seconds = report["timing"]["pack-0"]["evaluate"]
    work.validation_seconds.setdefault(name, []).append(seconds)
    return replace(spent, seconds=spent.seconds - seconds)


def diffusers(work: Work, launch: Sequence[str | Path], strategy: str) -> Spent:
    """One of its runs."""
    out = work.fresh("diffusers")
    arguments = {
        "pretrained_model_name_or_path": work.folder / "model",
        "train_data_dir": work.folder / "diffusers" / strategy,
        "cache_dir": out / "cache",
        "output_dir": out,
        "resolution": work.resolution,
        "train_batch_size": work.batch,
        "max_train_steps": work.steps,
        "checkpointing_steps": work.steps + 1,
        "rank": _RANK,
        "learning_rate": _LEARNING_RATE,
        "lr_warmup_steps": 0,
        "mixed_precision": _mixed(work.precision),
        "seed": 0,
    }
    return spend([*launch, *_flags(arguments), "--center_crop"], out / "log.txt", _peers_environment())


def kohya(work: Work, launch: Sequence[str | Path], strategy: str) -> Spent:
    """One of its runs."""
    out = work.fresh("kohya")
    (out / "openai_clip-vit-large-patch14").symlink_to(work.folder / "model" / "tokenizer")
    arguments = {
        "pretrained_model_name_or_path": work.folder / "model",
        "tokenizer_cache_dir": out,
        "train_data_dir": work.folder / "kohya" / strategy,
        "caption_extension": ".txt",
        "output_dir": out,
        "output_name": strategy,
        "save_model_as": "safetensors",
        "resolution": f"{work.resolution},{work.resolution}",
        "train_batch_size": work.batch,
        "max_train_steps": work.steps,
        "network_module": "networks.lora",
        "network_dim": _RANK,
        "network_alpha": _RANK,
        "learning_rate": _LEARNING_RATE,
        "mixed_precision": _mixed(work.precision),
        "seed": 0,
    }
    switches = ["--network_train_unet_only", "--cache_latents", "--sdpa"]
    script = Path(launch[-1])
    return spend([*launch, *_flags(arguments), *switches], out / "log.txt", _peers_environment(), cwd=script.parent)


def _mixed(precision: str) -> str:
    return "no" if precision == "fp32" else precision


def _flags(arguments: Mapping[str, object]) -> list[str]:
    return [part for key, value in arguments.items() for part in (f"--{key}", str(value))]


def _peers_environment() -> dict[str, str]:
    """Ours without the path to our modules, and no hub."""
    ours = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return ours | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def launcher(python: Path, script: Path) -> list[str | Path]:
    """How to start a peer's script, also where torchvision has no operators."""
    command = [python, "-c", "import torchvision"]
    found = subprocess.run(command, env=_peers_environment(), capture_output=True, check=False)
    return [python, script] if found.returncode == 0 else [python, "-c", _WITHOUT_OPERATORS, script]


def ways_of(work: Work, options: argparse.Namespace) -> dict[str, Callable[[], Spent]]:
    """What is timed, by name."""
    ways: dict[str, Callable[[], Spent]] = {
        _OURS: partial(ours, work, _OURS, VARIANTS),
        "diffusers, three runs": _for_all(
            partial(diffusers, work, launcher(options.diffusers_python, options.diffusers_script.resolve())),
            options.runs,
        ),
    }
    if options.kohya is not None:
        script = options.kohya.resolve() / "train_network.py"
        ways["kohya, three runs"] = _for_all(partial(kohya, work, launcher(options.kohya_python, script)), options.runs)
    ways[_ALONE] = partial(ours, work, _ALONE, VARIANTS[:1])
    return ways


def _for_all(run: Callable[[str], Spent], runs: int) -> Callable[[], Spent]:
    """What a run for every strategy spends, of which so many are made."""
    strategies = list(STRATEGIES)
    return lambda: reduce(add, map(run, strategies[:runs])).times(len(strategies) / runs)


def table(spent: Mapping[str, Sequence[Spent]], work: Work) -> str:
    """A row a way: medians of the rounds, and of its time over ours in the same round."""
    lines = [
        "| | seconds | over ours | CPU seconds | over ours | peak memory, GiB | on the GPU, GiB "
        "| validation taken off, seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, own in spent.items():
        pairs = list(zip(own, spent[_OURS], strict=True))
        validation = work.validation_seconds.get(name)
        cells = (
            f"{median(s.seconds for s in own):.1f}",
            f"{median(s.seconds / base.seconds for s, base in pairs):.2f}",
            f"{median(s.cpu_seconds for s in own):.1f}",
            f"{median(s.cpu_seconds / base.cpu_seconds for s, base in pairs):.2f}",
            f"{median(s.peak_bytes for s in own) / 2**30:.2f}",
            f"{median(s.gpu_bytes for s in own) / 2**30:.2f}",
            f"{median(validation):.1f}" if validation else "",
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("diffusers_script", type=Path)
    parser.add_argument("--diffusers-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--kohya", type=Path)
    parser.add_argument("--kohya-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--resolution", type=int, default=384)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--precision", choices=("bf16", "fp16", "fp32"), default="bf16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, choices=range(1, 4), default=3, help="Of a peer, that are made.")
    parser.add_argument("--folder", type=Path, help="Kept, with model, drawings and all that the ways leave.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = Work(
            options.folder or Path(scratch), options.resolution, options.steps, options.batch, options.precision
        )
        make_inputs(work, options)
        print(describe())
        print(
            f"UNet of width {options.width}, {options.images} images at {work.resolution}x{work.resolution}, "
            f"{work.steps} steps, batch {work.batch}, {work.precision}, {options.rounds} rounds, "
            f"{options.runs} of a peer's three runs made",
            flush=True,
        )
        ways = {name: partial(_told, name, way) for name, way in ways_of(work, options).items()}
        print(table(in_turns(ways, options.rounds), work))


def _told(name: str, way: Callable[[], Spent]) -> Spent:
    spent = way()
    print(f"{name}: {spent.seconds:.1f} s", flush=True)  # all of it may take hours
    return spent


def make_inputs(work: Work, options: argparse.Namespace) -> None:
    """Model and images, unless they are there; in a process of its own: its memory would count for those timed."""
    repeats = -(-work.steps * work.batch // options.images)  # one epoch, since kohya's workers start with each
    sizes = {"width": options.width, "resolution": work.resolution, "images": options.images, "repeats": repeats}
    done = work.folder / "inputs.json"
    if not done.exists() or json.loads(done.read_text()) != sizes:
        command: list[str | Path] = [sys.executable, "-m", "benchmarks.inputs", work.folder, *_flags(sizes)]
        spend(command, work.folder / "inputs.txt")


if __name__ == "__main__":
    main()
