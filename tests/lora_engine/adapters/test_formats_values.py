"""The files of an adapter, byte by byte and word by word, as the programs that read them expect them."""

import dataclasses
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_engine.adapters import formats
from lora_engine.adapters.card import AdapterCard, tag_frequency
from lora_engine.config.adapter import BlockConfig, LoraConfig, TextEncoderLoraConfig
from lora_engine.config.loss import DebiasedWeighting, HuberLoss, MinSnrWeighting
from lora_engine.config.lr_schedule import ConstantLrSchedule, CosineRestartsLrSchedule
from lora_engine.config.noise import MultiresConfig, NoiseConfig
from lora_engine.config.optimizer import LionConfig
from lora_engine.config.training import TrainingConfig
from lora_engine.records import FileEntry

LORA = LoraConfig(rank=2, alpha=5)
CARD = AdapterCard(
    name="blip",
    base_model="base.sd",
    resolution=384,
    images=9,
    prediction_type="epsilon",
    zero_terminal_snr=False,
    clip_skip=1,
    text_width=768,
    started_at=1_700_000_000.25,
    tag_frequency={"a heart": 2},
    trigger_phrase="a tattoo",
    lora=LORA,
    training=TrainingConfig(steps=30, batch_size=2),
    step=15,
    seed=1337,
)
ALPHAS = {"down.0.to_q": 5.0, "mid.to_out.0": 5.0}
LAYERS = {"down.0.to_q": (5, 4), "mid.to_out.0": (4, 3)}


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def adapter(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    result = {}
    for at, (layer, (inputs, outputs)) in enumerate(LAYERS.items()):
        result[f"{layer}.lora_A.weight"] = drawn(2, inputs, seed=2 * at).to(dtype)
        result[f"{layer}.lora_B.weight"] = drawn(outputs, 2, seed=2 * at + 1).to(dtype)
    return result


def write(folder: Path, card: AdapterCard = CARD, **values: Any) -> tuple[FileEntry, ...]:
    state = {"step": torch.tensor(7)}
    return formats.write_checkpoint(folder, adapter(), ALPHAS, state, dataclasses.replace(card, **values))


def header(path: Path) -> tuple[dict[str, Any], bytes]:
    """A safetensors file's header and what follows it, by the format's own description."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def test_kohyas_names_are_those_of_the_modules_with_a_scalar_alpha_each() -> None:
    state = formats.kohya_tensors(formats.layers_of(adapter(torch.float32), ALPHAS))
    weights = adapter(torch.float32)
    assert list(state) == [
        "lora_unet_down_0_to_q.lora_down.weight",
        "lora_unet_down_0_to_q.alpha",
        "lora_unet_down_0_to_q.lora_up.weight",
        "lora_unet_mid_to_out_0.lora_down.weight",
        "lora_unet_mid_to_out_0.alpha",
        "lora_unet_mid_to_out_0.lora_up.weight",
    ]
    assert torch.equal(state["lora_unet_down_0_to_q.lora_down.weight"], weights["down.0.to_q.lora_A.weight"])
    assert torch.equal(state["lora_unet_mid_to_out_0.lora_up.weight"], weights["mid.to_out.0.lora_B.weight"])
    alpha = state["lora_unet_mid_to_out_0.alpha"]
    assert (alpha.shape, alpha.dtype, alpha.item()) == ((), torch.float32, 5.0)


def test_the_three_files_are_listed_with_their_sizes_and_hashes(tmp_path: Path) -> None:
    expected = []
    listed = write(tmp_path)
    for name in ("blip.safetensors", "pytorch_lora_weights.safetensors", "state.safetensors"):
        data = (tmp_path / name).read_bytes()
        expected.append(FileEntry(name, len(data), hashlib.sha256(data).hexdigest()))
    assert listed == tuple(expected)
    assert load_file(tmp_path / "state.safetensors") == {"step": torch.tensor(7)}


def test_both_formats_hold_the_weights_in_single_precision(tmp_path: Path) -> None:
    write(tmp_path)
    kohya = load_file(tmp_path / "blip.safetensors")
    assert len(kohya) == 6
    for key, value in formats.kohya_tensors(formats.layers_of(adapter(torch.float32), ALPHAS)).items():
        assert kohya[key].dtype == torch.float32
        assert torch.equal(kohya[key], value)
    diffusers = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    assert diffusers.keys() == {f"unet.{key}" for key in adapter()}
    assert all(torch.equal(diffusers[f"unet.{key}"], value) for key, value in adapter(torch.float32).items())


def test_kohyas_metadata_are_those_that_its_own_scripts_write(tmp_path: Path) -> None:
    write(tmp_path)
    found, tensors = header(tmp_path / "blip.safetensors")
    assert found["__metadata__"] == {
        "ss_output_name": "blip",
        "ss_sd_model_name": "base.sd",
        "ss_v2": "False",
        "ss_base_model_version": "sd_v1",
        "ss_v_parameterization": "False",
        "ss_zero_terminal_snr": "False",
        "ss_clip_skip": "1",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "2",
        "ss_network_alpha": "5.0",
        "ss_network_dropout": "None",
        "ss_resolution": "(384, 384)",
        "ss_num_train_images": "9",
        "ss_dataset_dirs": '{"blip": {"n_repeats": 1, "img_count": 9}}',
        "ss_tag_frequency": '{"blip": {"a heart": 2}}',
        "ss_flip_aug": "False",
        "ss_training_started_at": "1700000000.25",
        "ss_learning_rate": "0.0001",
        "ss_unet_lr": "0.0001",
        "ss_text_encoder_lr": "0.0",
        "ss_optimizer": "adamw(weight_decay=0.01, beta1=0.9, beta2=0.999, epsilon=1e-08)",
        "ss_lr_scheduler": "constant",
        "ss_lr_warmup_steps": "0",
        "ss_max_grad_norm": "1.0",
        "ss_steps": "15",
        "ss_max_train_steps": "30",
        "ss_epoch": "3.333",
        "ss_num_epochs": "6.667",
        "ss_batch_size_per_device": "2",
        "ss_gradient_accumulation_steps": "1",
        "ss_seed": "1337",
        "ss_loss_type": "l2",
        "ss_min_snr_gamma": "None",
        "ss_debiased_estimation": "False",
        "ss_noise_offset": "None",
        "ss_multires_noise_iterations": "None",
        "ss_multires_noise_discount": "None",
        "ss_ip_noise_gamma": "None",
        "sshs_model_hash": hashlib.sha256(tensors).hexdigest(),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/StableDiffusion",
        "modelspec.title": "blip",
        "modelspec.resolution": "384x384",
        "modelspec.prediction_type": "epsilon",
        "modelspec.date": "2023-11-14T22:13:20+00:00",
        "modelspec.trigger_phrase": "a tattoo",
    }


@pytest.mark.parametrize(
    ("width", "prediction", "expected"),
    [
        (768, "epsilon", ("False", "sd_v1", "stable-diffusion-v1/lora", "epsilon")),
        (768, "v_prediction", ("False", "sd_v1_v", "stable-diffusion-v1/lora", "v")),
        (1024, "epsilon", ("True", "sd_v2", "stable-diffusion-v2-512/lora", "epsilon")),
        (1024, "v_prediction", ("True", "sd_v2_v", "stable-diffusion-v2-768-v/lora", "v")),
    ],
)
def test_the_metadata_name_the_version_of_the_base_model(
    tmp_path: Path, width: int, prediction: str, expected: tuple[str, ...]
) -> None:
    write(tmp_path, text_width=width, prediction_type=prediction)
    found = header(tmp_path / "blip.safetensors")[0]["__metadata__"]
    keys = ("ss_v2", "ss_base_model_version", "modelspec.architecture", "modelspec.prediction_type")
    assert tuple(found[key] for key in keys) == expected


def test_the_metadata_say_how_the_base_model_was_used(tmp_path: Path) -> None:
    write(tmp_path, prediction_type="v_prediction", zero_terminal_snr=True, clip_skip=2)
    found = header(tmp_path / "blip.safetensors")[0]["__metadata__"]
    keys = ("ss_v_parameterization", "ss_zero_terminal_snr", "ss_clip_skip")
    assert [found[key] for key in keys] == ["True", "True", "2"]


SETTINGS = {
    "text encoder": (
        {"text_encoder": TextEncoderLoraConfig(rank=4, learning_rate=1e-5)},
        {},
        {
            "ss_text_encoder_lr": "1e-05",
            "ss_unet_lr": "0.0001",
            "ss_network_args": '{"text_encoder_dim": "4", "text_encoder_alpha": "5.0"}',
        },
    ),
    "text encoder as the UNet": (
        {"text_encoder": TextEncoderLoraConfig()},
        {},
        {"ss_text_encoder_lr": "0.0001", "ss_network_args": None},
    ),
    "dora": (
        {"kind": "dora", "dropout": 0.1},
        {},
        {
            "ss_network_module": "lycoris.kohya",
            "ss_network_args": '{"algo": "lora", "dora_wd": "True"}',
            "ss_network_dropout": "0.1",
        },
    ),
    "blocks": (
        {"rank_stabilized": True, "plus_ratio": 16, "patterns": {"mid_block": BlockConfig(rank=4)}},
        {},
        {
            "ss_network_alpha": str(5 * 2**0.5),
            "ss_network_args": json.dumps(
                {"patterns": '{"mid_block": {"rank": 4}}', "loraplus_lr_ratio": "16"},
            ),
        },
    ),
    "loss": (
        {},
        {"loss": HuberLoss(name="huber"), "weighting": MinSnrWeighting(name="min_snr")},
        {"ss_loss_type": "huber", "ss_huber_c": "0.1", "ss_huber_schedule": "snr", "ss_min_snr_gamma": "5.0"},
    ),
    "noise": (
        {},
        {"noise": NoiseConfig(offset=0.05, input_perturbation=0.1), "weighting": DebiasedWeighting(name="debiased")},
        {"ss_noise_offset": "0.05", "ss_ip_noise_gamma": "0.1", "ss_debiased_estimation": "True"},
    ),
    "multires": (
        {},
        {"noise": NoiseConfig(multires=MultiresConfig())},
        {"ss_multires_noise_iterations": "6", "ss_multires_noise_discount": "0.3"},
    ),
    "schedule": (
        {},
        {"schedule": ConstantLrSchedule(warmup_steps=7), "optimizer": LionConfig(name="lion", learning_rate=2e-5)},
        {
            "ss_lr_scheduler": "constant_with_warmup",
            "ss_lr_warmup_steps": "7",
            "ss_optimizer": "lion(weight_decay=0.03, beta1=0.9, beta2=0.99)",
            "ss_learning_rate": "2e-05",
            "ss_unet_lr": "2e-05",
        },
    ),
    "restarts": (
        {},
        {
            "schedule": CosineRestartsLrSchedule(name="cosine_restarts", warmup_share=0.1),
            "max_grad_norm": None,
            "random_flip": True,
            "gradient_accumulation": 3,
        },
        {
            "ss_lr_scheduler": "cosine_with_restarts",
            "ss_lr_warmup_steps": "3",
            "ss_max_grad_norm": "None",
            "ss_flip_aug": "True",
            "ss_gradient_accumulation_steps": "3",
            "ss_epoch": "10",
            "ss_num_epochs": "20",
        },
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_metadata_say_how_it_was_trained(tmp_path: Path, name: str) -> None:
    lora, training, expected = SETTINGS[name]
    write(tmp_path, lora=LORA.model_copy(update=lora), training=CARD.training.model_copy(update=training))
    found = header(tmp_path / "blip.safetensors")[0]["__metadata__"]
    assert {key: found.get(key) for key in expected} == expected


def test_the_metadata_say_of_convolutions_what_size_they_are(tmp_path: Path) -> None:
    spatial = {"x.conv1.lora_A.weight": torch.zeros(4, 2, 3, 3), "x.conv1.lora_B.weight": torch.zeros(5, 4, 1, 1)}
    card = dataclasses.replace(CARD, lora=LoraConfig(rank=2, alpha=5, target_modules="full", conv_rank=4))
    formats.write_checkpoint(tmp_path, adapter() | spatial, ALPHAS | {"x.conv1": 5.0}, {"x": torch.ones(1)}, card)
    found = header(tmp_path / "blip.safetensors")[0]["__metadata__"]
    assert json.loads(found["ss_network_args"]) == {"conv_dim": "4", "conv_alpha": "5.0"}
    described = json.loads(
        header(tmp_path / "pytorch_lora_weights.safetensors")[0]["__metadata__"]["lora_adapter_metadata"]
    )
    assert described["unet.rank_pattern"] == {"x.conv1": 4}
    assert described["unet.alpha_pattern"] == {}


def test_the_metadata_hold_what_the_manifest_gives(tmp_path: Path) -> None:
    write(tmp_path, license="CC0-1.0", description="Line art of one artist.", thumbnail=b"\xff\xd8jpeg")
    found = header(tmp_path / "blip.safetensors")[0]["__metadata__"]
    assert found["modelspec.license"] == "CC0-1.0"
    assert found["modelspec.description"] == "Line art of one artist."
    assert found["modelspec.thumbnail"] == "data:image/jpeg;base64,/9hqcGVn"


def test_diffusers_metadata_are_a_configuration_of_peft(tmp_path: Path) -> None:
    write(tmp_path)
    with safe_open(tmp_path / "pytorch_lora_weights.safetensors", "pt") as file:
        found = file.metadata()
    assert json.loads(found["lora_adapter_metadata"]) == {
        "unet.r": 2,
        "unet.lora_alpha": 5.0,
        "unet.rank_pattern": {},
        "unet.alpha_pattern": {},
        "unet.target_modules": ["down.0.to_q", "mid.to_out.0"],
    }


@pytest.mark.parametrize("name", ["state", "pytorch_lora_weights"])
def test_an_adapter_named_as_another_file_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"^an adapter cannot be named '{name}': another file of its checkpoint is$"):
        write(tmp_path, name=name)
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    write(tmp_path)
    read = formats.read_adapter(tmp_path / "pytorch_lora_weights.safetensors")
    expected = adapter(torch.float32)
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[key], value) for key, value in expected.items())
    assert formats.read_state(tmp_path / "state.safetensors") == {"step": torch.tensor(7)}
    # only the first part of a name is the model's
    save_file({"unet.unet.x": torch.zeros(1)}, tmp_path / "odd.safetensors")
    assert list(formats.read_adapter(tmp_path / "odd.safetensors")) == ["unet.x"]
    assert list(formats.read_state(tmp_path / "odd.safetensors")) == ["unet.unet.x"]


@pytest.mark.parametrize("read", [formats.read_adapter, formats.read_state])
def test_a_damaged_file_is_named_and_a_missing_one_is_missing(tmp_path: Path, read: Any) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError):
        read(path)
    path.write_bytes(b"\0" * 40)
    with pytest.raises(ValueError, match=r"/x\.safetensors is damaged: .") as caught:
        read(path)
    assert str(caught.value).startswith(f"{path} is damaged: ")
    assert str(caught.value) == f"{path} is damaged: {caught.value.__cause__}"


def test_tags_are_counted_over_all_captions_the_most_frequent_first() -> None:
    found = tag_frequency(["a moon, a heart ", " a heart,a  sun,, ", "", "a heart, a moon"])
    assert list(found.items()) == [("a heart", 3), ("a moon", 2), ("a  sun", 1)]
