"""Readers of kohya's format, by the rules of the programs that people load such files with.

Each gives the weights of a checkpoint, under the original names, with the updates of a file added. They are written
from the rules by which ComfyUI (comfy/lora.py, comfy/weight_adapter/lora.py), A1111 (extensions-builtin/Lora/
networks.py, network_lora.py) and LyCORIS (lycoris/modules/locon.py) find and compute them, and share nothing with ours.
"""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tests.single_file import ldm_name

Weights = dict[str, Tensor]

TEXT = "cond_stage_model.transformer."


def comfyui(file: Mapping[str, Tensor], checkpoint: Weights, unet_names: list[str]) -> Weights:
    """As ComfyUI: from each layer of the model to the key that a file may have for it.

    Args:
        unet_names: of all weights of the UNet in diffusers' layout.
    """
    keys = {}
    for name in unet_names:
        if name.endswith(".weight"):
            keys[f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}"] = ldm_name(name)
    for layer in range(32):
        for part in ("mlp.fc1", "mlp.fc2", *(f"self_attn.{each}_proj" for each in ("k", "q", "v", "out"))):
            key = f"lora_te_text_model_encoder_layers_{layer}_{part.replace('.', '_')}"
            keys[key] = f"{TEXT}text_model.encoder.layers.{layer}.{part}.weight"
    result, used = dict(checkpoint), set()
    for key, name in keys.items():
        if f"{key}.lora_up.weight" not in file:
            continue
        up, down, alpha = (file[f"{key}.{part}"] for part in ("lora_up.weight", "lora_down.weight", "alpha"))
        update = torch.mm(up.flatten(1), down.flatten(1)).reshape(checkpoint[name].shape)
        result[name] = checkpoint[name] + alpha.item() / down.shape[0] * update
        used |= {f"{key}.{part}" for part in ("lora_up.weight", "lora_down.weight", "alpha")}
    assert used == file.keys(), f"not loaded: {sorted(file.keys() - used)[:3]}"
    return result


def a1111(file: Mapping[str, Tensor], checkpoint: Weights, _: list[str]) -> Weights:
    """As A1111: from each key of a file to the layer of the model."""
    modules = {a1111_layer(name): name for name in checkpoint if name.endswith(".weight")}
    grouped: dict[str, dict[str, Tensor]] = {}
    for key, tensor in file.items():
        name, _, part = key.partition(".")
        grouped.setdefault(compvis_name(name), {})[part] = tensor
    result = dict(checkpoint)
    for name, parts in grouped.items():
        weight = checkpoint[modules[name]]
        up, down = parts["lora_up.weight"], parts["lora_down.weight"]
        update = (up.reshape(up.size(0), -1) @ down.reshape(down.size(0), -1)).reshape(weight.shape)
        assert parts.keys() == {"lora_up.weight", "lora_down.weight", "alpha"}
        result[modules[name]] = weight + update * (parts["alpha"].item() / down.shape[0])
    return result


def a1111_layer(name: str) -> str:
    """What A1111 calls the layer of a checkpoint's weight."""
    name = name.removesuffix(".weight").removeprefix("model.").replace("cond_stage_model.", "")
    return name.replace(".", "_")


def compvis_name(key: str) -> str:
    """The layer that a key of kohya's names, in the original model's words."""
    words = {"conv1": "in_layers_2", "conv2": "out_layers_3", "time_emb_proj": "emb_layers_1"}
    words["conv_shortcut"] = "skip_connection"
    rules: list[tuple[str, Callable[..., str]]] = [
        (
            r"lora_unet_down_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)",
            lambda b, kind, n, end: (
                f"input_blocks_{1 + int(b) * 3 + int(n)}_{kind == 'attentions':d}_{words.get(end, end)}"
            ),
        ),
        (
            r"lora_unet_mid_block_(attentions|resnets)_(\d+)_(.+)",
            lambda kind, n, end: f"middle_block_{1 if kind == 'attentions' else int(n) * 2}_{words.get(end, end)}",
        ),
        (
            r"lora_unet_up_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)",
            lambda b, kind, n, end: (
                f"output_blocks_{int(b) * 3 + int(n)}_{kind == 'attentions':d}_{words.get(end, end)}"
            ),
        ),
        (r"lora_unet_down_blocks_(\d+)_downsamplers_0_conv", lambda b: f"input_blocks_{3 + int(b) * 3}_0_op"),
        (
            r"lora_unet_up_blocks_(\d+)_upsamplers_0_conv",
            lambda b: f"output_blocks_{2 + int(b) * 3}_{2 if int(b) > 0 else 1}_conv",
        ),
    ]
    for pattern, name in rules:
        if found := re.fullmatch(pattern, key):
            return f"diffusion_model_{name(*found.groups())}"
    if found := re.fullmatch(r"lora_te_text_model_encoder_layers_(\d+)_(.+)", key):
        return f"transformer_text_model_encoder_layers_{found[1]}_{found[2]}"
    return key


def lycoris(file: Mapping[str, Tensor], checkpoint: Weights, unet_names: list[str]) -> Weights:
    """As LyCORIS, with the norms of DoRA: the rows of the sum are scaled to them."""
    sums = comfyui(
        {key: tensor for key, tensor in file.items() if not key.endswith(".dora_scale")}, checkpoint, unet_names
    )
    layers = {f"lora_unet_{n.removesuffix('.weight').replace('.', '_')}": ldm_name(n) for n in unet_names}
    layers |= {
        f"lora_te_{n.removeprefix(TEXT).removesuffix('.weight').replace('.', '_')}": n for n in checkpoint if TEXT in n
    }
    for key, norms in file.items():
        if key.endswith(".dora_scale"):
            weight = sums[layers[key.removesuffix(".dora_scale")]]
            assert norms.shape == (len(weight), *[1] * (weight.ndim - 1))
            own = weight.reshape(len(weight), -1).norm(dim=1).reshape(norms.shape)
            sums[layers[key.removesuffix(".dora_scale")]] = weight * (norms / own)
    return sums
