"""LoRA layers that hold one or many adapters, and train the many in one pass.

PEFT owns configuration, injection, naming and initialisation. What is ours is one layer class whose forward gives each
active adapter its own share of the batch: with K active adapters, rows [k*B, (k+1)*B) of the batch pass through
adapter k. The layers of the frozen base see one batch of K*B.

Shape legend: K adapters, B images per adapter, N tokens, I and O features in and out, R rank.
"""

import hashlib
import warnings
from collections.abc import Sequence
from typing import Any

import peft
import torch
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn

from lora_engine.config.adapter import LoraConfig
from lora_engine.errors import ModelError

Adapter = dict[str, Tensor]  # parameter name without the adapter's own, to fp32 master weights

_KOHYA_BLOCKS = ("Transformer2DModel", "ResnetBlock2D")  # whose linear layers all that loads kohya's format adapts


class PackedLinear(PeftLinear):  # type: ignore[misc]
    """A linear layer with K active adapters, each on its own K-th of the batch.

    It computes with copies in the base's dtype, made by `activate` or `pack_weights`: no call casts or stacks anything.
    """

    down_KRI: Tensor | None = None
    up_KOR: Tensor | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Base output plus each adapter's update of its own rows. [K*B, N, I] -> [K*B, N, O]."""
        if self.disable_adapters or self.down_KRI is None or self.up_KOR is None:
            return self.base_layer(x, *args, **kwargs)  # type: ignore[no-any-return]
        base = self.get_base_layer()
        scale = self.scaling[self.active_adapters[0]]  # alpha / rank, the same for all of a pack
        return _PackedLinear.apply(x, base.weight, base.bias, self.down_KRI, self.up_KOR, scale)  # type: ignore[no-any-return, no-untyped-call]


class _PackedLinear(torch.autograd.Function):
    """A frozen linear layer and its adapters' updates, forward and backward in as few kernels as there are products.

    Left to autograd, an update's result and its input's gradient are tensors of their own that have to be added to the
    base's: on a GPU that takes as long as the products themselves.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down_KRI: Tensor, up_KOR: Tensor, scale: float
    ) -> Tensor:
        """[K*B, N, I] -> [K*B, N, O]; other leading dimensions do as well."""
        out = torch.nn.functional.linear(x, weight, bias)
        hidden = torch.bmm(_rows(x, down_KRI), down_KRI.transpose(1, 2))
        out.view(*hidden.shape[:2], -1).baddbmm_(hidden, up_KOR.transpose(1, 2), alpha=scale)
        ctx.save_for_backward(x, weight, down_KRI, up_KOR, hidden)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Of what is not frozen."""
        x, weight, down_KRI, up_KOR, hidden = ctx.saved_tensors
        grad_rows = _rows(grads[0], up_KOR)
        grad_hidden = torch.bmm(grad_rows, up_KOR)
        grad_up = torch.bmm(grad_rows.transpose(1, 2), hidden)
        if ctx.scale != 1:
            grad_hidden, grad_up = grad_hidden * ctx.scale, grad_up * ctx.scale
        grad_down = torch.bmm(grad_hidden.transpose(1, 2), _rows(x, down_KRI))
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.matmul(grads[0], weight)
            grad_x.view(*grad_hidden.shape[:2], -1).baddbmm_(grad_hidden, down_KRI)
        return grad_x, None, None, grad_down, grad_up, None


def _rows(values: Tensor, per_adapter: Tensor) -> Tensor:
    """Each adapter's: [K*B, N, F] -> [K, B*N, F]."""
    return values.reshape(len(per_adapter), -1, values.shape[-1])


def _peft_config(config: LoraConfig) -> peft.LoraConfig:
    result = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=list(config.target_modules), init_lora_weights=True
    )
    result._register_custom_module({nn.Linear: PackedLinear})
    return result


def matching_modules(model: nn.Module, config: LoraConfig) -> dict[str, nn.Module]:
    """The layers that `target_modules` names, in the model's order, by the rule PEFT applies.

    Raises:
        ModelError: a target names no layer, or one that is not linear, or that kohya's format cannot carry.
    """
    found: dict[str, nn.Module] = {}
    blocks = tuple(f"{n}." for n, m in model.named_modules() if type(m).__name__ in _KOHYA_BLOCKS)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.startswith(blocks)}
    choose = f"Choose among {', '.join(sorted({_leaf(name) for name in layers}))}."
    for wanted in config.target_modules:
        matches = {n: m for n, m in model.named_modules() if n == wanted or n.endswith(f".{wanted}")}
        if not matches:
            raise ModelError(f"lora.target_modules names {wanted!r}, but the UNet has no such layer.", choose)
        wrong = {name: module for name, module in matches.items() if not isinstance(module, nn.Linear)}
        if wrong:
            name, module = next(iter(wrong.items()))
            raise ModelError(
                f"lora.target_modules names {wanted!r}, but {name} is a {type(module).__name__}.",
                "Adapters go into linear layers only: name those.",
            )
        lost = next((name for name in matches if name not in layers), None)
        if lost is not None:
            raise ModelError(
                f"lora.target_modules names {wanted!r}, but what loads kohya's format leaves {lost} out.", choose
            )
        found |= matches
    return {name: module for name, module in model.named_modules() if name in found}


