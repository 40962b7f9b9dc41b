"""Writes a pipeline's folder as one checkpoint with the names of the original Stable Diffusion code."""

import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def write_single_file(pipeline: Path, path: Path) -> None:
    """Write UNet, VAE and text encoder of the folder to one `.safetensors` file."""
    save_file(checkpoint_of(pipeline), path)


def checkpoint_of(pipeline: Path, open_clip_prefix: str | None = None) -> dict[str, torch.Tensor]:
    """The tensors of UNet, VAE and text encoder of the folder, by their original names.

    Args:
        open_clip_prefix: under which the text encoder has the names of Stable Diffusion 2.x; None for those of 1.x.
    """
    unet = load_file(pipeline / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(pipeline / "vae" / "diffusion_pytorch_model.safetensors")
    text = load_file(pipeline / "text_encoder" / "model.safetensors")
    checkpoint = {ldm_name(key): value.clone() for key, value in unet.items()}
    checkpoint |= dict(ldm_vae(key, value) for key, value in vae.items())
    if open_clip_prefix is not None:
        return checkpoint | open_clip(text, open_clip_prefix)
    prefix = "cond_stage_model.transformer.text_model."
    checkpoint |= {prefix + key.removeprefix("text_model."): value.clone() for key, value in text.items()}
    return checkpoint


def open_clip(text: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors of a text encoder as checkpoints of Stable Diffusion 2.x name them, with a last layer more.

    Args:
        text: by their names in diffusers layout.
    """
    names = {"embeddings.position_embedding.weight": "positional_embedding", "final_layer_norm.": "ln_final."}
    names |= {
        "embeddings.": "",
        "encoder.layers.": "transformer.resblocks.",
        "layer_norm": "ln_",
        "self_attn.": "attn.",
    }
    names |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    found: dict[str, torch.Tensor] = {"logit_scale": torch.tensor(4.6)}
    for key, value in sorted(text.items()):
        name = key.removeprefix("text_model.")
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        if match := re.fullmatch(r"(.*\.)([qkv])_proj\.(weight|bias)", name):
            at, _, kind = match.groups()
            parts = [text[key.replace(f"{match[2]}_proj", f"{each}_proj")] for each in "qkv"]
            found[f"{at}in_proj_{kind}"] = torch.cat(parts)
        else:
            found[name] = value.clone()
    layers = 1 + max(int(name.split(".")[2]) for name in found if "resblocks" in name)
    first = "transformer.resblocks.0."
    last = {name.replace(first, first.replace("0", str(layers))): v for name, v in found.items() if first in name}
    width = found["ln_final.weight"].shape[0]
    found |= {name: value + 1 for name, value in last.items()} | {"text_projection": torch.eye(width)}
    return {f"{prefix}{name}": value for name, value in found.items()}


def ldm_name(key: str) -> str:
    """The name in original checkpoints of a diffusers UNet's weight (4 levels, 2 layers a block)."""
    rules = [
        (r"^conv_in\.", "input_blocks.0.0."),
        (r"^time_embedding\.linear_1\.", "time_embed.0."),
        (r"^time_embedding\.linear_2\.", "time_embed.2."),
        (r"^conv_norm_out\.", "out.0."),
        (r"^conv_out\.", "out.2."),
        (r"^mid_block\.resnets\.0\.", "middle_block.0."),
        (r"^mid_block\.attentions\.0\.", "middle_block.1."),
        (r"^mid_block\.resnets\.1\.", "middle_block.2."),
    ]
    for pattern, name in rules:
        key = re.sub(pattern, name, key)
    key = re.sub(r"^down_blocks\.(\d)\.(resnets|attentions)\.(\d)\.", down, key)
    key = re.sub(
        r"^down_blocks\.(\d)\.downsamplers\.0\.conv\.", lambda m: f"input_blocks.{3 * int(m[1]) + 3}.0.op.", key
    )
    key = re.sub(r"^up_blocks\.(\d)\.(resnets|attentions)\.(\d)\.", up, key)
    key = re.sub(r"^up_blocks\.(\d)\.upsamplers\.0\.", sampler, key)
    if "transformer_blocks" not in key and re.match(r"(input|output|middle)_block", key):
        names = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1"}
        names |= {"norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
        for ours, theirs in names.items():
            key = key.replace(f".{ours}.", f".{theirs}.")
    return f"model.diffusion_model.{key}"


def down(match: re.Match[str]) -> str:
    return f"input_blocks.{3 * int(match[1]) + int(match[3]) + 1}.{int(match[2] == 'attentions')}."


def downsampler(match: re.Match[str]) -> str:
    return f"input_blocks.{3 * int(match[1]) + 3}.0.op."


def up(match: re.Match[str]) -> str:
    return f"output_blocks.{3 * int(match[1]) + int(match[3])}.{int(match[2] == 'attentions')}."


def sampler(match: re.Match[str]) -> str:
    return f"output_blocks.{3 * int(match[1]) + 2}.{1 if match[1] == '0' else 2}."


def ldm_vae(key: str, value: torch.Tensor) -> tuple[str, torch.Tensor]:
    """The name and the value in original checkpoints of a diffusers VAE's weight."""
    key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{3 - int(m[1])}.block", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", key)
    names = {
        "mid_block.resnets.0": "mid.block_1",
        "mid_block.resnets.1": "mid.block_2",
        "conv_shortcut": "nin_shortcut",
    }
    names |= {"conv_norm_out": "norm_out", "mid_block.attentions.0": "mid.attn_1", "group_norm": "norm"}
    names |= {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    for ours, theirs in names.items():
        key = key.replace(ours, theirs)
    if "attn_1" in key and value.ndim == 2:
        value = value[:, :, None, None]
    return f"first_stage_model.{key}", value.clone()
