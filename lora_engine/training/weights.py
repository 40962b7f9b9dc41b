"""Weights, gradients and moments of the adapters that train together: a few large matrices, not thousands of tensors.

Shape legend: K adapters, P weights of one adapter, R rank, I and O features in and out.
"""

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lora_engine.adapters import lora
from lora_engine.config.optimizer import AdamWConfig
from lora_engine.training.optimizers import RowAdamW

_NEGLIGIBLE = 1e-3  # a layer's gradients are this small, relative to the largest layer's, where rounding may rule them

Moments = Mapping[str, Tensor]  # the optimizer's state of one adapter: `exp_avg.<parameter>` and so on


class PackWeights:
    """K adapters of a model as matrices [K, P]: row k is adapter k, layer after layer.

    So a cast, a norm or an update is one operation. PEFT's parameters become views of the rows, as do their gradients.

    Args:
        model: it has had these adapters injected.
        names: of the adapters, in the order of the rows.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], config: AdamWConfig) -> None:
        self._layers, self._names = lora.packed_layers(model), list(names)
        parameters = [lora.parameters(model, name) for name in names]
        self._keys = tuple(parameters[0])
        self._shapes = [weight.shape for weight in parameters[0].values()]
        rows = [torch.cat([weight.detach().flatten() for weight in adapter.values()]) for adapter in parameters]
        self._weights_KP = nn.Parameter(torch.stack(rows))
        self._weights_KP.grad = self.gradients_KP = torch.zeros_like(self._weights_KP)
        for k, adapter in enumerate(parameters):
            views = zip(self._split(self._weights_KP.detach()[k]), self._split(self.gradients_KP[k]), strict=True)
            for weight, (value, gradient) in zip(adapter.values(), views, strict=True):
                weight.data, weight.grad = value, gradient
        self._make_copy(self._layers[0].get_base_layer().weight.dtype)
        self._optimizer = RowAdamW(self._weights_KP, config)

    def _split(self, rows: Tensor) -> list[Tensor]:
        """Views of a row, or of all, parameter by parameter: [..., P] to [..., R, I] and [..., O, R] in turn."""
        parts = torch.split(rows, [shape.numel() for shape in self._shapes], dim=-1)
        return [part.view(*rows.shape[:-1], *shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _make_copy(self, dtype: torch.dtype) -> None:
        """Make what the layers compute with: a copy in the base's dtype, or the weights themselves where they have it.

        Its gradients, `_partial_KP`, are those of the latest backward pass alone where it is a copy.
        """
        self._casts = dtype != self._weights_KP.dtype
        self._copy_KP = self._weights_KP.detach().to(dtype)
        self._partial_KP = torch.zeros_like(self._copy_KP) if self._casts else self.gradients_KP
        # torch warns that each layer's gradients do not lie in one piece. If they did, every row would be in hundreds.
        warnings.filterwarnings("ignore", "grad and param do not obey the gradient layout contract")
        leaves = self._split(self._copy_KP)
        for leaf, gradient in zip(leaves, self._split(self._partial_KP), strict=True):
            leaf.requires_grad_().grad = gradient  # a backward pass adds to a gradient that is there, in place
        self._leaves = list(zip(leaves[::2], leaves[1::2], strict=True))

    def _cast(self) -> None:
        if self._casts:
            # `.data` hides the write from autograd, which refuses to use a slice once the matrix under it was written
            # to in its sight, and the layers may hold slices that an earlier `select` made.
            self._copy_KP.data.copy_(self._weights_KP.detach())

    def select(self, first: int = 0, last: int | None = None) -> None:
        """Let the model compute with the rows from `first` to before `last`, as they are now, and learn them."""
        self._cast()
        whole = first == 0 and last in (None, len(self._names))
        for layer, leaves in zip(self._layers, self._leaves, strict=True):
            layer.enable_adapters(enabled=True)
            layer.set_adapter(self._names)
            # Only a part of the rows is sliced: a slice remembers the stream that it was made on, which breaks the
            # capture of a CUDA graph, and its backward pass takes kernels of its own.
            layer.down_KRI, layer.up_KOR = leaves if whole else (leaf[first:last] for leaf in leaves)

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

    def clip(self, max_norm: float | None) -> Tensor:
        """Scale each adapter's gradient down to a norm of `max_norm` at most; None leaves it as it is.

        Returns:
            The norms before, [K]. Nothing waits for the device.
        """
        norms_K: Tensor = torch.linalg.vector_norm(self.gradients_KP, dim=1)
        if max_norm is not None:
            self.gradients_KP.mul_((max_norm / (norms_K + 1e-6)).clamp(max=1.0).unsqueeze(1))
        return norms_K

    def update(self, learning_rate: float | Tensor, refuse: Tensor) -> None:
        """Let the optimizer update all rows, unless the boolean scalar `refuse` on the device is set.

        Args:
            learning_rate: a number, or a scalar on the device where this is part of a CUDA graph.
        """
        self._optimizer.step(learning_rate, refuse)
        self._cast()

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
        matrices = [self._weights_KP.detach(), self.gradients_KP, self._copy_KP, self._partial_KP]
        return [*matrices, *self._optimizer.tensors()]

    def moments(self, name: str) -> Moments:
        """The optimizer's state of one adapter, live: `<statistic>.<parameter>` to a tensor of the parameter's shape.

        What the optimizer keeps as a scalar stands under every parameter.
        """
        result: dict[str, Tensor] = {}
        for statistic, value in self._optimizer.state(self._names.index(name)).items():
            per_parameter = self._split(value) if value.dim() else [value] * len(self._keys)
            result |= {f"{statistic}.{key}": each for key, each in zip(self._keys, per_parameter, strict=True)}
        return result

    def load_moments(self, name: str, moments: Moments) -> None:
        """Copy the optimizer's state of one adapter, as `moments` gave it, back.

        Raises:
            KeyError, RuntimeError: something is missing, or of another shape.
        """
        for key, live in self.moments(name).items():
            live.copy_(moments[key])
