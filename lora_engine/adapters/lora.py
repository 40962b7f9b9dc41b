"""LoRA layers that hold one or many adapters, and train the many in one pass.

PEFT owns configuration, injection, naming and initialisation. What is ours is one layer class whose forward gives each
active adapter its own images of the batch: with K active adapters, images [k*B, (k+1)*B) of the batch pass through
adapter k. The layers of the frozen base see one batch of K*B. Adapters of lower ranks than others', or without weights
in a layer, are filled up with zeros there, which compute nothing and have gradients of zero.

Shape legend: K adapters, B images per adapter, N tokens, F features of a token, I and O features in and out, R rank, of
adapters that compute together the largest.
"""

import hashlib
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import peft
import torch
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn

from lora_engine.config.adapter import LoraConfig
from lora_engine.errors import ModelError

Adapter = dict[str, Tensor]  # parameter name without the adapter's own, to fp32 weights, [R, I] or [O, R]

_MOST_RANK = 512  # of `LoraConfig`

# Programs that load kohya's format adapt the linear layers of these blocks alone, and ignore weights for any other.
_KOHYA_BLOCKS = ("Transformer2DModel", "ResnetBlock2D")


class PackedLinear(PeftLinear):  # type: ignore[misc]
    """A linear layer with K active adapters, each on its own K-th of the batch.

    It computes with copies in the base's dtype, which `activate` or `PackWeights.select` put here, so that no forward
    pass casts or stacks anything. Without them it computes as the base.
    """

    down_KRI: Tensor | None = None
    up_KOR: Tensor | None = None
    number = 0  # by which draws tell this layer from others
    dropout: tuple[Tensor, Tensor] | None = None  # see `dropping`
    scale: Tensor | float = 1.0  # of the active adapters' updates, alpha / rank: [K, 1, 1] where they differ

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The base's output plus, for the images of each adapter, that adapter's. [K*B, N, I] -> [K*B, N, O]."""
        if self.disable_adapters or self.down_KRI is None or self.up_KOR is None:
            return self.base_layer(x, *args, **kwargs)  # type: ignore[no-any-return]
        base = self.get_base_layer()
        scale = self.scale
        if self.dropout is not None:
            tokens = x[..., 0].numel() // self.dropout[0].numel()
            scale = scale * _kept(self.number, *self.dropout, tokens, self.down_KRI.shape[1]).to(x.dtype)
        return _PackedLinear.apply(x, base.weight, base.bias, self.down_KRI, self.up_KOR, scale)  # type: ignore[no-any-return, no-untyped-call]

    def ranks(self, names: Sequence[str]) -> list[int]:
        """The rank of each of these adapters here, 0 of one without weights in this layer."""
        return [len(self.lora_A[name].weight) if name in self.lora_A else 0 for name in names]

    def scales(self, names: Sequence[str]) -> list[float]:
        """The factor of each of these adapters' updates here, as `scale` takes them.

        An adapter without weights in this layer has that of another, since any factor of nothing will do.
        """
        known = [self.scaling[name] for name in names if name in self.lora_A]
        return [self.scaling[name] if name in self.lora_A else known[0] if known else 1.0 for name in names]


class _PackedLinear(torch.autograd.Function):
    """A frozen linear layer plus its adapters, forward and backward in as few kernels as there are products.

    Left to autograd, an adapter's output and its input's gradient would be tensors of their own that have to be added
    to the base's: on a GPU that takes as long as the products themselves.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down_KRI: Tensor,
        up_KOR: Tensor,
        scale: Tensor | float,
    ) -> Tensor:
        """[K*B, N, I] -> [K*B, N, O]; N may be any number of dimensions, or none."""
        out = torch.nn.functional.linear(x, weight, bias)
        hidden = torch.bmm(_tokens_of(down_KRI, x), down_KRI.transpose(1, 2))
        if isinstance(scale, Tensor):
            hidden *= scale
        out.view(*hidden.shape[:2], -1).baddbmm_(
            hidden, up_KOR.transpose(1, 2), alpha=1.0 if isinstance(scale, Tensor) else scale
        )
        ctx.save_for_backward(x, weight, down_KRI, up_KOR, hidden)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the input and of the adapters; the base is frozen. [K*B, N, O] -> [K*B, N, I] and so on."""
        x, weight, down_KRI, up_KOR, hidden = ctx.saved_tensors
        grad_tokens = _tokens_of(up_KOR, grads[0])
        grad_hidden = torch.bmm(grad_tokens, up_KOR)
        grad_up = torch.bmm(grad_tokens.transpose(1, 2), hidden)
        if isinstance(ctx.scale, Tensor):  # which `hidden` was multiplied by
            grad_hidden *= ctx.scale
        elif ctx.scale != 1:
            grad_hidden, grad_up = grad_hidden * ctx.scale, grad_up * ctx.scale
        grad_down = torch.bmm(grad_hidden.transpose(1, 2), _tokens_of(down_KRI, x))
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.matmul(grads[0], weight)
            grad_x.view(*grad_hidden.shape[:2], -1).baddbmm_(grad_hidden, down_KRI)
        return grad_x, None, None, grad_down, grad_up, None


def _kept(number: int, keys_KB: Tensor, shares_K: Tensor, tokens: int, rank: int) -> Tensor:
    """What dropout multiplies the hidden values of a layer by: 0, or 1 / (1 - share). [K, B*N, R].

    Each is a hash of the layer, the image's key and the value's place, so it depends on nothing that was drawn before,
    nor on the device, nor on how an update is cut up or filled up. The hash is lowbias32 (Wellons, "Prospecting for
    Hash Functions", 2018).
    """
    places = torch.arange(tokens, device=keys_KB.device).unsqueeze(1) * _MOST_RANK
    places = (places + torch.arange(rank, device=keys_KB.device)).flatten()
    hashes = _mixed(_mixed(keys_KB ^ number).unsqueeze(2) ^ places)
    share_K11 = shares_K.view(-1, 1, 1)
    kept = (hashes >= share_K11.double() * 2**32) / (1 - share_K11)
    return kept.view(len(shares_K), -1, rank)


def _mixed(values: Tensor) -> Tensor:
    """lowbias32 of numbers of 32 bits, int64."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        values = ((values ^ (values >> shift)) * factor) & 0xFFFFFFFF
    return values ^ (values >> 16)


def _tokens_of(adapters: Tensor, values: Tensor) -> Tensor:
    """The tokens of each adapter's images: [K*B, N, F] -> [K, B*N, F], where `adapters` leads with K."""
    return values.reshape(len(adapters), -1, values.shape[-1])


def _peft_config(config: LoraConfig) -> peft.LoraConfig:
    result = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        use_rslora=config.rank_stabilized,
        target_modules=list(config.target_modules),
        init_lora_weights=True,
    )
    result._register_custom_module({nn.Linear: PackedLinear})
    return result


