"""A LoRA from its file, in kohya's or diffusers' format, as low-rank updates of layers by their names.

Shape legend: R rank, I and O features in and out, h and w the size of a convolution's kernel.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lora_engine.adapters.layer_names import OF_TEXT_ENCODER, Part, is_of_text_encoder, other_kind, place_of
from lora_engine.errors import ModelError
from lora_engine.text import shortened

_REMEDY = "Name a LoRA or DoRA of Stable Diffusion 1.x or 2.x, in kohya's or diffusers' format."
_AGAIN = "Fetch it again, or name another file."
_FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
_INTEGERS = {"I64", "I32", "I16", "I8", "U8"}  # as which an alpha may be stored
_MOST_ALPHA = 1e32  # more than what the largest alpha and rank of a manifest come to
_MOST_VALUES = 2**30  # an adapter of all layers of SD 1.5 at rank 512 has 0.7 of it
_SDXL_WIDTH = 2048  # features of a token in SDXL; SD 1.x has 768, SD 2.x 1024

Keys = dict[str, dict[Part, str]]  # a file's keys, by layer and part


@dataclass(frozen=True)
class LoraLayer:
    """What an adapter adds to the weight of one layer: up @ down * alpha / rank."""

    down: Tensor  # [R, I], or [R, I, h, w] of a convolution
    up: Tensor  # [O, R], or [O, R, 1, 1]
    alpha: float
    magnitude: Tensor | None = None  # [O], of DoRA: the norms that the sum's rows are scaled to

    @property
    def rank(self) -> int:
        """R."""
        return len(self.down)

    @property
    def is_spatial(self) -> bool:
        """Whether it is of a convolution of more than one pixel."""
        return self.down.shape[2:].numel() > 1

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight that it is added to: [O, I], or [O, I, h, w] of more than one pixel."""
        return plain_shape((len(self.up), *self.down.shape[1:]))


@dataclass(frozen=True)
class LoraFile:
    """What a file holds."""

    layers: Mapping[str, LoraLayer]  # by names in the UNet, or, behind `text_encoder.`, in the text encoder
    metadata: Mapping[str, str]


def plain_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """A weight's shape, in which a convolution of one pixel is what it computes as: linear."""
    return tuple(shape[:2]) if all(side == 1 for side in shape[2:]) else tuple(shape)


def read_lora(path: Path) -> LoraFile:
    """Read a file, whatever its format and dtype, on the CPU: fp32 tensors, each layer of finite values alone.

    Raises:
        ModelError: it is damaged, no LoRA of Stable Diffusion 1.x or 2.x, or of a kind that is not read here.
    """
    with _opened(path) as file:
        metadata = file.metadata() or {}
        keys = _by_layer(path, list(file.keys()))
        _check_sizes(path, file, keys)
        alphas = _Alphas(path, metadata)
        layers = {name: _layer(path, name, parts, _tensors(path, file, parts), alphas) for name, parts in keys.items()}
    _check_kind(path, layers)
    return LoraFile(layers, metadata)


def read_once(path: Path) -> LoraFile:
    """As `read_lora` reads it, but a file is read once unless it changes: a run asks for it several times."""
    info = path.stat()
    return _read_once(path, info.st_size, info.st_mtime_ns)


@lru_cache(maxsize=8)
def _read_once(path: Path, _size: int, _changed_ns: int) -> LoraFile:
    return read_lora(path)


def read_metadata(path: Path) -> Mapping[str, str]:
    """What a file says of itself. Raises ModelError where it is damaged."""
    with _opened(path) as file:
        return file.metadata() or {}


def _check_kind(path: Path, layers: Mapping[str, LoraLayer]) -> None:
    """Refuse a model that is DoRA in some layers and LoRA in others, which no loader takes."""
    for of_text_encoder in (False, True):
        own = [layer for name, layer in layers.items() if is_of_text_encoder(name) == of_text_encoder]
        with_norms = sum(layer.magnitude is not None for layer in own)
        if 0 < with_norms < len(own):
            raise ModelError(
                f"{path.name} has the norms of DoRA for {with_norms} of {len(own)} layers "
                f"of the {'text encoder' if of_text_encoder else 'UNet'}.",
                _AGAIN,
            )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path.name} is no safetensors file: {error}.", _AGAIN) from error


