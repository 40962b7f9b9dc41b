"""Every key that a run writes, relative to its folder `<destination>/<name>`. Pure."""

import re
from dataclasses import dataclass

MANIFEST = "manifest.yaml"
RESOLVED = "resolved.json"
ENVIRONMENT = "environment.json"
IMAGES = "data/images.jsonl"
SOURCE = "data/source.json"
COMPARISON = "report/comparison.json"
CURVES = "report/curves.png"
GRID = "report/samples.png"
TRAINING_MEASURES = "data/line_art.jsonl"
SUCCESS = "_SUCCESS"
VARIANTS = "variants"
COMMIT_NAME = "COMMIT.json"
CACHE = ".cache"
SAMPLE_INDEX_NAME = "samples.json"


@dataclass(frozen=True)
class Member:
    """One adapter of a run: a variant trained with one seed."""

    variant: str
    seed: int

    @property
    def adapter_name(self) -> str:
        """The adapter's name within the UNet."""
        return f"{self.variant}-seed-{self.seed}"


def step_name(step: int) -> str:
    """The name of a file or folder that belongs to one step, without a suffix."""
    return f"step-{step:06d}"


def step_of(name: str) -> int | None:
    """The step that `step_name` gave that name; None for a name that it gives to none."""
    match = re.fullmatch(r"step-(\d{6,})", name)
    return None if match is None else int(match[1])


def unit_status(unit: str) -> str:
    """Where a unit (`prepare`, `pack-0`, `report`) says how far it is."""
    return f"units/{unit}/status.json"


def unit_lease(unit: str) -> str:
    """Who writes a unit's files."""
    return f"units/{unit}/lease.json"


def micro_batches(unit: str) -> str:
    """How a pack's updates are cut up to fit in memory."""
    return f"units/{unit}/passes.json"


def begun_evaluation(unit: str) -> str:
    """The losses of an evaluation that was interrupted."""
    return f"units/{unit}/evaluation.safetensors"


def captions(caption_set: str) -> str:
    """The captions of one strategy."""
    return f"data/captions/{caption_set}.jsonl"


def thumbnail(image_id: str) -> str:
    """A small picture for the report."""
    return f"data/thumbnails/{image_id}.webp"


def member(of: Member) -> str:
    """The folder of one adapter."""
    return f"{VARIANTS}/{of.variant}/seed-{of.seed}"


def metrics(of: Member) -> str:
    """A row a step."""
    return f"{member(of)}/metrics.jsonl"


def validation(of: Member) -> str:
    """A row an evaluation."""
    return f"{member(of)}/validation.jsonl"


def validation_losses(of: Member, step: int) -> str:
    """The losses behind one row of `validation.jsonl`, shape [caption_set, image, timestep]."""
    return f"{member(of)}/validation/{step_name(step)}.safetensors"


def checkpoint(of: Member, step: int) -> str:
    """The folder of one checkpoint."""
    return f"{member(of)}/checkpoints/{step_name(step)}"


def all_samples(of: Member) -> str:
    """The folder of what an adapter generated at any step."""
    return f"{member(of)}/samples"


def samples(of: Member, step: int) -> str:
    """The folder of the images that an adapter generated at one step."""
    return f"{all_samples(of)}/{step_name(step)}"


def sample_name(prompt: int, sample_seed: int) -> str:
    """One image within that folder; `prompt` counts from 0 in the manifest's list."""
    return f"prompt-{prompt:02d}-seed-{sample_seed}.png"


def sample_index(of: Member, step: int) -> str:
    """What the images of a step are and how they measure; written after all of them."""
    return f"{samples(of, step)}/{SAMPLE_INDEX_NAME}"


def best(of: Member) -> str:
    """Which checkpoint has the lowest validation loss, and why it was chosen."""
    return f"{member(of)}/best.json"


def final(of: Member) -> str:
    """The last checkpoint."""
    return f"{member(of)}/final.json"
