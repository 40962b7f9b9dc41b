"""Run the study's job at real size on this machine: SD 1.5- and BLIP base-shaped models with random weights.

Usage: real_size.py FOLDER [--steps 4] [--images 16] [--precision auto] [--set KEY=VALUE ...]. Prints time per stage and
peak memory. With the text encoder: --set lora.text_encoder={}
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import torch

from drawings import write_drawings
from miniature.architecture import SD_15, make_blip, make_stable_diffusion

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--precision", default="auto")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the manifest"
    )
    options = parser.parse_args()
    folder: Path = options.folder
    if not (folder / "sd" / "model_index.json").exists():
        make_stable_diffusion(folder / "sd", sizes=SD_15, dtype=torch.float16)
        make_blip(folder / "blip", full_size=True)
    write_drawings(folder / "images", options.images, size=512, style="line", purpose="lora")
    name = f"real-size-{options.precision}"
    overrides = {
        "name": name,
        "base_model.source": folder / "sd",
        "captioner.source": folder / "blip",
        "captioner.max_new_tokens": 20,
        "dataset.source": folder / "images",
        "dataset.validation_min": 4,
        "preprocess.resolution": 384,
        "lora.rank": 8,
        "lora.alpha": 8,
        "training.steps": options.steps,
        "training.batch_size": 1,
        "training.schedule.warmup_steps": 1,
        "training.precision": options.precision,
        "evaluation.every": options.steps,
        "evaluation.timesteps": 1,
        "evaluation.final_timesteps": 1,
        "evaluation.batch_size": 2,
        "evaluation.samples": "null",
        "output.destination": folder / "runs",
    }
    sets = [part for key, value in overrides.items() for part in ("--set", f"{key}={value}")]
    sets += [part for line in options.set for part in ("--set", line)]
    command = [Path(sys.executable).parent / "lora-job", "run", ROOT / "manifests" / "quickstart.yaml", *sets]
    subprocess.run([*command, "--workdir", folder / "scratch"], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    report = json.loads((folder / "runs" / name / "report" / "comparison.json").read_text())
    for unit, stages in report["timing"].items():
        for stage, seconds in stages.items():
            print(f"{unit:10} {stage:12} {seconds:8.1f} s")
    print(f"peak memory of the largest process {peak / 2**30:.1f} GiB")
    print(f"adapters' losses {[round(member['final_loss'], 5) for member in report['members']]}")


if __name__ == "__main__":
    main()
