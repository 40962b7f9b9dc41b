"""The names of layers of SD 1.x and 2.x, what files of LoRAs call them, and which part of an adapter a tensor is.

A layer is known by its name in the UNet, or, behind `text_encoder.text_model.`, in the text encoder. Torch-free.
"""

import re
from collections.abc import Collection, Iterable
from typing import Literal

TEXT_ENCODER = "text_encoder"  # the name, in a UNet, of the text encoder that is trained with it
OF_TEXT_ENCODER = f"{TEXT_ENCODER}."  # what the name of a layer of the text encoder begins with
OF_TEXT_MODEL = f"{OF_TEXT_ENCODER}text_model."  # and then, whatever the library calls that level, or if it has none

Part = Literal["down", "up", "alpha", "magnitude"]

_NUMBER = "(?:0|[1-9][0-9]?)"
_ATTENTION = r"attn[12]\.(?:to_[qkv]|to_out\.0)"
_TRANSFORMER = rf"proj_in|proj_out|transformer_blocks\.0\.(?:{_ATTENTION}|ff\.net\.(?:0\.proj|2))"
_BLOCK = (
    rf"attentions\.{_NUMBER}\.(?:{_TRANSFORMER})"
    rf"|resnets\.{_NUMBER}\.(?:conv1|conv2|conv_shortcut|time_emb_proj)"
    r"|(?:down|up)samplers\.0\.conv"
)
_IN_UNET = rf"conv_in|conv_out|time_embedding\.linear_[12]|(?:(?:down|up)_blocks\.{_NUMBER}|mid_block)\.(?:{_BLOCK})"
_IN_TEXT_MODEL = rf"encoder\.layers\.{_NUMBER}\.(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])"
_LAYER = re.compile(rf"(?:{_IN_UNET}|{re.escape(OF_TEXT_MODEL)}(?:{_IN_TEXT_MODEL}))")

# kohya's format has "_" for "." as well, so only these words tell where a name goes on.
_WORDS = re.compile(
    "(down_blocks|up_blocks|mid_block|transformer_blocks|to_q|to_k|to_v|to_out|proj_in|proj_out|time_emb_proj|"
    "time_embedding|linear_1|linear_2|conv_shortcut|conv_in|conv_out|"
    "text_model|self_attn|q_proj|k_proj|v_proj|out_proj)(?=_|$)|_"
)

_PARTS: dict[str, Part] = {  # by how a key ends, longest first
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_magnitude_vector.weight": "magnitude",
    ".lora_magnitude_vector": "magnitude",
    ".lora_down.weight": "down",
    ".lora.down.weight": "down",
    "_lora.down.weight": "down",
    ".lora_up.weight": "up",
    ".lora.up.weight": "up",
    "_lora.up.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".dora_scale": "magnitude",
    ".alpha": "alpha",
}


def is_of_text_encoder(name: str) -> bool:
    """Whether a layer, or a weight of one, is the text encoder's."""
    return name.startswith(OF_TEXT_ENCODER)


def block_of(layer: str) -> str:
    """The part of the model that a layer is in: `down_blocks.0`, `mid_block`, `up_blocks.3`, `text_encoder`."""
    first, second, *_ = [*layer.split("."), ""]
    return f"{first}.{second}" if second.isdigit() else first


def end_of(layer: str, count: int = 1) -> str:
    """The last parts of a name, so many and one more where it ends in a number: `to_q`, `to_out.0`."""
    parts = layer.split(".")
    return ".".join(parts[-count - parts[-1].isdigit() :])


def ends_in(layer: str, ends: Iterable[str]) -> bool:
    """Whether a name is one of these, or ends in one: the rule by which PEFT finds layers."""
    return f".{layer}".endswith(tuple(f".{end}" for end in ends))


def unused_pattern(begins: Iterable[str], layers: Collection[str]) -> tuple[str, str] | None:
    """The first of `lora.patterns` that fits no layer, as a sentence, and what to do; None where all fit one.

    Args:
        layers: the names of those that are adapted, in the order in which their blocks are to be told.
    """
    for begin in begins:
        if not any(f"{name}.".startswith(f"{begin}.") for name in layers):
            return (
                f"lora.patterns names {begin!r}, by which no adapted layer's name begins.",
                f"Choose among {', '.join(dict.fromkeys(map(block_of, layers)))}, or a longer part of a name.",
            )
    return None


