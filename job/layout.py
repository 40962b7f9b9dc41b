"""The key of every file and folder that a run writes, relative to the run's folder `<destination>/<name>`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

MANIFEST = "manifest.yaml"
RESOLVED = "resolved.json"
ENVIRONMENT = "environment.json"
IMAGES = "data/images.jsonl"
SOURCE = "data/source.json"
OWN_CAPTIONS = "data/own-captions.json"
CAPTION_HASHES = "data/captions.json"
CAPTIONS = "data/captions"
REPORT = "report"
COMPARISON = "report/comparison.json"
PAGE = "report/report.html"
CURVES = "report/curves.png"
GRID = "report/samples.png"
COPIES = "report/copies.png"
REPORT_PICTURES = "report/pictures"
RATING_PAGE = "report/rate.html"
RATED = "report/rating"
VOTES = "report/votes.json"
THUMBNAILS = "data/thumbnails"
ADAPTERS = "adapters"
ADAPTER_INDEX = "adapters/index.json"
DIFFUSERS_ADAPTERS = "adapters/diffusers"
SUMMARY = "report/summary.md"
MODEL_CARD = "report/README.md"
LINE_ART = "data/line_art.jsonl"
SMALL_IMAGES = "data/small.safetensors"
HELD_OUT_LIKENESS = "data/likeness.jsonl"
UNVERIFIED = "data/unverified.json"
SUCCESS = "_SUCCESS"
VARIANTS = "variants"
SAMPLE_SETS = "samples"
TENSORBOARD = "tensorboard"
SET_UNITS = "samples-"
_UNITS = "units"
COMMIT_NAME = "COMMIT.json"
CACHE = ".cache"
SAMPLES_NAME = "samples"
SAMPLE_INDEX_NAME = "samples.json"


def is_of_run(key: str) -> bool:
    """Whether a file of that key shows that its folder is a run's."""
    return key in (MANIFEST, RESOLVED) or key.startswith((f"{_UNITS}/", f"{VARIANTS}/"))


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
    """The step to which `step_name` gives that name; None for a name that it gives to no step."""
    match = re.fullmatch(r"step-(0\d{5}|[1-9]\d{5,17})", name, re.ASCII)
    return None if match is None else int(match[1])


def steps_with(name: str, folder: str, keys: Iterable[str]) -> tuple[int, ...]:
    """The steps whose own folder, directly below `folder`, holds a file of that name, ascending.

    Args:
        keys: all files below `folder`; among them may be copies that somebody made in folders of other names.
    """
    parts = (key.removeprefix(f"{folder}/").partition("/") for key in keys)
    steps = (step_of(below) for below, _, file in parts if file == name)
    return tuple(sorted(step for step in steps if step is not None))


def unit_status(unit: str) -> str:
    """The file that says how far a unit (`prepare`, `pack-0`, `report`) is."""
    return f"{_UNITS}/{unit}/status.json"


def unit_lease(unit: str) -> str:
    """The file that says which process may write a unit's files."""
    return f"{_UNITS}/{unit}/lease.json"


def micro_batches(unit: str) -> str:
    """The file that says into which micro-batches the updates of a pack's unit are cut."""
    return f"{_UNITS}/{unit}/passes.json"


def begun_evaluation(unit: str) -> str:
    """The file that holds the losses of an unfinished evaluation of a pack's unit."""
    return f"{_UNITS}/{unit}/evaluation.safetensors"


def captions(caption_set: str) -> str:
    """The file with a row for each image's caption in that set."""
    return f"{CAPTIONS}/{caption_set}.jsonl"


def thumbnail(image_id: str) -> str:
    """The file of an image's small picture."""
    return f"{THUMBNAILS}/{image_id}.webp"


def report_picture(name: str) -> str:
    """The file of a picture beside the report's page."""
    return picture_in(REPORT_PICTURES, name)


def rated_picture(name: str) -> str:
    """The file of a picture beside the page for blind rating."""
    return picture_in(RATED, name)


def picture_in(folder: str, name: str) -> str:
    """The file of a picture in a folder of the report."""
    return f"{folder}/{name}.webp"


def member(of: Member) -> str:
    """The folder of one member."""
    return f"{VARIANTS}/{_name_of(of)}"


