"""The adapters of a model: put in, named, switched, and taken out.

PEFT owns configuration, injection, naming and initialisation; `packed` has the layers, which are ours.

Shape legend: K adapters, B images per adapter, R rank, I and O features in and out.
"""

import hashlib
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import peft
import torch
from torch import Tensor, nn

from lora_engine.adapters.layer_names import OF_TEXT_ENCODER, TEXT_ENCODER
from lora_engine.adapters.packed import MAGNITUDE, PackedConv2d, PackedLayer, PackedLinear
from lora_engine.adapters.targets import is_spatial, matching_modules, text_encoder_modules
from lora_engine.config.adapter import LoraConfig
from lora_engine.errors import ModelError

# Name of a layer and of a parameter in it, to fp32 weights: down [R, I], up [O, R]; of convolutions [R, I, h, w] and
# [O, R, 1, 1]; and of DoRA the magnitude [O].
Adapter = dict[str, Tensor]


def _peft_config(config: LoraConfig, sizes: Mapping[str, tuple[int, float]]) -> peft.LoraConfig:
    """PEFT's settings of an adapter with these ranks and alphas, by the layers' names."""
    usual = config.rank, config.alpha
    others = {f"^{re.escape(name)}": size for name, size in sizes.items() if size != usual}
    result = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        use_rslora=config.rank_stabilized,
        use_dora=config.kind == "dora",
        target_modules=list(sizes),
        rank_pattern={name: rank for name, (rank, _) in others.items()},
        alpha_pattern={name: alpha for name, (_, alpha) in others.items()},
        init_lora_weights=True,
    )
    result._register_custom_module({nn.Linear: PackedLinear, nn.Conv2d: PackedConv2d})
    return result


def sizes_of(model: nn.Module, config: LoraConfig) -> dict[str, tuple[int, float]]:
    """The rank and alpha of an adapter of these settings in each layer that it goes to, by the layers' names.

    Raises:
        ModelError: a target names no layer, or one that cannot be adapted, or there is no text encoder to train.
    """
    sizes = {n: config.size_of(n, is_spatial=is_spatial(m)) for n, m in matching_modules(model, config).items()}
    if config.text_encoder is not None:
        text_encoder = getattr(model, TEXT_ENCODER, None)
        found = {} if text_encoder is None else text_encoder_modules(text_encoder)
        if not found:
            raise ModelError(
                "lora.text_encoder is there, but the base model's text encoder has no layers as CLIP's has.",
                "Leave lora.text_encoder out, or use a base model of Stable Diffusion 1.x or 2.x.",
            )
        sizes |= {f"{OF_TEXT_ENCODER}{name}": config.size_in_text_encoder for name in found}
    return sizes


