"""Which files of a model are read: one answer for `validate`, downloads and loaders. It does not import torch."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from lora_engine.errors import ModelError

PICKLES = (".bin", ".ckpt", ".pt", ".pth")  # suffixes of pickles
WITH_WEIGHTS = ("unet", "vae", "text_encoder")  # the parts of a Stable Diffusion pipeline that have weights
LOADED_PICKLES = ("pytorch_model*.bin", "diffusion_pytorch_model*.bin")  # names under which libraries load pickles
_STEMS = ("diffusion_pytorch_model", "model")  # of weights' files, as diffusers and transformers name them
_VARIANTS = (None, "fp16", "bf16")  # of weights that are read, the first that is there
_DOWNLOADS = {"unet": _STEMS[0], "vae": _STEMS[0], "text_encoder": _STEMS[1], "": _STEMS[0]}  # by part; "": a VAE alone

# The files of a pipeline that are read beside its weights.
_SETTINGS = ("model_index.json", *(f"{part}/config.json" for part in WITH_WEIGHTS), "tokenizer/*", "scheduler/*")
# The files of a pipeline that a single-file checkpoint lacks.
CONFIG_PATTERNS = ("model_index.json", "*/config.json", "tokenizer/*", "scheduler/*")


@dataclass(frozen=True)
class Weights:
    """The safetensors of a model, or of one of its parts."""

    variant: str | None  # between stem and suffix, such as fp16; None for the usual names
    index: str | None  # the name of the file that says which tensor is in which file; None for a single file
    file: str  # the name of the single file; with an index, a pattern of names


def find_weights(names: Collection[str]) -> Weights | None:
    """Which of the files in a folder hold its weights; None where none has a name that the libraries know.

    Args:
        names: of the files in that very folder.
    """
    known = (way for stem in _STEMS for way in _ways(stem))
    return next((way for way in known if (way.index or way.file) in names), None)


def _ways(stem: str) -> Iterator[Weights]:
    """How weights may be named, the first that is read first: in several files before one, as diffusers does it."""
    for variant in _VARIANTS:
        name = stem if variant is None else f"{stem}.{variant}"
        index = f"{stem}.safetensors.index.json" if variant is None else f"{stem}.safetensors.index.{variant}.json"
        yield Weights(variant, index, f"{name}-*-of-*.safetensors")
        yield Weights(variant, None, f"{name}.safetensors")


@dataclass(frozen=True)
class Download:
    """The files of a model to fetch: rounds of patterns, of which a later one is for parts that lack weights."""

    settings: tuple[str, ...]  # patterns of files that are no weights
    parts: tuple[str, ...]  # the folders that hold weights; "" for the model's own
    alternatives: bool = False  # whether one part with weights is enough

    def rounds(self) -> Iterator[Mapping[str, tuple[str, ...]]]:
        """The patterns of each part's weights: the usual names first, then several files, then variants."""
        ways = {part: sorted(_ways(_DOWNLOADS[part]), key=_rarity) for part in self.parts}
        for at in range(len(next(iter(ways.values())))):
            yield {part: _patterns(part, found[at]) for part, found in ways.items()}

    def lacking(self, folder: Path) -> tuple[str, ...]:
        """The parts whose weights are not in a model's folder."""
        lacking = tuple(part for part in self.parts if find_weights(_names_in(folder / part)) is None)
        return () if self.alternatives and len(lacking) < len(self.parts) else lacking


def _rarity(weights: Weights) -> tuple[int, bool]:
    return _VARIANTS.index(weights.variant), weights.index is not None


def _patterns(part: str, weights: Weights) -> tuple[str, ...]:
    found = (weights.file,) if weights.index is None else (weights.index, weights.file)
    return tuple(f"{part}/{name}" if part else name for name in found)


def plain_name(part: str) -> str:
    """The usual name of the one file with the weights of a part of a pipeline."""
    return f"{_DOWNLOADS[part]}.safetensors"


def _names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


PIPELINE = Download(_SETTINGS, WITH_WEIGHTS)
VAE = Download(("config.json", "vae/config.json"), ("", "vae"), alternatives=True)  # alone, or in a pipeline


def is_single_file(source: str) -> bool:
    """Whether a place is that of one file of safetensors, by its name."""
    return PurePosixPath(source).suffix.lower() == ".safetensors"


def refuse_pickle(source: str, what: str) -> None:
    """Refuse a file whose name says that it is a pickle.

    Args:
        what: the manifest's key of the model, for messages.

    Raises:
        ModelError: it does.
    """
    path = PurePosixPath(source)
    if path.suffix.lower() in PICKLES:
        raise ModelError(
            f"{what}: {path.name} is a pickle ({path.suffix}), which can run code when it is read.",
            "Name a .safetensors version of it, or convert it to one on a machine that holds nothing of value.",
        )


def no_weights(folder: Path, what: str) -> ModelError:
    """The error of a folder without weights under a name that is read: it says what there is instead."""
    names = _names_in(folder)
    others = sorted(name for name in names if is_single_file(name))
    pickles = sorted(name for name in names if PurePosixPath(name).suffix in PICKLES)
    if others:
        return ModelError(
            f"{what}: {folder.name} has no weights under a name that is read; it holds {', '.join(others[:3])}.",
            f"Rename the one that is meant to {_STEMS[0]}.safetensors (of a text encoder, captioner or CLIP model: "
            f"{_STEMS[1]}.safetensors), or name it by its whole path where it is a whole checkpoint.",
        )
    if not pickles:
        return ModelError(
            f"{what}: {folder.name} has no .safetensors file; it holds no weights.",
            "Check the name and the revision; the weights stand beside their config.json.",
        )
    loaded = any(fnmatch(name, pattern) for name in pickles for pattern in LOADED_PICKLES)
    allowed = f", or set {what.partition('.source')[0]}.allow_pickle: true if you trust its author" if loaded else ""
    return ModelError(
        f"{what}: {folder.name} has no .safetensors file; its weights are pickles ({', '.join(pickles)}), "
        "which can run code.",
        f"Pin a revision that has safetensors (BLIP base: refs/pr/50), convert the model{allowed}.",
    )


def plain_patterns(download: Download) -> tuple[str, ...]:
    """The patterns of a model whose weights have the usual names."""
    first: Mapping[str, Sequence[str]] = next(download.rounds())
    return (*download.settings, *(pattern for patterns in first.values() for pattern in patterns))