def kohya_layer(layer: str) -> str:
    """What kohya's format calls a layer, e.g. `lora_unet_mid_block_attentions_0_proj_in`."""
    if is_of_text_encoder(layer):
        return f"lora_te_{layer.removeprefix(OF_TEXT_ENCODER).replace('.', '_')}"
    return f"lora_unet_{layer.replace('.', '_')}"


def diffusers_name(layer: str) -> str:
    """What diffusers' format calls a layer, e.g. `unet.mid_block.attentions.0.proj_in`."""
    return layer if is_of_text_encoder(layer) else f"unet.{layer}"


def place_of(key: str) -> tuple[str, Part] | None:
    """The layer, and the part of its adapter, that a key of a file names; None where it names none of SD 1.x or 2.x."""
    end = next((end for end in _PARTS if key.endswith(end)), None)
    layer = None if end is None else _layer_of(key.removesuffix(end))
    return None if end is None or layer is None else (layer, _PARTS[end])


def _layer_of(name: str) -> str | None:
    for prefix, begin in (("lora_unet_", ""), ("lora_te_", OF_TEXT_ENCODER)):
        if name.startswith(prefix):
            layer = begin + _WORDS.sub(lambda found: found[1] or ".", name.removeprefix(prefix))
            break
    else:
        if not name.startswith(("unet.", OF_TEXT_ENCODER)):
            return None
        layer = name.removeprefix("unet.").replace(".processor.", ".")
        layer = f"{layer}.0" if layer.endswith(".to_out") else layer  # before diffusers 0.20
        if layer.startswith(f"{OF_TEXT_ENCODER}encoder."):  # of transformers 5, which has no level `text_model`
            layer = f"{OF_TEXT_MODEL}{layer.removeprefix(OF_TEXT_ENCODER)}"
    return layer if _LAYER.fullmatch(layer) else None


_KINDS = {  # of adapters that are none of ours, by what stands in their keys
    "hada_": "a LoHa",
    "lokr_": "a LoKr",
    "oft_": "an OFT adapter",
    ".on_input": "an (IA)3 adapter",
    "lora_mid": "a LoCon whose convolutions are of three parts (CP decomposition)",
    ".lora_E": "an AdaLoRA",
    ".diff_b": "whole differences of weights",
    ".lora_B.bias": "a LoRA with biases",
    "bundle_emb.": "a LoRA with embeddings of its own",
}
_FAMILIES = {  # of base models that are none of ours, by what keys begin with
    "SDXL": (
        *("lora_te1_", "lora_te2_", "text_encoder_2.", "unet.add_embedding.", "lora_unet_add_embedding_"),
        *("lora_unet_input_blocks_", "lora_unet_middle_block_", "lora_unet_output_blocks_", "lora_unet_label_emb_"),
    ),
    "SD 3, FLUX or another transformer": (
        *("transformer.", "lora_transformer_", "diffusion_model.", "lora_unet_double_blocks_"),
        *("lora_unet_single_blocks_", "lora_unet_joint_blocks_", "text_encoder_3.", "lora_te3_"),
    ),
}
_DEEPER = re.compile(r"transformer_blocks[._](?!0[._])[0-9]")  # SDXL has several in a row, SD 1.x and 2.x have one


def other_kind(key: str) -> str | None:
    """What a file with a key is, if not a LoRA or DoRA of SD 1.x or 2.x; None where that is not known."""
    key = f"{key}_b" if key.endswith(".diff") else key
    kind = next((kind for sign, kind in _KINDS.items() if sign in key), None)
    family = next((family for family, begins in _FAMILIES.items() if key.startswith(begins)), None)
    if family is None and _DEEPER.search(key):
        family = "SDXL"
    if family is None:
        return kind
    return f"{kind or 'an adapter'} of {family}"