def _by_layer(path: Path, keys: list[str]) -> Keys:
    result: Keys = {}
    for key in keys:
        place = place_of(key)
        if place is None:
            raise _no_lora(path, key)
        layer, part = place
        if other := result.setdefault(layer, {}).get(part):
            raise ModelError(f"{path.name} holds {other} and {key}, which are one and the same.", _AGAIN)
        result[layer][part] = key
    if not result:
        raise ModelError(f"{path.name} holds no weights.", _REMEDY)
    return result


def _no_lora(path: Path, key: str) -> ModelError:
    shown = repr(shortened(key, 100))
    if kind := other_kind(key):
        return ModelError(
            f"{path.name} is {kind}: it holds {shown}.",
            f"{_REMEDY} The program that made it can merge it into a base model.",
        )
    return ModelError(f"{path.name} holds {shown}, which is no low-rank weight of a layer.", _REMEDY)


def _check_sizes(path: Path, file: Any, keys: Keys) -> None:
    """Refuse weights that are no floats or too many, before any is read."""
    values = 0
    for key in (key for parts in keys.values() for key in parts.values()):
        found = file.get_slice(key)
        if found.get_dtype() not in (_FLOATS | _INTEGERS if key.endswith(".alpha") else _FLOATS):
            raise ModelError(f"{path.name} holds {key} as {found.get_dtype()}.", "Name one of floats.")
        values += math.prod(found.get_shape())
    if values > _MOST_VALUES:
        raise ModelError(f"{path.name} holds {values:,} values, more than any adapter of SD 1.x.", _REMEDY)


def _tensors(path: Path, file: Any, keys: Mapping[Part, str]) -> dict[Part, Tensor]:
    result: dict[Part, Tensor] = {}
    for part, key in keys.items():
        tensor = file.get_tensor(key).to(torch.float32, copy=True)  # so that nothing holds on to the file
        if not tensor.isfinite().all():
            raise ModelError(f"{path.name} holds values in {key} that are not finite.", _AGAIN)
        result[part] = tensor
    return result


def _layer(
    path: Path, name: str, keys: Mapping[Part, str], tensors: Mapping[Part, Tensor], alphas: "_Alphas"
) -> LoraLayer:
    down, up, magnitude = tensors.get("down"), tensors.get("up"), tensors.get("magnitude")
    if down is None or up is None:
        raise ModelError(f"{path.name} has no {'down' if down is None else 'up'} weights for {name}.", _AGAIN)
    if misfit := _misfit(down, up):
        shapes = f"{list(down.shape)} and {list(up.shape)}"
        raise ModelError(f"{path.name} has weights for {name} of the shapes {shapes}, {misfit}.", _AGAIN)
    if name.endswith((".attn2.to_k", ".attn2.to_v")) and down.shape[1] == _SDXL_WIDTH:
        raise ModelError(f"{path.name} is of SDXL: tokens of {_SDXL_WIDTH} features go into {name}.", _REMEDY)
    alpha = _scalar(path, name, tensors["alpha"]) if "alpha" in tensors else alphas.of(name, len(down))
    norms = None if magnitude is None else _norms(path, keys["magnitude"], magnitude, len(up))
    return LoraLayer(down, up, alpha, norms)


def _misfit(down: Tensor, up: Tensor) -> str:
    """Why two matrices make no update; empty where they do."""
    if (down.ndim, up.ndim) not in ((2, 2), (4, 4)):
        return "which are no two matrices, or kernels of a convolution"
    if not down.numel() or not up.numel():
        return "which hold nothing"
    if up.shape[1] != len(down):
        return "which are of different ranks"
    if up.shape[2:].numel() != 1:
        return "of which the second is more than a pixel wide"
    return ""


