import io
import json
import re
import shutil
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from job.errors import ExitCode, JobError
from job.process.progress import Progress
from job.process.stop import StopFlag
from job.stages.models import fetch_model
from job.storage import StorageSettings
from lora_engine.config.adapter import LoraConfig
from lora_engine.errors import ModelError
from lora_engine.models import schedule, stable_diffusion
from lora_engine.models.accepted import PIPELINE, plain_patterns
from lora_engine.models.files import LocalModel
from lora_engine.models.single_file import convert_single_file
from miniature.architecture import TINY, make_stable_diffusion, unet
from tests.single_file import write_single_file


def test_a_single_files_unet_is_that_of_the_folder(all_layers: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_single_file(all_layers, path)
    unet = load_file(all_layers / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(all_layers / "vae" / "diffusion_pytorch_model.safetensors")
    text = load_file(all_layers / "text_encoder" / "model.safetensors")
    convert_single_file(path, all_layers, tmp_path / "out")
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
    with pytest.raises(ModelError, match=r"model\.safetensors holds no UNet"):
        convert_single_file(tmp_path / "model.safetensors", miniature / "sd", tmp_path / "out")


def test_a_missing_or_pickled_part_is_named(miniature: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unet"):
        stable_diffusion.load_unet(LocalModel(tmp_path), torch.float32)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text((miniature / "sd" / "unet" / "config.json").read_text())
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="safetensors"):
        stable_diffusion.load_unet(LocalModel(tmp_path), torch.float32)


def test_a_unet_is_read_as_diffusers_reads_it(all_layers: Path, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    whole = UNet2DConditionModel.from_pretrained(all_layers, subfolder="unet")
    whole.half().save_pretrained(tmp_path / "unet", max_shard_size="1MB")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1
    for dtype in (torch.float32, torch.float16):
        expected = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet", torch_dtype=dtype)
        loaded = stable_diffusion.load_unet(LocalModel(tmp_path), dtype)
        assert not loaded.training
        assert loaded.state_dict().keys() == expected.state_dict().keys()
        for key, value in loaded.state_dict().items():
            assert value.dtype == dtype
            assert torch.equal(value, expected.state_dict()[key]), key


# A part's file, one of its layers, and what loads it.
PARTS: list[tuple[str, str, Callable[[LocalModel], object]]] = [
    ("unet/diffusion_pytorch_model", "conv_in.weight", lambda model: stable_diffusion.load_unet(model, torch.float16)),
    ("vae/diffusion_pytorch_model", "encoder.conv_in.weight", stable_diffusion.load_vae),
    (
        "text_encoder/model",
        "final_layer_norm.bias",
        lambda model: stable_diffusion.load_text_encoder(model, torch.float32),
    ),
]


@pytest.mark.parametrize(("file", "layer", "load"), PARTS)
def test_a_file_that_lacks_a_layer_is_refused(
    miniature: Path, tmp_path: Path, file: str, layer: str, load: Callable[[LocalModel], object]
) -> None:
    """The libraries would draw it at random, and only warn."""
    shutil.copytree(miniature / "sd", tmp_path / "sd")
    path = tmp_path / "sd" / f"{file}.safetensors"
    weights = {key: value for key, value in load_file(path).items() if not key.endswith(layer)}
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ModelError, match=rf"lacks? .*{re.escape(layer)}"):
        load(LocalModel(tmp_path / "sd"))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize(("file", "layer", "load"), PARTS)
def test_a_file_with_a_weight_that_is_no_number_is_refused(
    miniature: Path, tmp_path: Path, file: str, layer: str, load: Callable[[LocalModel], object], value: float
) -> None:
    shutil.copytree(miniature / "sd", tmp_path / "sd")
    spoil(tmp_path / "sd" / f"{file}.safetensors", layer, value)
    with pytest.raises(ModelError, match=rf"base model's {file.partition('/')[0]} .*{re.escape(layer)} .*not finite"):
        load(LocalModel(tmp_path / "sd"))


def test_a_weight_that_fp16_cannot_hold_is_refused_there_alone(miniature: Path, tmp_path: Path) -> None:
    shutil.copytree(miniature / "sd", tmp_path / "sd")
    spoil(tmp_path / "sd/unet/diffusion_pytorch_model.safetensors", "conv_in.weight", 1e6)
    stable_diffusion.load_unet(LocalModel(tmp_path / "sd"), torch.float32)
    with pytest.raises(ModelError, match=r"conv_in\.weight \(as float16\)"):
        stable_diffusion.load_unet(LocalModel(tmp_path / "sd"), torch.float16)


def spoil(path: Path, layer: str, value: float) -> None:
    """Put the value at the end of the layer whose name ends so."""
    weights = load_file(path)
    name = next(key for key in weights if key.endswith(layer))
    weights[name] = weights[name].float()
    weights[name].view(-1)[-1] = value
    save_file(weights, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"in_channels": 9}, "in_channels: 9"),
        ({"out_channels": 8}, "out_channels: 8"),
        ({"num_class_embeds": 1000, "in_channels": 7}, "num_class_embeds: 1000, in_channels: 7"),
        ({"class_embed_type": "projection", "projection_class_embeddings_input_dim": 32}, "class_embed_type"),
        ({"addition_embed_type": "text"}, "addition_embed_type: 'text'"),
        ({"encoder_hid_dim": 48, "encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim: 48"),
        ({"dual_cross_attention": True}, "dual_cross_attention: True"),
        ({"cross_attention_dim": 96}, "cross_attention_dim: 96"),
        ({"cross_attention_dim": [64, 96]}, "cross_attention_dim: "),
    ],
)
def test_a_unet_that_takes_more_than_latents_and_texts_is_refused(
    miniature: Path, tmp_path: Path, changes: dict[str, object], named: str
) -> None:
    """Before anything is computed: inpainting, depth, upscalers, unCLIP, SDXL."""
    shutil.copytree(miniature / "sd", tmp_path / "sd")
    path = tmp_path / "sd" / "unet" / "config.json"
    stable_diffusion.require_trainable(LocalModel(tmp_path / "sd"), LoraConfig())
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelError, match=rf"cannot be trained: it has .*{re.escape(named)}"):
        stable_diffusion.require_trainable(LocalModel(tmp_path / "sd"), LoraConfig())


