"""What an adapter adds to weights, as far as its factors tell: sizes, products, averages, at another strength. Pure.

An update is up @ down * alpha / rank, and that of a convolution has its kernel flattened. Of DoRA it is what is added
before outputs are scaled to their magnitudes, which takes the base model's weights. All is computed in fp64 and without
the update itself, which has O x I numbers.

Shape legend: R rank, I and O features in and out, h and w the size of a convolution's kernel.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lora_engine.adapters.layer_names import block_of
from lora_engine.adapters.lora_file import LoraFile, LoraLayer, plain_shape
from lora_engine.errors import ModelError

WHOLE = ""  # the name under which all blocks stand together
_IN_ORDER = ("", "conv_in", "time_embedding", "down_blocks", "mid_block", "up_blocks", "conv_out", "text_encoder")


def _in_order(blocks: Iterable[str]) -> list[str]:
    """WHOLE, then the blocks as a picture passes through them, and the text encoder."""
    return sorted(blocks, key=lambda block: (_IN_ORDER.index(block.partition(".")[0]), block))


def factors(layer: LoraLayer) -> tuple[Tensor, Tensor]:
    """The update as a product of two matrices, fp64: up with its scale [O, R], and down [R, I*h*w]."""
    return layer.up.flatten(1).double() * (layer.alpha / layer.rank), layer.down.flatten(1).double()


def inner(a: LoraLayer, b: LoraLayer) -> float:
    """The sum over the products of the two updates' numbers, which are of one layer."""
    (up_a, down_a), (up_b, down_b) = factors(a), factors(b)
    return float(((up_a.T @ up_b) * (down_a @ down_b.T)).sum())


def norms(file: LoraFile) -> dict[str, float]:
    """The Frobenius norm of the updates of each block, and under WHOLE of all."""
    squares = {WHOLE: 0.0}
    for name, layer in file.layers.items():
        for block in (WHOLE, block_of(name)):
            squares[block] = squares.get(block, 0.0) + max(inner(layer, layer), 0.0)
    return {block: math.sqrt(squares[block]) for block in _in_order(squares)}


@dataclass(frozen=True)
class Likeness:
    """How alike two adapters' updates are in a block, or as a whole. A layer that only one has counts as zeros."""

    layers: int  # that either has
    norm_a: float  # Frobenius, as all
    norm_b: float
    difference: float  # the norm of a's update less b's
    cosine: float | None  # None where one of them adds nothing


def likenesses(a: LoraFile, b: LoraFile) -> dict[str, Likeness]:
    """How alike two adapters are, by block, and under WHOLE as a whole.

    Raises:
        ModelError: a layer has other sizes in the one than in the other.
    """
    names = list(dict.fromkeys([*a.layers, *b.layers]))
    products: dict[str, float] = {WHOLE: 0.0}
    counts: dict[str, int] = {WHOLE: 0}
    for name in names:
        product = _product(name, a.layers.get(name), b.layers.get(name))
        for block in (WHOLE, block_of(name)):
            products[block] = products.get(block, 0.0) + product
            counts[block] = counts.get(block, 0) + 1
    norms_a, norms_b = norms(a), norms(b)
    return {
        block: _likeness(counts[block], norms_a.get(block, 0.0), norms_b.get(block, 0.0), products[block])
        for block in _in_order(products)
    }


def _product(name: str, a: LoraLayer | None, b: LoraLayer | None) -> float:
    if a is None or b is None:
        return 0.0
    if a.weight_shape != b.weight_shape:
        raise ModelError(
            f"{name} has weights for {list(a.weight_shape)} in the one file and for {list(b.weight_shape)} in the "
            "other.",
            "Name adapters of one base model, or of those that are built alike.",
        )
    return inner(a, b)


def _likeness(layers: int, norm_a: float, norm_b: float, product: float) -> Likeness:
    both = norm_a * norm_b
    cosine = max(-1.0, min(1.0, product / both)) if both > 0 else None
    square = norm_a**2 + norm_b**2 - 2 * product
    return Likeness(layers, norm_a, norm_b, math.sqrt(max(square, 0.0)), cosine)


def scaled(file: LoraFile, strength: float) -> LoraFile:
    """The adapter whose updates are `strength` times as large. Not for DoRA, whose effect is no multiple of these."""
    layers = {name: replace(layer, up=layer.up.float() * strength) for name, layer in file.layers.items()}
    return replace(file, layers=layers)