def _scalar(path: Path, name: str, alpha: Tensor) -> float:
    if alpha.numel() != 1 or not 0 < alpha.item() <= _MOST_ALPHA:
        raise ModelError(f"{path.name} has an alpha for {name} that is no number above 0.", _AGAIN)
    return float(alpha.item())


def _norms(path: Path, key: str, norms: Tensor, outputs: int) -> Tensor:
    """[O] of what files hold as [O], [O, 1], [O, 1, 1, 1], or, as PEFT of a convolution, [1, O, 1, 1]."""
    shapes = [(outputs,), (outputs, 1), (outputs, 1, 1, 1)]
    if not key.endswith(".dora_scale"):
        shapes.append((1, outputs, 1, 1))
    if norms.shape not in shapes:
        raise ModelError(
            f"{path.name} holds {key} of the shape {list(norms.shape)}, which are no norms of {outputs} outputs.",
            "A DoRA with norms of the inputs, as older versions of LyCORIS made it, is not read here.",
        )
    return norms.flatten()


class _Alphas:
    """The alphas that diffusers' metadata give, by which PEFT scales; else those of diffusers, each the rank."""

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        self._path = path
        text = metadata.get("lora_adapter_metadata")
        try:
            said = {} if text is None else json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._unread("they are no JSON") from error
        if not isinstance(said, dict):
            raise self._unread("they are no JSON object")
        self._said: dict[str, Any] = said
        self._patterns: dict[str, dict[str, tuple[int, Any]]] = {}  # see `_read_patterns`, by part

    def of(self, layer: str, rank: int) -> float:
        """The alpha by which a reader who scales by alpha / rank scales a layer as PEFT would."""
        part = OF_TEXT_ENCODER if is_of_text_encoder(layer) else "unet."
        if not any(key.startswith(part) for key in self._said):
            return float(rank)
        alpha = self._said.get(f"{part}lora_alpha", 8)  # 8 is PEFT's own default
        fitting = self._fitting(part, layer.removeprefix(OF_TEXT_ENCODER))
        if fitting:
            _, alpha = min(fitting, key=lambda each: each[0])
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha <= _MOST_ALPHA:
            raise self._unread(f"they give {layer} an alpha that is no number above 0")
        return alpha * math.sqrt(rank) if self._said.get(f"{part}use_rslora") is True else float(alpha)

    def _read_patterns(self, part: str) -> dict[str, tuple[int, Any]]:
        """The patterns of a part of the model to their places among these, and the alphas that they give.

        A pattern without "^" fits layers that end in it as well, which its name here begins with a "." for.
        """
        patterns = self._said.get(f"{part}alpha_pattern") or {}
        if not isinstance(patterns, dict):
            raise self._unread("their alpha_pattern is no object")
        result: dict[str, tuple[int, Any]] = {}
        for place, (pattern, alpha) in enumerate(patterns.items()):
            literal = pattern.removeprefix("^").replace("\\.", ".")
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.]*", literal):
                raise self._unread("their alpha_pattern has regular expressions, which are not read here")
            result.setdefault(literal, (place, alpha))
            if pattern == literal:
                result.setdefault(f".{literal}", (place, alpha))
        return result

    def _fitting(self, part: str, layer: str) -> list[tuple[int, Any]]:
        """The patterns that PEFT's rule finds in a layer: each is its name, or, but behind "^", an end of that."""
        if part not in self._patterns:
            self._patterns[part] = self._read_patterns(part)
        patterns = self._patterns[part]
        parts = layer.split(".")
        ends = [f".{'.'.join(parts[at:])}" for at in range(1, len(parts))]
        names = [layer, layer.removeprefix("text_model."), *ends]
        return [patterns[name] for name in names if name in patterns]

    def _unread(self, why: str) -> ModelError:
        return ModelError(f"The metadata of {self._path.name} cannot be read: {why}.", _AGAIN)