def _name_of(of: Member) -> str:
    return f"{of.variant}/seed-{of.seed}"


def metrics(of: Member) -> str:
    """The file with a row for each step that a member was trained."""
    return f"{member(of)}/metrics.jsonl"


def validation(of: Member) -> str:
    """The file with a row for each evaluation of a member."""
    return f"{member(of)}/validation.jsonl"


def validation_losses(of: Member, step: int) -> str:
    """The file with the losses behind one row of `validation.jsonl`, of shape [component, image, timestep]."""
    return f"{member(of)}/validation/{step_name(step)}.safetensors"


def start_losses(of: Member) -> str:
    """The file with the losses of a member before its first update, where it starts from a file."""
    return f"{member(of)}/validation/start.safetensors"


def all_checkpoints(of: Member) -> str:
    """The folder of a member's checkpoints."""
    return f"{member(of)}/checkpoints"


def checkpoint(of: Member, step: int) -> str:
    """The folder of one checkpoint."""
    return f"{all_checkpoints(of)}/{step_name(step)}"


def sample_set(name: str) -> str:
    """The folder of a set of samples that are not the study's own."""
    return f"{SAMPLE_SETS}/{name}"


def set_settings(name: str) -> str:
    """The file that says which samples a set is of; written before all of them."""
    return f"{sample_set(name)}/set.json"


def set_measures(name: str) -> str:
    """The file with the measures of a set's samples; written after all of them."""
    return f"{sample_set(name)}/measures.json"


def set_grid(name: str) -> str:
    """The picture that shows a set's samples."""
    return f"{sample_set(name)}/samples.png"


def set_copies(name: str) -> str:
    """The picture that shows which of a set's samples are copies of training images."""
    return f"{sample_set(name)}/copies.png"


def set_unit(name: str) -> str:
    """The unit that is held while a set is drawn."""
    return f"{SET_UNITS}{name}"


def all_samples(of: Member, set_name: str = "") -> str:
    """The folder of a member's samples of all steps: the study's own, or those of a set."""
    return f"{sample_set(set_name)}/{_name_of(of)}" if set_name else f"{member(of)}/{SAMPLES_NAME}"


def samples(of: Member, step: int, set_name: str = "") -> str:
    """The folder of a member's samples of one step."""
    return f"{all_samples(of, set_name)}/{step_name(step)}"


def sample_name(prompt: int, sample_seed: int, *, as_trained: bool = False) -> str:
    """The name of one sample's file in the folder of its step; `prompt` counts from 0 in the list of prompts."""
    return f"prompt-{prompt:02d}-seed-{sample_seed}{'-as-trained' if as_trained else ''}.png"


def sample_index(of: Member, step: int, set_name: str = "") -> str:
    """The file that describes a step's samples; written after all of them."""
    return f"{samples(of, step, set_name)}/{SAMPLE_INDEX_NAME}"


def sample_embeddings(of: Member, step: int, set_name: str = "") -> str:
    """The file with the CLIP embeddings of a step's samples, in the order of the index."""
    return f"{samples(of, step, set_name)}/samples.safetensors"


def reference_embeddings(clip_sha256: str) -> str:
    """The file with a CLIP model's embeddings of the images that are used, and of their mirror images."""
    return f"data/clip/{clip_sha256[:16]}.safetensors"


def best(of: Member) -> str:
    """The file that names a member's checkpoint that is best by validation loss, and why it was chosen."""
    return f"{member(of)}/best.json"


def final(of: Member) -> str:
    """The file that names a member's last checkpoint."""
    return f"{member(of)}/final.json"


def adapter_name(of: Member, *, several_seeds: bool) -> str:
    """The name by which a member's adapter is used: with its seed where others of the run have the same variant."""
    return of.adapter_name if several_seeds else of.variant


def adapter(name: str) -> str:
    """The file to use of an adapter, in kohya's format."""
    return f"{ADAPTERS}/{name}.safetensors"


def diffusers_adapter(name: str) -> str:
    """The file to use of an adapter, in diffusers' format."""
    return f"{DIFFUSERS_ADAPTERS}/{name}.safetensors"


def tensorboard(of: Member) -> str:
    """The folder of a member's event files, which TensorBoard reads. Nothing vouches for them: others may be made."""
    return f"{TENSORBOARD}/{_name_of(of)}"