def averaged(files: Sequence[LoraFile]) -> LoraFile:
    """The adapter whose updates are exactly the mean of the files', of as high a rank as these have together.

    The mean of the factors would be another one: a mean of products is no product of means. A layer that a file lacks
    counts as zeros. The metadata are the last file's. Not for DoRA.
    """
    names = dict.fromkeys(name for file in files for name in file.layers)
    layers = {name: _side_by_side([f.layers[name] for f in files if name in f.layers], len(files)) for name in names}
    return LoraFile(layers, files[-1].metadata)


def _side_by_side(layers: Sequence[LoraLayer], count: int) -> LoraLayer:
    ups = [layer.up.double() * (layer.alpha / layer.rank / count) for layer in layers]
    downs = [layer.down.double() for layer in layers]
    up, down = torch.cat(ups, dim=1), torch.cat(downs)
    return LoraLayer(down, up, float(len(down)))


@dataclass(frozen=True)
class Resized:
    """A layer of another rank, and what that cost."""

    layer: LoraLayer
    norm: float  # Frobenius, of the update before
    error: float  # of what was left out of it


def resized(layer: LoraLayer, rank: int) -> Resized:
    """The closest update of that rank, by Eckart, Young and Mirsky; the layer as it is where its rank is no higher.

    The error is the root of the sum of the squares of the singular values that are left out. The factor alpha / rank
    of a layer that is made is 1.
    """
    up, down = factors(layer)
    (basis_up, core_up), (basis_down, core_down) = torch.linalg.qr(up), torch.linalg.qr(down.T)
    left, values, right = torch.linalg.svd(core_up @ core_down.T, full_matrices=False)
    norm = float(values.norm())
    if rank >= layer.rank:
        return Resized(layer, norm, 0.0)
    kept = min(rank, len(values))
    root = values[:kept].sqrt()
    new_up = basis_up @ left[:, :kept] * root
    new_down = root[:, None] * right[:kept] @ basis_down.T
    new = replace(
        layer,
        down=new_down.reshape(kept, *layer.down.shape[1:]).float(),
        up=new_up.reshape(len(up), kept, *layer.up.shape[2:]).float(),
        alpha=float(kept),
    )
    return Resized(new, norm, float(values[kept:].norm()))


def resize(file: LoraFile, ranks: Mapping[str, int]) -> tuple[LoraFile, dict[str, Resized]]:
    """The adapter with layers of these ranks, by their names, and what each layer's cost."""
    made = {name: resized(layer, ranks[name]) for name, layer in file.layers.items()}
    return replace(file, layers={name: each.layer for name, each in made.items()}), made


def is_dora(layers: Iterable[LoraLayer]) -> bool:
    """Whether a layer scales its outputs to magnitudes of its own."""
    return any(layer.magnitude is not None for layer in layers)


def merged(weight: Tensor, layer: LoraLayer, strength: float = 1.0) -> Tensor:
    """A base model's weight, [O, I] or [O, I, h, w], with a layer's update, in fp32.

    Of DoRA the weight goes `strength` of the way to what it was trained to be, so that 0 is the base model.

    Raises:
        ModelError: the layer is of another size, or the sum is not finite.
    """
    found = plain_shape(weight.shape)
    if layer.weight_shape != found:
        raise ModelError(
            f"the adapter's layer is for weights of {list(layer.weight_shape)}, and the base model's are "
            f"{list(found)}.",
            "Name the base model that it was made for.",
        )
    base = weight.float()
    result = base + strength * difference(base, layer)
    if not bool(result.isfinite().all()):
        raise ModelError("a merged weight is no finite number.", "Name another file, or a smaller strength.")
    return result


def difference(weight: Tensor, layer: LoraLayer) -> Tensor:
    """What an adapter makes of a base model's weight, less that weight, [O, I] or [O, I, h, w].

    DoRA gives each output's weights the length that it learned, after it has added what LoRA does.
    """
    down, up = (part.to(weight.device, weight.dtype) for part in (layer.down, layer.up))
    update: Tensor = (up.flatten(1) @ down.flatten(1)).view_as(weight) * (layer.alpha / layer.rank)
    if layer.magnitude is None:
        return update
    sums, ones = weight + update, [-1] + [1] * (weight.ndim - 1)
    lengths, wanted = sums.flatten(1).norm(dim=1).view(ones), layer.magnitude.to(sums).view(ones)
    difference: Tensor = sums * (wanted / lengths) - weight
    return difference