def test_a_single_file_that_lacks_a_layer_is_refused(all_layers: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_single_file(all_layers, path)
    weights = {key: value for key, value in load_file(path).items() if not key.endswith("final_layer_norm.bias")}
    save_file(weights, path)
    with pytest.raises(ModelError, match=r"the text_encoder of model\.safetensors lacks final_layer_norm\.bias: 1 of"):
        convert_single_file(path, all_layers, tmp_path / "out")


def test_a_tokenizer_that_gives_more_tokens_than_there_are_positions_is_refused(
    miniature: Path, tmp_path: Path
) -> None:
    shutil.copytree(miniature / "sd", tmp_path / "sd")
    path = tmp_path / "sd" / "tokenizer" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    for odd in ({}, {"model_max_length": 154}):
        path.write_text(json.dumps({key: v for key, v in settings.items() if key != "model_max_length"} | odd))
        with pytest.raises(ModelError, match=r"its model_max_length is \d+, and the text encoder has 77 positions"):
            stable_diffusion.load_text_encoder(LocalModel(tmp_path / "sd"), torch.float32)


def test_another_kind_of_diffusion_is_refused(tmp_path: Path) -> None:
    FlowMatchEulerDiscreteScheduler().save_pretrained(tmp_path / "scheduler")
    with pytest.raises(ModelError, match="FlowMatchEulerDiscreteScheduler without beta_schedule"):
        schedule.load_noise_schedule(LocalModel(tmp_path))


_PEAK = """
import sys
from pathlib import Path
import torch
from diffusers import UNet2DConditionModel
from lora_engine.models import stable_diffusion
from lora_engine.models.files import LocalModel

def field(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))

before = field("VmRSS:")
unet = stable_diffusion.load_unet(LocalModel(Path(sys.argv[1])), torch.float32)
weights = sum(parameter.nbytes for parameter in unet.parameters())
print((field("VmHWM:") - before) / weights)
"""


@pytest.mark.slow
def test_loading_takes_no_more_memory_than_the_weights(tmp_path: Path) -> None:
    """Half-precision weights that are wanted in fp32: the file itself, half as large again, does not stay in memory."""
    unet(replace(TINY, unet=(64, 128, 256, 256))).half().save_pretrained(tmp_path / "unet")
    command = [sys.executable, "-c", _PEAK, str(tmp_path)]
    peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"{peak:.2f} of the weights")
    assert peak < 1.3


def test_the_prediction_type_is_that_of_the_scheduler(miniature: Path, tmp_path: Path) -> None:
    assert schedule.load_noise_schedule(LocalModel(miniature / "sd")).prediction_type == "epsilon"
    make_stable_diffusion(tmp_path, prediction_type="v_prediction")
    loaded = schedule.load_noise_schedule(LocalModel(tmp_path))
    assert loaded.prediction_type == "v_prediction"
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(loaded.alphas_cumprod_T, (1 - betas).cumprod(0), rtol=1e-4, atol=0)
    config = tmp_path / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": "sample"}))
    with pytest.raises(ModelError, match="sample"):
        schedule.load_noise_schedule(LocalModel(tmp_path))


PATTERNS = plain_patterns(PIPELINE)
# The parts of an attempt that fetching a model from a hub uses.
ATTEMPT = SimpleNamespace(stop=StopFlag(), progress=Progress(io.StringIO()), unverified={}, patience=None)


def test_a_hub_model_is_read_from_the_local_cache(
    miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = "a" * 40
    snapshot = tmp_path / "models--someone--small" / "snapshots" / revision
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(miniature / "sd")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = fetch_model(ATTEMPT, "base_model.source", "hf://someone/small", revision, PATTERNS, StorageSettings())  # type: ignore[arg-type]
    stable_diffusion.load_tokenizer(LocalModel(folder))


@pytest.fixture
def dropping_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub that hangs up, and the folder of its local cache."""
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{hub.server_address[1]}")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        yield tmp_path
        hub.shutdown()


def fetch_small() -> Path:
    return fetch_model(ATTEMPT, "base_model.source", "hf://someone/small", None, PATTERNS, StorageSettings())  # type: ignore[arg-type]


@pytest.mark.usefixtures("dropping_hub")
def test_a_hub_that_drops_connections_cannot_be_reached() -> None:
    with pytest.raises(JobError, match="cannot be reached") as refused:
        fetch_small()
    assert refused.value.code == ExitCode.STORAGE_RETRIES


def test_a_hub_that_drops_connections_is_not_needed_for_what_is_cached(miniature: Path, dropping_hub: Path) -> None:
    model, revision = dropping_hub / "models--someone--small", "a" * 40
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(revision)
    (model / "snapshots").mkdir()
    (model / "snapshots" / revision).symlink_to(miniature / "sd")
    stable_diffusion.load_tokenizer(LocalModel(fetch_small()))
