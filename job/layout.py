"""Every key that a run writes, relative to its folder `<destination>/<name>`. Pure."""

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


def member(variant: str, seed: int) -> str:
    """The folder of one adapter: a variant trained with one seed."""
    return f"{VARIANTS}/{variant}/seed-{seed}"


def metrics(variant: str, seed: int) -> str:
    """A row a step."""
    return f"{member(variant, seed)}/metrics.jsonl"


def validation(variant: str, seed: int) -> str:
    """A row an evaluation."""
    return f"{member(variant, seed)}/validation.jsonl"


def validation_losses(variant: str, seed: int, step: int) -> str:
    """The losses behind one row of `validation.jsonl`, shape [caption_set, image, timestep]."""
    return f"{member(variant, seed)}/validation/step-{step:06d}.safetensors"


def checkpoint(variant: str, seed: int, step: int) -> str:
    """The folder of one checkpoint."""
    return f"{member(variant, seed)}/checkpoints/step-{step:06d}"


def samples(variant: str, seed: int, step: int) -> str:
    """The folder of the images that an adapter drew at one step."""
    return f"{member(variant, seed)}/samples/step-{step:06d}"


def sample_name(prompt: int, sample_seed: int) -> str:
    """One image within that folder; `prompt` counts from 0 in the manifest's list."""
    return f"prompt-{prompt:02d}-seed-{sample_seed}.png"


def sample_index(variant: str, seed: int, step: int) -> str:
    """What the images of a step are and how they measure; written after all of them."""
    return f"{samples(variant, seed, step)}/samples.json"


def best(variant: str, seed: int) -> str:
    """Which checkpoint has the lowest validation loss, and why it was chosen."""
    return f"{member(variant, seed)}/best.json"


def final(variant: str, seed: int) -> str:
    """The last checkpoint."""
    return f"{member(variant, seed)}/final.json"