def matching_modules(model: nn.Module, config: LoraConfig) -> dict[str, nn.Module]:
    """The layers that `target_modules` names, by their names in the model and in its order. PEFT applies the same rule.

    Raises:
        ModelError: a target names no layer, or one that is not linear, or that kohya's format cannot carry.
    """
    named: dict[str, nn.Module] = {}
    blocks = tuple(f"{n}." for n, m in model.named_modules() if type(m).__name__ in _KOHYA_BLOCKS)
    kinds = (nn.Linear, PackedLinear)  # the second, where another adapter was injected before
    layers = {n: m for n, m in model.named_modules() if isinstance(m, kinds) and n.startswith(blocks)}
    choose = f"Choose among {', '.join(sorted({_leaf(name) for name in layers}))}."
    for wanted in config.target_modules:
        matches = {n: m for n, m in model.named_modules() if n == wanted or n.endswith(f".{wanted}")}
        if not matches:
            raise ModelError(f"lora.target_modules names {wanted!r}, but the UNet has no such layer.", choose)
        wrong = {name: module for name, module in matches.items() if not isinstance(module, kinds)}
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
        named |= matches
    return {name: module for name, module in model.named_modules() if name in named}


def _leaf(name: str) -> str:
    """The end of a layer's name that a manifest would give: `to_q`, or `to_out.0` where it ends in a number."""
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdigit() and len(parts) > 1 else parts[-1]


def inject(model: nn.Module, adapters: Sequence[tuple[str, int]], config: LoraConfig) -> None:
    """Freeze `model` and give it an adapter for every (name, seed), all active in this order.

    It may have had others injected, of other settings. Adapters stay in fp32 whatever the base's dtype (in fp64 over an
    fp64 base). Adapters of equal seeds start from equal weights: down Kaiming-uniform as PEFT draws it, up zero, so
    that the model computes as the base model does.

    Raises:
        ModelError: a target names no layer, or one that cannot be adapted.
    """
    matching_modules(model, config)
    model.requires_grad_(requires_grad=False)
    for name, seed in adapters:
        with warnings.catch_warnings():
            # PEFT warns of every further adapter, in case only one was meant.
            warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
            peft.inject_adapter_in_model(_peft_config(config), model, adapter_name=name)
        for layer_name, layer in model.named_modules():
            if isinstance(layer, PackedLinear):
                layer.number = zlib.crc32(layer_name.encode())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for layer in packed_layers(model):
                if name in layer.lora_A:
                    _initialise(layer, name)
    activate(model, [name for name, _ in adapters])