def inject(model: nn.Module, adapters: Sequence[tuple[str, int]], config: LoraConfig) -> None:
    """Freeze `model` and give it an adapter for every (name, seed), all active in this order.

    It may have had others injected, of other settings. Adapters stay in fp32 whatever the base's dtype (in fp64 over an
    fp64 base). Adapters of equal seeds start from equal weights: down Kaiming-uniform as PEFT draws it, up zero, so
    that the model computes as the base model does.

    Raises:
        ModelError: a target names no layer, or one that cannot be adapted.
    """
    sizes = sizes_of(model, config)
    model.requires_grad_(requires_grad=False)
    for name, seed in adapters:
        _add(model, name, config, sizes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for layer in packed_layers(model):
                if name in layer.lora_A:
                    _initialise(layer, name)
    activate(model, [name for name, _ in adapters])


def _add(model: nn.Module, name: str, config: LoraConfig, sizes: Mapping[str, tuple[int, float]]) -> None:
    """Let PEFT put in an adapter of these ranks and alphas, by the layers' names."""
    settings = _peft_config(config, sizes)
    packed = {n: layer for n, layer in model.named_modules() if isinstance(layer, PackedLayer)}
    if sizes.keys() <= packed.keys():  # PEFT would walk the whole model, which has more parts with each adapter.
        for layer_name, (rank, alpha) in sizes.items():
            packed[layer_name].update_layer(name, rank, lora_alpha=alpha, config=settings)
        cast(Any, model).peft_config[name] = settings
        return
    with warnings.catch_warnings():
        # PEFT warns of every further adapter, in case only one was meant.
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
        peft.inject_adapter_in_model(settings, model, adapter_name=name)
    for layer_name, layer in model.named_modules():
        if isinstance(layer, PackedLayer):
            layer.number = zlib.crc32(layer_name.encode())


def _initialise(layer: PackedLinear | PackedConv2d, name: str) -> None:
    """Draw an adapter's first weights in fp32 on the CPU, so that they are the same over any base on any device."""
    weight = layer.base.weight
    wide = torch.promote_types(weight.dtype, torch.float32)
    for part in (layer.lora_A[name], layer.lora_B[name]):
        part.weight.data = torch.empty_like(part.weight, dtype=torch.float32, device="cpu")
    layer.reset_lora_parameters(name, init_lora_weights=True)
    for part in (layer.lora_A[name], layer.lora_B[name]):
        part.weight.data = part.weight.data.to(weight.device, wide)
    if name in layer.lora_magnitude_vector:
        layer.lora_magnitude_vector[name].weight = nn.Parameter(weight.detach().to(wide).flatten(1).norm(dim=1))


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


def packed_layers(model: nn.Module) -> list[PackedLinear | PackedConv2d]:
    """The layers that have adapters, in the order in which the model names them."""
    return [module for module in model.modules() if isinstance(module, PackedLinear | PackedConv2d)]


def activate(model: nn.Module, names: Sequence[str], strength: float = 1.0) -> None:
    """Let the model compute with these adapters, as they are now: the batch's k-th part passes through the k-th.

    An adapter may be named more than once. Without names the model computes as the base model.

    Args:
        strength: by which the adapters' updates are multiplied.
    """
    for layer in packed_layers(model):
        layer.enable_adapters(enabled=bool(names))
        layer.clear()
        if shapes := layer.shapes(names):
            layer.set_adapter(list(names))
            weight = layer.base.weight
            layer.scale = scale_of(layer.scales(names), weight)
            wide = torch.promote_types(weight.dtype, torch.float32)
            parts = {part: weight.new_zeros(len(names), *shape, dtype=wide) for part, shape in shapes.items()}
            for k, name in enumerate(names):
                for part, own in layer.weights(name).items():
                    parts[part][k][tuple(slice(size) for size in own.shape)] = own.detach()
            if MAGNITUDE in parts:
                # DoRA computes with its weights as they are, since a rounded magnitude would scale all of the output.
                layer.compute_with(parts["lora_A.weight"], parts["lora_B.weight"], parts[MAGNITUDE], strength)
            else:
                down_KRI, up_KOR = parts.values()
                layer.compute_with(
                    down_KRI.to(weight.dtype), (up_KOR if strength == 1 else strength * up_KOR).to(weight.dtype)
                )


def scale_of(scales: Sequence[float], like: Tensor) -> Tensor | float:
    """The `scale` of a layer whose active adapters have these: a number where they are equal, else [K, 1, 1].

    It is fp32 in a layer of half precision, so that neither way of it rounds the factor that an adapter's file says.
    """
    if len(set(scales)) == 1:
        return scales[0]
    wide = torch.promote_types(like.dtype, torch.float32)
    return torch.tensor(scales, dtype=wide, device=like.device).view(-1, 1, 1)


def parameters(model: nn.Module, name: str) -> Adapter:
    """The trainable parameters of one adapter, live, in the model's order, see `Adapter`.

    Keys are those of PEFT's state dict, e.g. `down_blocks.0...to_q.lora_A.weight`.
    """
    layers = ((n, layer) for n, layer in model.named_modules() if isinstance(layer, PackedLayer))
    return {f"{n}.{part}": weight for n, layer in layers for part, weight in layer.weights(name).items()}


def file_alphas(model: nn.Module, name: str) -> dict[str, float]:
    """The alpha of each layer of an adapter by which readers of its files, who scale by alpha / rank, scale it."""
    layers = ((n, layer) for n, layer in model.named_modules() if isinstance(layer, PackedLayer))
    return {n: layer.file_alpha(name) for n, layer in layers if name in layer.lora_A}


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
