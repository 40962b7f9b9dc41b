"""Weights, gradients and moments of the adapters that train together: a few large matrices, not thousands of tensors.

Shape legend: K adapters, P weights of one adapter as it is filled up, R the largest rank in a layer.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from lora_engine.adapters import lora
from lora_engine.adapters.layer_names import is_of_text_encoder
from lora_engine.adapters.packed import MAGNITUDE, PackedConv2d, PackedLinear
from lora_engine.config.ema import EmaConfig
from lora_engine.config.optimizer import AnyOptimizer
from lora_engine.training.ema import WeightAverage
from lora_engine.training.optimizers.make import make_optimizer

_NEGLIGIBLE = 1e-3  # a layer's gradients are this small, relative to the largest layer's, where rounding may rule them

Moments = Mapping[str, Tensor]  # the optimizer's state of one adapter: `exp_avg.<parameter>` and so on


@dataclass(frozen=True)
class Row:
    """How the weights of one adapter are updated."""

    name: str  # of the adapter
    optimizer: AnyOptimizer
    plus_ratio: float | None = None  # see `LoraConfig`
    max_grad_norm: float | None = None  # that its gradient is clipped to; None does not clip
    ema: EmaConfig | None = None  # None does not average
    text_encoder_rate: float | None = None  # of the text encoder's weights, a factor of the others'; None is the same
    is_text_encoder_done: bool = False  # whether those stay as they are


class PackWeights:
    """K adapters of a model as matrices [K, P]: row k is adapter k, layer after layer.

    So a cast or a norm is one operation. PEFT's parameters become views of the rows, as do their gradients. In a layer
    where an adapter has a lower rank than another, or no weights, its row has zeros that nothing changes: a gradient
    there is a product with those zeros.

    Args:
        model: it has had these adapters injected.
    """

    def __init__(self, model: nn.Module, rows: Sequence[Row]) -> None:
        self._names = [row.name for row in rows]
        layers = {n: m for n, m in model.named_modules() if isinstance(m, PackedLinear | PackedConv2d)}
        shapes = {name: layer.shapes(self._names) for name, layer in layers.items()}
        self._layers = [layer for name, layer in layers.items() if shapes[name]]
        self._others = [layer for name, layer in layers.items() if not shapes[name]]
        # Made once: what is copied to a GPU within an update keeps that from being captured as a graph.
        self._scales = [lora.scale_of(layer.scales(self._names), layer.base.weight) for layer in self._layers]
        self._keys = tuple(f"{name}.{part}" for name, parts in shapes.items() for part in parts)
        self._shapes = [shape for parts in shapes.values() for shape in parts.values()]
        self._parts_of_layers = [len(parts) for parts in shapes.values() if parts]
        parameters = [lora.parameters(model, name) for name in self._names]
        self._own = [{key: weight.shape for key, weight in adapter.items()} for adapter in parameters]
        like = next(iter(parameters[0].values())).detach()
        self._weights_KP = like.new_zeros(len(rows), sum(shape.numel() for shape in self._shapes))
        self.gradients_KP = torch.zeros_like(self._weights_KP)
        for k, adapter in enumerate(parameters):
            values, gradients = self._own_parts(k, self._weights_KP[k]), self._own_parts(k, self.gradients_KP[k])
            for key, weight in adapter.items():
                values[key].copy_(weight.detach())
                weight.data, weight.grad = values[key], gradients[key]
        is_dora = any(key.endswith(MAGNITUDE) for key in self._keys)
        self._make_copy(like.dtype if is_dora else self._layers[0].base.weight.dtype)
        self._max_norms = [math.inf if row.max_grad_norm is None else row.max_grad_norm for row in rows]
        self._max_norms_K = torch.tensor(self._max_norms, dtype=like.dtype, device=like.device)
        self._is_text_encoder_done = [row.is_text_encoder_done for row in rows]
        sizes = zip(self._keys, self._shapes, strict=True)
        # Its weights stand after all of the UNet's.
        self._text_encoder_at = sum(shape.numel() for key, shape in sizes if not is_of_text_encoder(key))
        self._optimizers = [
            make_optimizer(weights_P, gradient_P, row.optimizer, self._rate_factors(row))
            for weights_P, gradient_P, row in zip(self._weights_KP, self.gradients_KP, rows, strict=True)
        ]
        self._averages = [
            None if row.ema is None else WeightAverage(weights_P, row.ema)
            for weights_P, row in zip(self._weights_KP, rows, strict=True)
        ]

    def _rate_factors(self, row: Row) -> Tensor | None:
        """By how much each weight's learning rate is the row's; None where it is the row's everywhere. [P]."""
        if row.plus_ratio is None and row.text_encoder_rate is None:
            return None
        factors_P = torch.ones_like(self._weights_KP[0])
        for key, part in zip(self._keys, self._split(factors_P), strict=True):
            if row.plus_ratio is not None and key.endswith(".lora_B.weight"):
                part.mul_(row.plus_ratio)
            if row.text_encoder_rate is not None and is_of_text_encoder(key):
                part.mul_(0.0 if row.is_text_encoder_done else row.text_encoder_rate)
        return factors_P

    def _own_parts(self, k: int, row: Tensor) -> dict[str, Tensor]:
        """Views of a row, [P], by the names of the parameters of adapter k, and of their shapes: without the zeros."""
        parts, own = dict(zip(self._keys, self._split(row), strict=True)), self._own[k]
        return {key: parts[key][tuple(slice(size) for size in shape)] for key, shape in own.items()}

    def _split(self, rows: Tensor) -> list[Tensor]:
        """Views of a row, or of all, parameter by parameter: [..., P] to [..., *shape] of each."""
        parts = torch.split(rows, [shape.numel() for shape in self._shapes], dim=-1)
        return [part.view(*rows.shape[:-1], *shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _make_copy(self, dtype: torch.dtype) -> None:
        """Make what the layers compute with: a copy in the base's dtype, or the weights themselves where they have it.

        Its gradients, `_partial_KP`, are those of the latest backward pass alone where it is a copy.
        """
        self._casts = dtype != self._weights_KP.dtype
        # `.data` hides writes to the weights from autograd, which refuses to use a slice once the matrix under it was
        # written to in its sight, and the layers may hold slices that an earlier `select` made.
        self._copy_KP = self._weights_KP.data.to(dtype)
        self._partial_KP = torch.zeros_like(self._copy_KP) if self._casts else self.gradients_KP
        # torch warns that each layer's gradients do not lie in one piece. If they did, every row would be in hundreds.
        warnings.filterwarnings("ignore", "grad and param do not obey the gradient layout contract")
        leaves = self._split(self._copy_KP)
        for leaf, gradient in zip(leaves, self._split(self._partial_KP), strict=True):
            leaf.requires_grad_().grad = gradient  # a backward pass adds to a gradient that is there, in place
        each = iter(leaves)
        self._leaves = [tuple(islice(each, count)) for count in self._parts_of_layers]

    def _cast(self) -> None:
        if self._casts:
            self._copy_KP.data.copy_(self._weights_KP)

    def select(self, first: int = 0, last: int | None = None) -> None:
        """Let the model compute with the rows from `first` to before `last`, as they are now, and learn them."""
        self._cast()
        whole = first == 0 and last in (None, len(self._names))
        for layer in self._others:
            layer.clear()
        for layer, leaves, scale in zip(self._layers, self._leaves, self._scales, strict=True):
            layer.enable_adapters(enabled=True)
            layer.set_adapter(self._names)
            layer.scale = scale[first:last] if isinstance(scale, Tensor) else scale
            # Only a part of the rows is sliced: a slice remembers the stream that it was made on, which breaks the
            # capture of a CUDA graph, and its backward pass takes kernels of its own.
            layer.compute_with(*(leaves if whole else (leaf[first:last] for leaf in leaves)))

    def zero_grad(self) -> None:
        """Forget the gradients of the update before."""
        self.gradients_KP.zero_()
        if self._casts:
            self._partial_KP.zero_()

    def accumulate(self) -> None:
        """Add what the latest backward pass gave to `gradients_KP`."""
        if self._casts:
            self.gradients_KP.add_(self._partial_KP)
            self._partial_KP.zero_()

    def clip(self) -> Tensor:
        """Scale each adapter's gradient down to a norm of its row's `max_grad_norm` at most.

        Where the text encoder's weights stay as they are, they have no gradient.

        Returns:
            The norms before, [K]. Nothing waits for the device.
        """
        for k, is_done in enumerate(self._is_text_encoder_done):
            if is_done:  # They are set, and not multiplied, so that they may be NaN.
                self.gradients_KP[k, self._text_encoder_at :].zero_()
        norms_K: Tensor = torch.linalg.vector_norm(self.gradients_KP, dim=1)
        if any(map(math.isfinite, self._max_norms)):
            self.gradients_KP.mul_((self._max_norms_K / (norms_K + 1e-6)).clamp(max=1.0).unsqueeze(1))
        return norms_K

    def update(self, rates: Sequence[float] | Tensor, refuse_K: Tensor) -> None:
        """Let the optimizers update the rows, but for those of which `refuse_K`, boolean and on the device, is set.

        Args:
            rates: each row's learning rate, or [K] on the device where this is part of a CUDA graph.
        """
        for optimizer, average, rate, refuse in zip(self._optimizers, self._averages, rates, refuse_K, strict=True):
            optimizer.step(rate, refuse)
            if average is not None:
                average.update(refuse)
        self._cast()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, adapters whose averaged weights are those to use have them in place of those that are trained."""
        swapped = []
        for k, average in enumerate(self._averages):
            used = self._optimizers[k].averaged() if average is None else average.averaged()
            if used is not None:
                swapped.append((self._weights_KP[k], self._weights_KP[k].clone()))
                self._weights_KP[k].copy_(used)
        try:
            yield
        finally:
            for row, trained in swapped:
                row.copy_(trained)

    def measured(self, name: str) -> Tensor:
        """A number of that name that optimizers know about their rows, NaN of those that do not. [K], on the device."""
        unknown = torch.full((), math.nan, dtype=self._weights_KP.dtype, device=self._weights_KP.device)
        known = [optimizer.measured().get(name, unknown) for optimizer in self._optimizers]
        return torch.stack([value.to(unknown.dtype) for value in known])

    def relative_error(self, computed_KP: Tensor, true_KP: Tensor) -> float:
        """How wrong gradients are: the largest relative error of any layer's of any adapter.

        Layers whose true gradients are next to nothing do not count. NaN where a gradient is not finite. Waits for the
        device.
        """
        pairs = zip(self._split(computed_KP), self._split(true_KP), strict=True)
        norms = [((computed - true).flatten(1).norm(dim=1), true.flatten(1).norm(dim=1)) for computed, true in pairs]
        wrong, size = (torch.stack(side) for side in zip(*norms, strict=True))
        matters = ~(size <= _NEGLIGIBLE * size.max())  # so a NaN matters
        return float((wrong[matters] / size[matters]).max()) if matters.any() else 0.0

    def tensors(self) -> list[Tensor]:
        """All tensors that an update changes, live."""
        matrices = [self._weights_KP, self.gradients_KP, self._copy_KP, self._partial_KP]
        return [*matrices, *(tensor for k in range(len(self._names)) for tensor in self._row_state(k).values())]

    def _row_state(self, k: int) -> dict[str, Tensor]:
        """The state of one row's optimizer and average, live: scalars, and [P]."""
        average = self._averages[k]
        return self._optimizers[k].state() | ({} if average is None else average.state())

    def moments(self, name: str) -> Moments:
        """The optimizer's state of one adapter, live: `<statistic>.<parameter>` to a tensor of the parameter's shape.

        What the optimizer keeps as a scalar stands under every parameter.
        """
        result: dict[str, Tensor] = {}
        k = self._names.index(name)
        for statistic, value in self._row_state(k).items():
            parts = self._own_parts(k, value) if value.dim() else dict.fromkeys(self._own[k], value)
            result |= {f"{statistic}.{key}": part for key, part in parts.items()}
        return result

    def load_moments(self, name: str, moments: Moments) -> None:
        """Copy the optimizer's state of one adapter, as `moments` gave it, back.

        Raises:
            KeyError, RuntimeError: something is missing, or of another shape.
        """
        for key, live in self.moments(name).items():
            live.copy_(moments[key])