def _initialise(layer: PackedLinear, name: str) -> None:
    """Draw an adapter's first weights in fp32 on the CPU, so that they are the same over any base on any device."""
    wide = torch.promote_types(layer.get_base_layer().weight.dtype, torch.float32)
    device = layer.get_base_layer().weight.device
    for part in (layer.lora_A[name], layer.lora_B[name]):
        part.weight.data = torch.empty_like(part.weight, dtype=torch.float32, device="cpu")
    layer.reset_lora_parameters(name, init_lora_weights=True)
    for part in (layer.lora_A[name], layer.lora_B[name]):
        part.weight.data = part.weight.data.to(device, wide)


@contextmanager
def dropping(model: nn.Module, keys: Tensor, shares: Tensor) -> Iterator[None]:
    """Within, the images of each active adapter do without some of the hidden values, between down and up.

    Args:
        keys: a number of 32 bits for each image of each adapter, int64 [K, B].
        shares: of the values that each adapter's images do without, in [0, 1), [K].
    """
    layers = packed_layers(model)
    for layer in layers:
        layer.dropout = keys, shares
    try:
        yield
    finally:
        for layer in layers:
            layer.dropout = None


def packed_layers(model: nn.Module) -> list[PackedLinear]:
    """The layers that have adapters, in the order in which the model names them."""
    return [module for module in model.modules() if isinstance(module, PackedLinear)]


def activate(model: nn.Module, names: Sequence[str], strength: float = 1.0) -> None:
    """Let the model compute with these adapters, as they are now: the batch's k-th part passes through the k-th.

    An adapter may be named more than once. Without names the model computes as the base model.

    Args:
        strength: by which the adapters' updates are multiplied.
    """
    for layer in packed_layers(model):
        layer.enable_adapters(enabled=bool(names))
        layer.down_KRI = layer.up_KOR = None
        if any(ranks := layer.ranks(names)):
            layer.set_adapter(list(names))
            weight, scales = layer.get_base_layer().weight, layer.scales(names)
            layer.scale = scale_of(scales, weight)
            wide = torch.promote_types(weight.dtype, torch.float32)
            downs = weight.new_zeros(len(names), max(ranks), weight.shape[1], dtype=wide)
            ups = weight.new_zeros(len(names), weight.shape[0], max(ranks), dtype=wide)
            for k, (name, rank) in enumerate(zip(names, ranks, strict=True)):
                if rank:
                    downs[k, :rank] = layer.lora_A[name].weight.detach()
                    ups[k, :, :rank] = layer.lora_B[name].weight.detach()
            layer.down_KRI = downs.to(weight.dtype)
            layer.up_KOR = (ups if strength == 1 else strength * ups).to(weight.dtype)


def scale_of(scales: Sequence[float], like: Tensor) -> Tensor | float:
    """The `scale` of a layer whose active adapters have these: a number where they are equal, else [K, 1, 1].

    It is fp32 in a layer of half precision, so that neither way of it rounds the factor that an adapter's file says.
    """
    if len(set(scales)) == 1:
        return scales[0]
    wide = torch.promote_types(like.dtype, torch.float32)
    return torch.tensor(scales, dtype=wide, device=like.device).view(-1, 1, 1)


def parameters(model: nn.Module, name: str) -> Adapter:
    """The trainable parameters of one adapter, live, in the model's order: of each layer down [R, I], then up [O, R].

    Keys are those of PEFT's state dict, e.g. `down_blocks.0...to_q.lora_A.weight`.
    """
    result = {}
    for layer_name, layer in model.named_modules():
        if isinstance(layer, PackedLinear) and name in layer.lora_A:
            result[f"{layer_name}.lora_A.weight"] = layer.lora_A[name].weight
            result[f"{layer_name}.lora_B.weight"] = layer.lora_B[name].weight
    return result


def export(model: nn.Module, name: str) -> Adapter:
    """A copy of one adapter on the CPU, under the keys of `parameters`."""
    live = parameters(model, name)
    return {key: value.detach().to("cpu", copy=True).contiguous() for key, value in live.items()}


def load(model: nn.Module, name: str, adapter: Adapter) -> None:
    """Copy saved weights into an injected adapter.

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
    """The SHA-256, hexadecimal, of an adapter's names and fp32 values, in the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(adapter):
        digest.update(key.encode())
        digest.update(adapter[key].detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