def _leaf(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdigit() and len(parts) > 1 else parts[-1]


def inject(model: nn.Module, adapters: Sequence[tuple[str, int]], config: LoraConfig) -> None:
    """Freeze `model` and give it an adapter for every (name, seed), all active in this order.

    Adapters stay in fp32 whatever the base's dtype (in fp64 over an fp64 base). Adapters of equal seeds start from
    equal weights: down from PEFT's Kaiming-uniform draw, up from zero, so that the model is the base model.

    Raises:
        ModelError: see `matching_modules`.
    """
    matching_modules(model, config)
    model.requires_grad_(requires_grad=False)
    for name, seed in adapters:
        with warnings.catch_warnings():
            # PEFT asks whether more than one adapter is meant; it is
            warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
            peft.inject_adapter_in_model(_peft_config(config), model, adapter_name=name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for layer in packed_layers(model):
                _initialise(layer, name)
    activate(model, [name for name, _ in adapters])


def _initialise(layer: PackedLinear, name: str) -> None:
    wide = torch.promote_types(layer.get_base_layer().weight.dtype, torch.float32)
    device = layer.get_base_layer().weight.device
    for part in (layer.lora_A[name], layer.lora_B[name]):
        part.weight.data = torch.empty_like(part.weight, dtype=torch.float32, device="cpu")
    layer.reset_lora_parameters(name, init_lora_weights=True)
    for part in (layer.lora_A[name], layer.lora_B[name]):
        part.weight.data = part.weight.data.to(device, wide)


def packed_layers(model: nn.Module) -> list[PackedLinear]:
    """The layers that have adapters, in the model's order."""
    return [module for module in model.modules() if isinstance(module, PackedLinear)]


def activate(model: nn.Module, names: Sequence[str]) -> None:
    """Make these adapters, with the weights that they have now, share the batch in this order; none: the base model.

    One that is named twice has two shares.
    """
    for layer in packed_layers(model):
        layer.enable_adapters(enabled=bool(names))
        layer.down_KRI = layer.up_KOR = None
        if names:
            layer.set_adapter(list(names))
            dtype = layer.get_base_layer().weight.dtype
            layer.down_KRI = torch.stack([layer.lora_A[name].weight.detach() for name in names]).to(dtype)
            layer.up_KOR = torch.stack([layer.lora_B[name].weight.detach() for name in names]).to(dtype)


def parameters(model: nn.Module, name: str) -> Adapter:
    """The trainable parameters of one adapter, live, in the model's order.

    Keys are those of PEFT's state dict, e.g. `down_blocks.0...to_q.lora_A.weight`.
    """
    result = {}
    for layer_name, layer in model.named_modules():
        if isinstance(layer, PackedLinear):
            result[f"{layer_name}.lora_A.weight"] = layer.lora_A[name].weight
            result[f"{layer_name}.lora_B.weight"] = layer.lora_B[name].weight
    return result


def export(model: nn.Module, name: str) -> Adapter:
    """A copy of one adapter on the CPU, keys as PEFT writes them."""
    live = parameters(model, name)
    return {key: value.detach().to("cpu", copy=True).contiguous() for key, value in live.items()}


def load(model: nn.Module, name: str, adapter: Adapter) -> None:
    """Put saved weights back into an injected adapter.

    Raises:
        ValueError: the keys or shapes are not those of this adapter.
    """
    live = parameters(model, name)
    if live.keys() != adapter.keys():
        raise ValueError(f"adapter {name!r} has {len(live)} tensors, the saved one {len(adapter)} or other names")
    with torch.no_grad():
        for key, tensor in live.items():
            if tensor.shape != adapter[key].shape:
                raise ValueError(f"{key} is {tuple(tensor.shape)}, saved as {tuple(adapter[key].shape)}")
            tensor.copy_(adapter[key])


def weights_sha256(adapter: Adapter) -> str:
    """One hash over names and fp32 values of an adapter, in the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(adapter):
        digest.update(key.encode())
        digest.update(adapter[key].detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
