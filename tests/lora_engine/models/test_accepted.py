"""Base models as people have them: each is read, or refused with its cause and a remedy in our own words."""

import functools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from job.errors import code_of
from lora_engine.config.adapter import LoraConfig
from lora_engine.errors import ModelError
from lora_engine.models import stable_diffusion
from lora_engine.models.accepted import PIPELINE, VAE, plain_patterns
from lora_engine.models.checkpoint import Header, read_header, require_checkpoint
from lora_engine.models.files import LocalModel, model_sha256
from lora_engine.models.single_file import convert_single_file, convert_vae, require_fitting
from tests.single_file import checkpoint_of

Checkpoint = dict[str, Tensor]
CLIP = "cond_stage_model.transformer."
# Signs of a library's message: its names, its advice, its addresses.
OF_A_LIBRARY = ("from_pretrained", "from_single_file", "torch.", "low_cpu_mem", "https://", "state_dict", "Error")


@pytest.fixture(scope="module")
def whole(all_layers: Path) -> Checkpoint:
    return checkpoint_of(all_layers)


@pytest.fixture(scope="module")
def converted(all_layers: Path, whole: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of what becomes of a checkpoint with the usual names."""
    folder = tmp_path_factory.mktemp("plain")
    save_file(whole, folder / "plain.safetensors")
    convert_single_file(folder / "plain.safetensors", all_layers, folder / "out")
    return model_sha256(folder / "out")


def renamed(old: str, new: str) -> Callable[[Checkpoint], Checkpoint]:
    return lambda whole: {f"{new}{k.removeprefix(old)}" if k.startswith(old) else k: v for k, v in whole.items()}


def only(*prefixes: str) -> Callable[[Checkpoint], Checkpoint]:
    return lambda whole: {key: value for key, value in whole.items() if key.startswith(prefixes)}


def with_first_layer(channels: int) -> Callable[[Checkpoint], Checkpoint]:
    first = "model.diffusion_model.input_blocks.0.0.weight"
    return lambda whole: whole | {first: torch.zeros(whole[first].shape[0], channels, 3, 3)}


def averages(whole: Checkpoint) -> Checkpoint:
    """The UNet's weights as a moving average is stored: their names without dots."""
    unet = only("model.diffusion_model.")(whole)
    return {f"model_ema.{key.removeprefix('model.').replace('.', '')}": value.clone() for key, value in unet.items()}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("UPPER.SAFETENSORS", lambda whole: whole),
        ("novelai.safetensors", renamed(f"{CLIP}text_model.", CLIP)),
        ("sgm.safetensors", renamed(CLIP, "conditioner.embedders.0.transformer.")),
        ("with_ema.safetensors", lambda whole: whole | averages(whole)),
    ],
)
def test_a_checkpoint_with_other_names_is_the_same_model(
    all_layers: Path,
    whole: Checkpoint,
    converted: str,
    tmp_path: Path,
    name: str,
    change: Callable[[Checkpoint], Checkpoint],
) -> None:
    save_file(change(whole), tmp_path / name)
    convert_single_file(tmp_path / name, all_layers, tmp_path / "out")
    assert model_sha256(tmp_path / "out") == converted


