"""Which layers of a UNet, and of a text encoder, get adapters."""

from collections.abc import Iterator

from torch import nn

from lora_engine.adapters.layer_names import end_of, ends_in, is_of_text_encoder, unused_pattern
from lora_engine.adapters.packed import PackedConv2d, PackedLayer, PackedLinear
from lora_engine.config.adapter import LISTED, LoraConfig
from lora_engine.errors import ModelError

_LAYERS = (nn.Linear, nn.Conv2d, PackedLinear, PackedConv2d)  # the latter where another adapter was injected before

# Programs that load kohya's format adapt the layers of these blocks alone, and ignore weights for any other.
_TRANSFORMER = ("Transformer2DModel",)
_KOHYA_BLOCKS = (*_TRANSFORMER, "ResnetBlock2D", "Downsample2D", "Upsample2D")
# Of the text encoder kohya adapts the layers of these.
_TEXT_BLOCKS = ("CLIPAttention", "CLIPSdpaAttention", "CLIPFlashAttention2", "CLIPMLP")


def is_spatial(layer: nn.Module) -> bool:
    """Whether a layer is a convolution of more than one pixel."""
    base = layer.base if isinstance(layer, PackedLayer) else layer
    return isinstance(base, nn.Conv2d) and base.kernel_size != (1, 1)


def matching_modules(unet: nn.Module, config: LoraConfig) -> dict[str, nn.Module]:
    """The layers of the UNet that `target_modules` asks for, by their names and in its order.

    Raises:
        ModelError: a target names no layer, or one of a kind that cannot be adapted, or that kohya's format cannot
            carry; or a pattern fits none of them.
    """
    if isinstance(config.target_modules, str) and config.target_modules not in LISTED:
        found = _by_kind(unet, whole=config.target_modules == "full")
    else:
        found = _by_name(unet, LISTED.get(config.target_modules, config.target_modules))  # type: ignore[arg-type]
    if (unused := unused_pattern(config.patterns, found)) is not None:
        raise ModelError(*unused)
    return found


def _by_kind(unet: nn.Module, *, whole: bool) -> dict[str, nn.Module]:
    """Kohya's own choice: all layers of the transformers but convolutions of more pixels; or all that it can carry."""
    layers = dict(_layers_in(unet, _KOHYA_BLOCKS if whole else _TRANSFORMER))
    return layers if whole else {name: layer for name, layer in layers.items() if not is_spatial(layer)}


def _by_name(unet: nn.Module, targets: tuple[str, ...]) -> dict[str, nn.Module]:
    """The layers with these names, or ends of names, see `ends_in`. Raises ModelError as above."""
    named: dict[str, nn.Module] = {}
    layers = dict(_layers_in(unet, _KOHYA_BLOCKS))
    choose = f"Choose among {', '.join(sorted(set(map(end_of, layers))))}."
    modules = {n: m for n, m in unet.named_modules() if not is_of_text_encoder(n)}
    for wanted in targets:
        matches = {n: m for n, m in modules.items() if ends_in(n, [wanted])}
        if not matches:
            raise ModelError(f"lora.target_modules names {wanted!r}, but the UNet has no such layer.", choose)
        wrong = {name: module for name, module in matches.items() if not isinstance(module, _LAYERS)}
        if wrong:
            name, module = next(iter(wrong.items()))
            raise ModelError(
                f"lora.target_modules names {wanted!r}, but {name} is a {type(module).__name__}.",
                f"Adapters go into linear layers and convolutions only. {choose}",
            )
        lost = next((name for name in matches if name not in layers), None)
        if lost is not None:
            raise ModelError(
                f"lora.target_modules names {wanted!r}, but what loads kohya's format leaves {lost} out.", choose
            )
        named |= matches
    return {name: module for name, module in modules.items() if name in named}


def text_encoder_modules(text_encoder: nn.Module) -> dict[str, nn.Module]:
    """The layers of a text encoder that get adapters where it is trained, by their names and in its order."""
    return dict(_layers_in(text_encoder, _TEXT_BLOCKS))


def _layers_in(model: nn.Module, blocks: tuple[str, ...]) -> Iterator[tuple[str, nn.Module]]:
    """The layers that can be adapted in modules whose classes have these names, with their own names."""
    inside = tuple(f"{name}." for name, module in model.named_modules() if type(module).__name__ in blocks)
    # What a layer that was adapted before is made of is no layer of the model.
    packed = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, PackedLayer))
    for name, module in model.named_modules():
        if isinstance(module, _LAYERS) and name.startswith(inside) and not name.startswith(packed):
            yield name, module
