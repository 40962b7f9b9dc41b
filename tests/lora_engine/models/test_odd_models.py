"""Base models that load, and are none: their words, numbers, noise or latents would not be those of the model."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from job.errors import code_of
from lora_engine import miniature
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.models import BaseModelUse, CaptionerConfig
from lora_engine.dataset.encode import encode_texts
from lora_engine.errors import ModelError
from lora_engine.models import schedule, stable_diffusion
from lora_engine.models.captioner import require_captioner
from lora_engine.models.checkpoint import require_checkpoint
from lora_engine.models.clip import load_clip, require_clip
from lora_engine.models.files import LocalModel, model_sha256
from lora_engine.models.single_file import convert_single_file
from tests.single_file import checkpoint_of, open_clip

Checkpoint = dict[str, Tensor]
Change = Callable[[Path], object]
CLIP = "cond_stage_model.transformer.text_model."
SGM = "conditioner.embedders.0.transformer."
UNET, VAE, TEXT = (f"{part}/config.json" for part in ("unet", "vae", "text_encoder"))
SCHEDULER, TOKENIZER = "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"


def fit(model: LocalModel, sampler: Any = None, steps: int = 25) -> None:
    """Look at a pipeline as `validate` and a run do before anything is computed."""
    stable_diffusion.require_weights(model)
    stable_diffusion.require_trainable(model, LoraConfig())
    schedule.require_sampler(model, sampler, [steps])


def with_keys(name: str, **values: object) -> Change:
    return lambda base: (base / name).write_text(json.dumps(json.loads((base / name).read_text()) | values))


def holding(name: str, content: str) -> Change:
    return lambda base: (base / name).write_text(content)


def without(name: str) -> Change:
    return lambda base: (base / name).unlink()


def stored_as(name: str, dtype: torch.dtype) -> Change:
    def change(base: Path) -> None:
        weights = load_file(base / name)
        save_file({key: weight.to(dtype) for key, weight in weights.items()}, base / name, {"format": "pt"})

    return change


def scaled(base: Path) -> None:
    """As programs store weights in eight bits, each with a factor beside it."""
    path = base / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(path) | {"conv_in.scale_weight": torch.ones(1)}, path, {"format": "pt"})


def with_more(name: str, *keys: str) -> Change:
    def change(base: Path) -> None:
        weights = load_file(base / name)
        save_file(weights | {key: torch.zeros(3) for key in keys}, base / name, {"format": "pt"})

    return change


UNFIT: dict[str, tuple[Change, str]] = {
    "unet in int8": (stored_as("unet/diffusion_pytorch_model.safetensors", torch.int8), "is quantised: conv_in.bias"),
    "text encoder of bools": (stored_as("text_encoder/model.safetensors", torch.bool), "of the type BOOL"),
    "factors": (scaled, "is quantised: it holds conv_in.scale_weight"),
    "quantised by its configuration": (with_keys(TEXT, quantization_config={"bits": 8}), "text_encoder is quantised"),
    "no words": (without("tokenizer/tokenizer.json"), "it has 2 tokens, and the text encoder 303"),
    "a word too many": (with_keys(TOKENIZER, pad_token="@@@"), "it has 304 tokens, and the text encoder 303"),
    "no tokens at a time": (with_keys(TOKENIZER, model_max_length=0), "its model_max_length is 0"),
    "more than a UNet": (with_more("unet/diffusion_pytorch_model.safetensors", "fuser.weight"), "holds fuser.weight"),
    "a tensor twice": (
        with_more("text_encoder/model.safetensors", "final_layer_norm.bias", "text_model.final_layer_norm.bias"),
        "holds tensors twice",
    ),
    "a list": (holding(UNET, "[]"), "config.json is no JSON object"),
    "a list for a text encoder": (holding(TEXT, "[]"), "config.json is no JSON object"),
    "half of a VAE's": (holding(VAE, "{"), "config.json is no JSON"),
    "half of an index": (holding("model_index.json", "{"), "is no JSON. Fetch the model again."),
    "scale NaN": (with_keys(VAE, scaling_factor=math.nan), "scaling_factor is nan"),
    "scale 0": (with_keys(VAE, scaling_factor=0), "scaling_factor is 0"),
    "scale none": (with_keys(VAE, scaling_factor=None), "scaling_factor is None"),
    "shifted": (with_keys(VAE, shift_factor=0.1), "it has a shift_factor"),
    "noise NaN": (with_keys(SCHEDULER, beta_start=math.nan), "its betas are not all between 0 and 1"),
    "noise beyond 1": (with_keys(SCHEDULER, beta_end=2.0), "its betas are not all between 0 and 1"),
    "no noise": (with_keys(SCHEDULER, beta_start=0.0, beta_end=0.0), "or add no noise"),
    "one timestep": (with_keys(SCHEDULER, num_train_timesteps=1), "or add no noise"),
    "other timesteps": (with_keys(SCHEDULER, trained_betas=[0.1, 0.2]), "it has 2 betas for 1000 timesteps"),
    "noise alone, for a model of noise": (with_keys(SCHEDULER, rescale_betas_zero_snr=True), "predicts the noise"),
    "neither": (with_keys(SCHEDULER, rescale_betas_zero_snr="yes"), "rescale_betas_zero_snr is neither true nor"),
    "spacing": (with_keys(SCHEDULER, timestep_spacing="middle"), "sampler (PNDMScheduler, 25 steps)"),
    "offset": (with_keys(SCHEDULER, steps_offset="a"), "sampler (PNDMScheduler, 25 steps)"),
}
# What a library would say or advise.
OF_A_LIBRARY = ("https://", "pip install", "from_pretrained", "internet", "low_cpu_mem", "ignore_mismatched")


@pytest.fixture
def base(all_layers: Path, tmp_path: Path) -> Path:
    return shutil.copytree(all_layers, tmp_path / "base")


@pytest.mark.parametrize("name", UNFIT)
def test_a_pipeline_that_loads_and_is_no_model_is_refused_before_anything_is_computed(base: Path, name: str) -> None:
    change, cause = UNFIT[name]
    change(base)
    with pytest.raises(ModelError) as caught:
        fit(LocalModel(base))
    message = str(caught.value)
    assert code_of(caught.value) == 43
    assert cause in message
    assert caught.value.remedy
    assert not [words for words in OF_A_LIBRARY if words in message]


def test_a_sampler_that_cannot_draw_in_so_few_steps_is_refused(base: Path) -> None:
    with_keys(SCHEDULER, skip_prk_steps=False)(base)
    fit(LocalModel(base), steps=25)
    with pytest.raises(ModelError, match=r"sampler \(PNDMScheduler, 2 steps\)"):
        fit(LocalModel(base), steps=2)


def test_a_sampler_for_another_kind_of_diffusion_is_not_taken(base: Path) -> None:
    with_keys("model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"])(base)
    assert type(schedule.load_sampler(LocalModel(base))).__name__ == "PNDMScheduler"


def test_a_model_of_noise_that_says_noise_alone_is_trained_where_the_manifest_says_otherwise(base: Path) -> None:
    with_keys(SCHEDULER, rescale_betas_zero_snr=True)(base)
    ways: tuple[dict[str, Any], ...] = ({"zero_terminal_snr": False}, {"prediction_type": "v_prediction"})
    for way in ways:
        fit(LocalModel(base, use=BaseModelUse(**way)))


def test_a_vae_with_latents_of_another_scale_is_refused(base: Path, all_layers: Path) -> None:
    """As that of SDXL, whose tensors have the shapes of SD's."""
    with_keys(VAE, scaling_factor=0.13025)(base)
    fit(LocalModel(base))
    with pytest.raises(ModelError, match=r"base_model\.vae: its latents are scaled by 0\.13025, and .* by 0\.18215"):
        fit(LocalModel(all_layers, vae=base / "vae"))
    shutil.rmtree(base / "vae")
    fit(LocalModel(base, vae=all_layers / "vae"))