@pytest.fixture(scope="module")
def version_2(all_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline with what Stable Diffusion 2.x has instead: linear projections, and OpenCLIP's activation."""
    folder = tmp_path_factory.mktemp("version-2") / "sd"
    shutil.copytree(all_layers, folder)
    for part, change in (("unet", {"use_linear_projection": True}), ("text_encoder", {"hidden_act": "gelu"})):
        path = folder / part / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    UNet2DConditionModel.from_config(json.loads((folder / "unet/config.json").read_text())).save_pretrained(
        folder / "unet"
    )
    return folder


@pytest.mark.parametrize(
    ("prefix", "without"),
    [
        ("cond_stage_model.model.", ""),
        ("conditioner.embedders.0.model.", ""),
        ("conditioner.embedders.0.model.", "text_projection"),
    ],
)
def test_a_checkpoint_of_version_2_is_the_pipeline_that_it_was_made_of(
    version_2: Path, tmp_path: Path, prefix: str, without: str
) -> None:
    path = tmp_path / "v2.safetensors"
    save_file({key: value for key, value in checkpoint_of(version_2, prefix).items() if key != prefix + without}, path)
    convert_single_file(path, version_2, tmp_path / "out")
    for part in ("unet", "vae", "text_encoder"):
        (ours,), (theirs,) = ((folder / part).glob("*.safetensors") for folder in (tmp_path / "out", version_2))
        expected, found = load_file(theirs), load_file(ours)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    made, given = (
        stable_diffusion.load_text_encoder(LocalModel(folder), torch.float32)[1]
        for folder in (tmp_path / "out", version_2)
    )
    tokens = torch.arange(77).reshape(1, 77) % 50
    with torch.no_grad():
        assert torch.equal(made(tokens).last_hidden_state, given(tokens).last_hidden_state)


def test_a_checkpoint_of_version_2_that_cannot_serve_is_refused_by_its_header(
    version_2: Path, all_layers: Path, tmp_path: Path
) -> None:
    """Of another version than the components, without a tensor, and with names that are nobody's."""
    whole, prefix = checkpoint_of(version_2, "cond_stage_model.model."), "cond_stage_model.model."
    ending = "resblocks.1.attn.in_proj_bias"
    for change, components, cause in (
        (lambda key: key, all_layers, "base_model.source: the unet of v2.safetensors does not fit"),
        (
            lambda key: "" if key.endswith(ending) else key,
            version_2,
            r"text_encoder .* lacks encoder\.layers\.1\.self_attn",
        ),
        (lambda key: key.replace(f"{prefix}transformer", f"{prefix}blocks"), version_2, "text_encoder .* lacks"),
    ):
        save_file({change(key): value for key, value in whole.items() if change(key)}, tmp_path / "v2.safetensors")
        with pytest.raises(ModelError, match=cause):
            require_fitting(tmp_path / "v2.safetensors", components)


def lacking(key: str) -> Callable[[Checkpoint], Checkpoint]:
    return lambda whole: {name: value for name, value in whole.items() if name != key}


REFUSED: list[tuple[Callable[[Checkpoint], Checkpoint], str, str]] = [
    (lambda w: averages(w) | only("first_stage_model.", CLIP)(w), "only a moving average", "weights to use"),
    (only("model.diffusion_model.", CLIP), "has no VAE", "base_model.vae"),
    (only("model.diffusion_model."), "has no text encoder", "whole checkpoint"),
    (only("first_stage_model."), "is a VAE alone", "base_model.vae"),
    (lacking("model.diffusion_model.out.2.bias"), "unet of x.safetensors lacks conv_out.bias: 1 of 684", "whole"),
    (lacking("first_stage_model.quant_conv.bias"), "vae of x.safetensors lacks quant_conv.bias: 1 of", "whole"),
    (with_first_layer(9), "for inpainting: its UNet takes 9 channels", "text-to-image"),
    (with_first_layer(8), "for editing by instructions", "text-to-image"),
    (with_first_layer(5), "for depth", "text-to-image"),
    (lambda w: w | {"conditioner.embedders.1.model.x": torch.zeros(1)}, "Stable Diffusion XL", "1.x or 2.x"),
    (lambda _: {"lora_unet_mid.lora_down.weight": torch.zeros(1)}, "adapter (LoRA)", "base model that it is for"),
    (lambda _: {"model.diffusion_model.joint_blocks.0.x": torch.zeros(1)}, "later family", "1.x or 2.x"),
    (lambda _: {"down_blocks.0.resnets.0.x": torch.zeros(1)}, "part of a pipeline", "pipeline's folder"),
    (lambda _: {"control_model.x": torch.zeros(1)}, "ControlNet", "1.x or 2.x"),
    (lambda _: {"x": torch.zeros(1)}, "holds no UNet", "1.x or 2.x"),
    (
        lambda w: w | {f"{CLIP}text_model.final_layer_norm.bias": torch.zeros(7)},
        "does not fit its configuration: final_layer_norm.bias is [7], and not [",
        "base_model.components",
    ),
]


@pytest.mark.parametrize(("change", "cause", "remedy"), REFUSED, ids=[cause for _, cause, _ in REFUSED])
def test_a_checkpoint_that_cannot_serve_is_refused_in_our_own_words(
    all_layers: Path,
    whole: Checkpoint,
    tmp_path: Path,
    change: Callable[[Checkpoint], Checkpoint],
    cause: str,
    remedy: str,
) -> None:
    save_file(change(whole), tmp_path / "x.safetensors")
    with pytest.raises(ModelError) as caught:
        convert_single_file(tmp_path / "x.safetensors", all_layers, tmp_path / "out")
    message = str(caught.value)
    assert code_of(caught.value) == 43
    assert message.startswith("base_model.source: ")
    assert cause in message
    assert remedy in caught.value.remedy
    assert not [sign for sign in OF_A_LIBRARY if sign in message]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("model.ckpt", b"PK", "model.ckpt is a pickle (.ckpt)"),
        ("MODEL.CKPT", b"PK", "MODEL.CKPT is a pickle (.CKPT)"),
        ("model.safetensors", b"PK\x03\x04 zip of pickles", "is a pickle, which can run code, whatever its name says"),
        ("model.safetensors", b"<!DOCTYPE html><title>404", "is a web page"),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "pointer of git LFS"),
        ("model.safetensors", b"", "is damaged or no safetensors file"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named_for_what_it_is(
    tmp_path: Path, name: str, content: bytes, cause: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        require_checkpoint(tmp_path / name)
    assert cause in str(caught.value)
    assert caught.value.remedy


def test_a_vae_from_elsewhere_stands_in_for_one_that_is_lacking_and_for_one_that_is_there(
    all_layers: Path, whole: Checkpoint, tmp_path: Path
) -> None:
    save_file(only("model.diffusion_model.", CLIP)(whole), tmp_path / "no_vae.safetensors")
    convert_single_file(tmp_path / "no_vae.safetensors", all_layers, tmp_path / "out", has_vae=True)
    with pytest.raises(ModelError, match="out has no VAE"):
        stable_diffusion.require_weights(LocalModel(tmp_path / "out"))
    expected = load_file(all_layers / "vae" / "diffusion_pytorch_model.safetensors")
    for name, prefix in {"named": "first_stage_model.", "bare": ""}.items():
        path = tmp_path / f"{name}.safetensors"
        save_file(renamed("first_stage_model.", prefix)(only("first_stage_model.")(whole)), path)
        convert_vae(path, all_layers, tmp_path / name)
        model = LocalModel(tmp_path / "out", vae=tmp_path / name)
        stable_diffusion.require_weights(model)
        stable_diffusion.require_trainable(model, LoraConfig())
        loaded = stable_diffusion.load_vae(model).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in expected.items())
        replaced = LocalModel(all_layers, vae=model.vae)
        assert replaced.part("vae").path == model.vae
        assert replaced.sha256 == LocalModel(all_layers).sha256


def test_what_is_no_vae_is_refused(all_layers: Path, whole: Checkpoint, tmp_path: Path) -> None:
    save_file(only(CLIP)(whole), tmp_path / "text.safetensors")
    with pytest.raises(ModelError, match=r"base_model\.vae: text\.safetensors is no VAE of pictures") as caught:
        convert_vae(tmp_path / "text.safetensors", all_layers, tmp_path / "out")
    assert "diffusers layout" in caught.value.remedy


@pytest.mark.parametrize(
    ("names", "metadata", "predicts", "terminal"),
    [
        ([], {}, None, False),
        (["v_pred"], {}, "v_prediction", False),
        (["v_pred", "ztsnr"], {}, "v_prediction", True),
        (["ztsnr"], {}, None, False),
        ([], {"modelspec.prediction_type": "v"}, "v_prediction", False),
        ([], {"modelspec.prediction_type": "epsilon"}, "epsilon", False),
        (["ztsnr"], {"modelspec.prediction_type": "v_prediction"}, "v_prediction", True),
        ([], {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"}, "v_prediction", True),
        ([], {"ss_v_parameterization": "False", "ss_zero_terminal_snr": "True"}, None, False),
    ],
)
def test_a_file_says_what_its_unet_predicts(
    names: list[str], metadata: dict[str, str], predicts: str | None, terminal: bool
) -> None:
    header = Header(dict.fromkeys(names, (0,)), metadata)
    assert (header.predicts, header.zero_terminal_snr) == (predicts, terminal)


def fp16_variant(part: Path, file: Path) -> None:
    file.rename(part / f"{file.stem}.fp16.safetensors")


def sharded(part: Path, file: Path, variant: str = "") -> None:
    """Put the weights into two files with an index."""
    weights, places = load_file(file), {}
    for number, keys in enumerate((sorted(weights)[::2], sorted(weights)[1::2]), 1):
        name = f"{file.stem}{variant}-0000{number}-of-00002.safetensors"
        save_file({key: weights[key] for key in keys}, part / name, {"format": "pt"})
        places |= dict.fromkeys(keys, name)
    index = part / f"{file.name}.index{variant}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    file.unlink()


WAYS = {"fp16": fp16_variant, "shards": sharded, "fp16 shards": lambda part, file: sharded(part, file, ".fp16")}


def stored_so(way: str, pipeline: Path, folder: Path) -> Path:
    """A copy of a pipeline whose parts' weights are stored in that way."""
    shutil.copytree(pipeline, folder)
    for part in ("unet", "vae", "text_encoder"):
        (file,) = (folder / part).glob("*.safetensors")
        WAYS[way](folder / part, file)
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_variants_and_shards_are_read(all_layers: Path, tmp_path: Path, way: str) -> None:
    models = LocalModel(all_layers), LocalModel(stored_so(way, all_layers, tmp_path / "sd"))
    stable_diffusion.require_weights(models[1])
    stable_diffusion.require_trainable(models[1], LoraConfig())
    for load in (
        lambda model: stable_diffusion.load_unet(model, torch.float32),
        stable_diffusion.load_vae,
        lambda model: stable_diffusion.load_text_encoder(model, torch.float32)[1],
    ):
        expected, found = (load(model).state_dict() for model in models)
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize(
    ("part", "name", "key"),
    [("vae", "diffusion_pytorch_model", "encoder.conv_in.weight"), ("text_encoder", "model", "final_layer_norm.bias")],
)
def test_a_part_that_is_only_encoded_with_lacks_no_tensor_either(
    all_layers: Path, tmp_path: Path, part: str, name: str, key: str
) -> None:
    folder = shutil.copytree(all_layers, tmp_path / "sd")
    path = folder / part / f"{name}.safetensors"
    save_file({full: tensor for full, tensor in load_file(path).items() if not full.endswith(key)}, path)
    with pytest.raises(ModelError, match=rf"base_model\.source: the {part} .*lacks {re.escape(key)}: 1 of"):
        stable_diffusion.require_weights(LocalModel(folder))


OLDER = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def test_a_vae_with_the_names_of_older_versions_is_read(all_layers: Path, tmp_path: Path) -> None:
    """As sd-vae-ft-mse is stored: in a folder, and as the file alone."""
    folder = shutil.copytree(all_layers, tmp_path / "sd")
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    expected = load_file(path)
    older = {functools.reduce(lambda n, new: n.replace(new, OLDER[new]), OLDER, n): t for n, t in expected.items()}
    assert older.keys() != expected.keys()
    save_file(older, path, {"format": "pt"})
    convert_vae(path, all_layers, tmp_path / "vae")
    for model in (LocalModel(folder), LocalModel(all_layers, vae=tmp_path / "vae")):
        stable_diffusion.require_weights(model)
        loaded = stable_diffusion.load_vae(model).state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def test_a_part_that_lacks_a_tensor_is_refused_before_anything_is_computed(all_layers: Path, tmp_path: Path) -> None:
    shutil.copytree(all_layers, tmp_path / "sd")
    path = tmp_path / "sd" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(lacking("conv_in.weight")(load_file(path)), path)
    with pytest.raises(ModelError, match=r"lacks conv_in\.weight: 1 of 684 tensors"):
        stable_diffusion.require_trainable(LocalModel(tmp_path / "sd"), LoraConfig())


def test_weights_under_a_name_that_is_not_read_are_named(all_layers: Path, tmp_path: Path) -> None:
    shutil.copytree(all_layers, tmp_path / "sd")
    path = tmp_path / "sd" / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_name("diffusion_pytorch_model.non_ema.safetensors"))
    with pytest.raises(ModelError, match=r"the unet: .* it holds diffusion_pytorch_model\.non_ema\.safetensors"):
        stable_diffusion.require_weights(LocalModel(tmp_path / "sd"))


@pytest.mark.parametrize("way", WAYS)
def test_rounds_of_a_download_bring_the_weights_however_they_are_stored(
    all_layers: Path, tmp_path: Path, way: str
) -> None:
    shelf, here = stored_so(way, all_layers, tmp_path / "shelf"), tmp_path / "here"

    def bring(patterns: tuple[str, ...]) -> None:
        for path in sorted({path for pattern in patterns for path in shelf.glob(pattern) if path.is_file()}):
            target = here / path.relative_to(shelf)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)

    bring(plain_patterns(PIPELINE))
    for patterns in PIPELINE.rounds():
        for part in PIPELINE.lacking(here):
            bring(patterns[part])
    assert model_sha256(here) == model_sha256(shelf)


def test_a_vae_alone_or_in_a_pipeline_lacks_nothing(all_layers: Path, tmp_path: Path) -> None:
    assert VAE.lacking(all_layers) == VAE.lacking(all_layers / "vae") == ()
    assert VAE.lacking(tmp_path) == ("", "vae")


def test_a_header_is_read_without_its_tensors(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, 3, dtype=torch.bfloat16)}, tmp_path / "a.safetensors", {"k": "v"})
    header = read_header(tmp_path / "a.safetensors", "base_model.source")
    assert header == Header({"a": (2, 3)}, {"k": "v"})
