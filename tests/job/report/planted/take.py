"""Take the losses beside this file from finished runs of the planted study.

Usage: take.py STUDY NINE, each the folder of a run; see README.md. Made with the checkout's own code.
"""

import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

from job.layout import IMAGES, RESOLVED, Member, validation_losses
from lora_engine.dataset.randomness import curve_columns
from lora_engine.evaluation.loss_file import unpack_losses

FILE = Path(__file__).parent / "losses.safetensors"
BASE = "base"


def taken(run: Path) -> tuple[npt.NDArray[np.float32], dict[str, list[str]]]:
    """The losses [adapter, component, image, 2] of a run, means over all final timesteps and over the curve's; names.

    The first adapter is the base model.
    """
    resolved = json.loads((run / RESOLVED).read_text())
    rows = [json.loads(line) for line in (run / IMAGES).read_text().splitlines()]
    groups = {row["id"]: row["group"] for row in rows}
    evaluation, steps = resolved["manifest"]["evaluation"], resolved["manifest"]["training"]["steps"]
    members = [Member(**member) for pack in resolved["packs"] for member in pack["members"]]
    files = [(BASE, members[0], 0), *((member.adapter_name, member, steps) for member in members)]
    means, components = [], None
    for _, member, step in files:
        losses = unpack_losses((run / validation_losses(member, step)).read_bytes())
        components, ids = losses.components, losses.image_ids
        curve = [curve_columns(image, evaluation["timesteps"], evaluation["final_timesteps"]) for image in ids]
        whole = losses.losses_ENT.astype(np.float64)
        on_curve = np.take_along_axis(whole, np.stack(curve)[np.newaxis], axis=2)
        means.append(np.stack([whole.mean(axis=2), on_curve.mean(axis=2)], axis=-1))
    assert components is not None
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups[image] for image in ids))}
    names = {
        "adapters": [name for name, _, _ in files],
        "components": list(components),
        "groups": [str(numbers[groups[image]]) for image in ids],
    }
    return np.stack(means).astype(np.float32), names


def read(name: str) -> tuple[npt.NDArray[np.float64], dict[str, list[str]]]:
    """The losses of a run, and their names, as `taken` gave them."""
    with safe_open(FILE, "numpy") as file:
        return file.get_tensor(name).astype(np.float64), json.loads(file.metadata()[name])


def main() -> None:
    runs = {name: taken(Path(folder)) for name, folder in zip(("study", "nine"), sys.argv[1:], strict=True)}
    arrays = {name: losses for name, (losses, _) in runs.items()}
    save_file(arrays, FILE, {name: json.dumps(names) for name, (_, names) in runs.items()})


if __name__ == "__main__":
    main()