def test_a_captioner_or_clip_without_words_is_refused_before_its_weights_are_loaded(tmp_path: Path) -> None:
    looks: dict[str, Callable[[LocalModel], object]] = {
        "blip": lambda model: require_captioner(model, CaptionerConfig(source="x")),
        "clip": require_clip,
    }
    for name, look in looks.items():
        model = shutil.copytree(miniature.folder(name), tmp_path / name)
        look(LocalModel(model))
        (model / "tokenizer.json").unlink()
        with pytest.raises(ModelError, match=r"its tokenizer has \d+ tokens, and the model \d+"):
            look(LocalModel(model))


def test_embeddings_that_are_not_finite_are_no_text(all_layers: Path) -> None:
    """As finite weights give them that are too large for half precision."""
    tokenizer, encoder = stable_diffusion.load_text_encoder(LocalModel(all_layers), torch.float32)
    torch.nn.init.constant_(encoder.final_layer_norm.weight, torch.finfo(torch.float32).max)
    with pytest.raises(ModelError, match="text encoder's embeddings are not finite"):
        list(encode_texts(tokenizer, encoder, ["a heart"], torch.device("cpu")))


def test_embeddings_of_clip_that_are_not_finite_score_nothing(tmp_path: Path) -> None:
    folder = shutil.copytree(miniature.folder("clip"), tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    largest = torch.full_like(weights["visual_projection.weight"].float(), torch.finfo(torch.float32).max)
    save_file(weights | {"visual_projection.weight": largest}, folder / "model.safetensors", {"format": "pt"})
    scorer = load_clip(LocalModel(folder), torch.device("cpu"))
    with pytest.raises(ModelError, match="CLIP model's embeddings are not finite"):
        scorer.image_embeddings([Image.new("RGB", (64, 64), "red")])


@pytest.fixture(scope="module")
def whole(all_layers: Path) -> Checkpoint:
    return checkpoint_of(all_layers)


def twice(whole: Checkpoint) -> Checkpoint:
    """With a second text encoder, under SGM's names, of other weights."""
    of_text = {key for key in whole if key.startswith(CLIP)}
    return whole | {f"{SGM}text_model.{key.removeprefix(CLIP)}": torch.zeros_like(whole[key]) for key in of_text}


@pytest.mark.parametrize(
    "change",
    [
        lambda whole: {key.replace(CLIP, SGM): value for key, value in whole.items()},
        twice,
        lambda whole: (
            whole | {f"{CLIP}embeddings.position_ids": torch.arange(77)[None], "global_step": torch.tensor(1)}
        ),
    ],
    ids=["SGM's names without text_model", "two text encoders", "integers beside the weights"],
)
def test_a_text_encoder_under_any_of_its_names_is_the_same(
    all_layers: Path, whole: Checkpoint, tmp_path: Path, change: Callable[[Checkpoint], Checkpoint]
) -> None:
    save_file(change(whole), tmp_path / "x.safetensors")
    convert_single_file(tmp_path / "x.safetensors", all_layers, tmp_path / "out")
    assert model_sha256(tmp_path / "out" / "text_encoder") == model_sha256(all_layers / "text_encoder")
    fit(LocalModel(tmp_path / "out"))


def smaller(whole: Checkpoint) -> Checkpoint:
    text = {key.removeprefix(CLIP): value for key, value in whole.items() if key.startswith(CLIP)}
    made = {key: value for key, value in whole.items() if not key.startswith(CLIP)}
    made |= open_clip(text, "cond_stage_model.model.")
    return made | {"cond_stage_model.model.token_embedding.weight": torch.zeros(100, 32)}


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda w: {key: value.to(torch.int8) for key, value in w.items()}, "x.safetensors is quantised: "),
        (smaller, "embeddings.token_embedding.weight is [100, 32], and not [303, 64]"),
        (
            lambda w: {k: v for k, v in w.items() if not k.startswith(CLIP)} | {f"{SGM}x": torch.ones(1)},
            "no text",
        ),
        (lambda _: {"lycoris_unet_x.lokr_w1": torch.zeros(1)}, "is an adapter (LoRA)"),
        (lambda _: {"unet.up_blocks.0.to_q.lora.down.weight": torch.zeros(1)}, "is an adapter (LoRA)"),
        (lambda _: {"down_blocks.0.motion_modules.0.norm.weight": torch.zeros(1)}, "is for video"),
        (lambda w: w | {"model.diffusion_model.label_emb.0.0.weight": torch.zeros(1)}, "takes more than a text"),
        (lambda w: {k.removeprefix("model.diffusion_model."): v for k, v in w.items()}, "holds no UNet"),
    ],
    ids=["int8", "another size", "no text encoder", "LoKr", "LoRA of diffusers", "video", "unCLIP", "UNet's names"],
)
def test_a_checkpoint_is_refused_for_what_it_is(
    all_layers: Path, whole: Checkpoint, tmp_path: Path, change: Callable[[Checkpoint], Checkpoint], cause: str
) -> None:
    save_file(change(whole), tmp_path / "x.safetensors")
    with pytest.raises(ModelError) as caught:
        convert_single_file(tmp_path / "x.safetensors", all_layers, tmp_path / "out")
    assert cause in str(caught.value)
    assert not [words for words in OF_A_LIBRARY if words in str(caught.value)]


@pytest.mark.parametrize(
    ("start", "cause", "remedy"),
    [
        (b"GGUF\x03\0\0\0", "a GGUF file", "safetensors"),
        (b"\x80\x04\x95\0", "a pickle", "safetensors"),
        (b"\x1f\x8b\x08\0", "an archive", "Unpack it"),
        (b'<?xml version="1.0"?><Error>', "an answer of a server", "says why"),
        (b'{"error": "gated"}', "an answer of a server", "says why"),
        (b"\xff" * 8 + b"{}", "damaged", "Fetch it again"),
    ],
)
def test_a_file_with_the_name_of_another_is_named(tmp_path: Path, start: bytes, cause: str, remedy: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(start + bytes(100))
    with pytest.raises(ModelError, match=cause) as caught:
        require_checkpoint(tmp_path / "x.safetensors")
    assert remedy in caught.value.remedy
