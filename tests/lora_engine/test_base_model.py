import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from job.preemption import StopFlag
from job.stages.fetch import fetch_model
from lora_engine import base_model
from lora_engine.errors import ModelError
from miniature.architecture import make_stable_diffusion


def ldm_name(key: str) -> str:
    """A diffusers UNet key under the names of the original checkpoints (4 levels, 2 layers a block)."""
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
    """A diffusers VAE tensor as the original checkpoints hold it."""
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


def test_a_single_files_unet_is_that_of_the_folder(all_layers: Path, tmp_path: Path) -> None:
    unet = load_file(all_layers / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(all_layers / "vae" / "diffusion_pytorch_model.safetensors")
    text = load_file(all_layers / "text_encoder" / "model.safetensors")
    checkpoint = {ldm_name(key): value.clone() for key, value in unet.items()}
    checkpoint |= dict(ldm_vae(key, value) for key, value in vae.items())
    prefix = "cond_stage_model.transformer.text_model."
    checkpoint |= {prefix + key.removeprefix("text_model."): value.clone() for key, value in text.items()}
    path = tmp_path / "model.safetensors"
    save_file(checkpoint, path)
    base_model.convert_single_file(path, all_layers, tmp_path / "out")
    converted = load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    assert converted.keys() == unet.keys()
    for key, value in unet.items():
        assert torch.equal(converted[key], value), key
    vae_again = load_file(tmp_path / "out" / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(vae_again[key], value) for key, value in vae.items())
    text_again = load_file(tmp_path / "out" / "text_encoder" / "model.safetensors")
    assert all(torch.equal(text_again[key], value) for key, value in text.items())


def test_what_is_no_checkpoint_is_named(miniature: Path, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors is not"):
        base_model.convert_single_file(tmp_path / "model.safetensors", miniature / "sd", tmp_path / "out")


def test_a_missing_or_pickled_part_is_named(miniature: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unet"):
        base_model.load_unet(tmp_path, torch.float32)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text((miniature / "sd" / "unet" / "config.json").read_text())
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="safetensors"):
        base_model.load_unet(tmp_path, torch.float32)


def test_the_prediction_type_is_that_of_the_scheduler(miniature: Path, tmp_path: Path) -> None:
    assert base_model.load_noise_schedule(miniature / "sd").prediction_type == "epsilon"
    make_stable_diffusion(tmp_path, prediction_type="v_prediction")
    schedule = base_model.load_noise_schedule(tmp_path)
    assert schedule.prediction_type == "v_prediction"
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(schedule.alphas_cumprod_T, (1 - betas).cumprod(0), rtol=1e-4, atol=0)
    config = tmp_path / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": "sample"}))
    with pytest.raises(ModelError, match="sample"):
        base_model.load_noise_schedule(tmp_path)


def test_a_hub_model_is_read_from_the_local_cache(
    miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = "a" * 40
    snapshot = tmp_path / "models--someone--small" / "snapshots" / revision
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(miniature / "sd")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    job = SimpleNamespace(stop=StopFlag())  # all of a job that a hub's model needs
    folder = fetch_model(job, "base_model.source", "hf://someone/small", revision, base_model.FILE_PATTERNS)  # type: ignore[arg-type]
    base_model.load_tokenizer(folder)
