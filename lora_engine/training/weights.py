"""Weights, gradients and moments of the adapters that train together: a few large matrices, not thousands of tensors.

Shape legend: K adapters, P weights of one adapter, R rank, I and O features in and out.
"""

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lora_engine.adapters import lora
from lora_engine.config.optimizer import AdamWConfig

_NEXT_TO_NOTHING = 1e-3  # of the largest layer's gradients

Moments = Mapping[str, Tensor]  # AdamW's state of one adapter: `exp_avg.<parameter>` and so on


class PackWeights:
    """K adapters of a model; row k of each matrix is adapter k, layer after layer.

    So a cast, a norm or an update is one operation. PEFT's parameters become views of the rows, as do their gradients.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], config: AdamWConfig) -> None:
        self._layers, self._names = lora.packed_layers(model), list(names)
        parameters = [lora.parameters(model, name) for name in names]
        self._keys = tuple(parameters[0])
        self._shapes = [weight.shape for weight in parameters[0].values()]
        rows = [torch.cat([weight.detach().flatten() for weight in of.values()]) for of in parameters]
        self._weights_KP = nn.Parameter(torch.stack(rows))
        self._weights_KP.grad = self.gradients_KP = torch.zeros_like(self._weights_KP)
        for k, of in enumerate(parameters):
            views = zip(self._split(self._weights_KP.detach()[k]), self._split(self.gradients_KP[k]), strict=True)
            for weight, (value, gradient) in zip(of.values(), views, strict=True):
                weight.data, weight.grad = value, gradient
        self._make_copy(self._layers[0].get_base_layer().weight.dtype)
        self._optimizer = self._make_optimizer(config)

    def _split(self, rows: Tensor) -> list[Tensor]:
        """Views of a row, or of all, parameter by parameter: [..., P] to [..., R, I] and [..., O, R] in turn."""
        parts = torch.split(rows, [shape.numel() for shape in self._shapes], dim=-1)
        return [part.view(*rows.shape[:-1], *shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _make_copy(self, dtype: torch.dtype) -> None:
        """What the layers compute with: a copy in the base's dtype, or the weights themselves where that is theirs."""
        self._casts = dtype != self._weights_KP.dtype
        self._copy_KP = self._weights_KP.detach().to(dtype)
        self._partial_KP = torch.zeros_like(self._copy_KP) if self._casts else self.gradients_KP
        # torch would rather have each layer's gradients in one piece; then every row would be in hundreds
        warnings.filterwarnings("ignore", "grad and param do not obey the gradient layout contract")
        leaves = self._split(self._copy_KP)
        for leaf, gradient in zip(leaves, self._split(self._partial_KP), strict=True):
            leaf.requires_grad_().grad = gradient  # backward adds to what is there, in place
        self._leaves = list(zip(leaves[::2], leaves[1::2], strict=True))

    def _cast(self) -> None:
        if self._casts:
            # behind autograd's back, which would not have views of a matrix used again after it has changed
            self._copy_KP.data.copy_(self._weights_KP.detach())

    def _make_optimizer(self, config: AdamWConfig) -> torch.optim.AdamW:
        # The fused kernel is the one that refuses an update on the device (`found_inf`).
        optimizer = torch.optim.AdamW(
            [self._weights_KP],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )
        optimizer.state[self._weights_KP] = {
            "step": torch.zeros((), dtype=torch.float32, device=self._weights_KP.device),
            "exp_avg": torch.zeros_like(self._weights_KP),
            "exp_avg_sq": torch.zeros_like(self._weights_KP),
        }
        return optimizer

    def select(self, first: int = 0, last: int | None = None) -> None:
        """Let the model compute with the rows from `first` to before `last`, as they are now, and learn them."""
        self._cast()
        whole = first == 0 and last in (None, len(self._names))
        for layer, leaves in zip(self._layers, self._leaves, strict=True):
            layer.enable_adapters(enabled=True)
            layer.set_adapter(self._names)
            # a part of a leaf takes kernels of its own, and remembers the stream that it was made on
            layer.down_KRI, layer.up_KOR = leaves if whole else (leaf[first:last] for leaf in leaves)

    def zero_grad(self) -> None:
        """Begin an update."""
        self.gradients_KP.zero_()
        if self._casts:
            self._partial_KP.zero_()

    def accumulate_gradients(self) -> None:
        """After a backward pass: add what it gave."""
        if self._casts:
            self.gradients_KP.add_(self._partial_KP)
            self._partial_KP.zero_()

    def clip(self, max_norm: float | None) -> Tensor:
        """Each adapter's gradient norm, [K], after which it is `max_norm` at most. Nothing waits for the device."""
        norms_K: Tensor = torch.linalg.vector_norm(self.gradients_KP, dim=1)
        if max_norm is not None:
            self.gradients_KP.mul_((max_norm / (norms_K + 1e-6)).clamp(max=1.0).unsqueeze(1))
        return norms_K

    def update(self, learning_rate: float | Tensor, refuse: Tensor) -> None:
        """AdamW's update of all rows, unless the boolean on the device says otherwise."""
        group = self._optimizer.param_groups[0]
        group["lr"], group["capturable"] = learning_rate, isinstance(learning_rate, Tensor)
        self._optimizer.found_inf = refuse.float()  # type: ignore[attr-defined]
        self._optimizer.step()
        self._cast()

    def relative_error(self, found_KP: Tensor, true_KP: Tensor) -> float:
        """The largest of any layer's gradients but for those that are next to nothing; NaN where one is not finite.

        Waits for the device.
        """
        pairs = zip(self._split(found_KP), self._split(true_KP), strict=True)
        norms = [((found - true).flatten(1).norm(dim=1), true.flatten(1).norm(dim=1)) for found, true in pairs]
        wrong, size = (torch.stack(side) for side in zip(*norms, strict=True))
        matters = ~(size <= _NEXT_TO_NOTHING * size.max())  # true of NaN
        return float((wrong[matters] / size[matters]).max()) if matters.any() else 0.0

    def tensors(self) -> list[Tensor]:
        """All that an update changes, live."""
        matrices = [self._weights_KP.detach(), self.gradients_KP, self._copy_KP, self._partial_KP]
        return [*matrices, *self._optimizer.state[self._weights_KP].values()]

    def moments(self, name: str) -> Moments:
        """The optimizer's state of one adapter, live."""
        row, state = self._names.index(name), self._optimizer.state[self._weights_KP]
        result = {f"step.{key}": state["step"] for key in self._keys}
        for part in ("exp_avg", "exp_avg_sq"):
            result |= {f"{part}.{key}": v for key, v in zip(self._keys, self._split(state[part][row]), strict=True)}
        return result

    def load_moments(self, name: str, moments: Moments) -> None:
        """Put the optimizer's state of one adapter back.

        Raises:
            KeyError, RuntimeError: something is missing, or of another shape.
        """
        for key, live in self.moments(name).items():
            live.copy_(moments[key])
