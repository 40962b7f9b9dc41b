"""What a plan says of an adapter's state, against the state that there is."""

import json
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from lora_engine.adapters.base_layers import adapted, text_encoder_layers, unet_layers
from lora_engine.config.adapter import LoraConfig, TextEncoderLoraConfig
from lora_engine.config.ema import EmaConfig
from lora_engine.config.training import TrainingConfig
from lora_engine.training import estimate
from lora_engine.training.ema import WeightAverage
from lora_engine.training.optimizers.make import make_optimizer
from tests.lora_engine.training.optimizers.rows import CONFIGS, MEMBERS


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("ema", [None, EmaConfig()])
def test_every_vector_of_an_adapters_state_is_counted(name: str, ema: EmaConfig | None) -> None:
    training = TrainingConfig(steps=1, optimizer=CONFIGS.validate_python({"name": name}), ema=ema)
    narrow = LoraConfig(rank=1)
    weights_P = torch.zeros(estimate.parameters(narrow))
    state = make_optimizer(weights_P, torch.zeros_like(weights_P), training.optimizer, None).state()
    if ema is not None:
        state |= WeightAverage(weights_P, ema).state()
    vectors = [weights_P, *(value for value in state.values() if value.dim())]
    found = sum(value.numel() * value.element_size() for value in vectors)
    assert estimate.state_bytes(narrow, training) == found
    assert estimate.adapters_bytes([(narrow, training)]) == found + weights_P.nbytes


@pytest.fixture(scope="module")
def stable_diffusion() -> dict[str, nn.Module]:
    """The UNet and the text encoder of SD 1.5, without weights."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        text_encoder = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12))
    return {"unet": unet, "text_encoder": text_encoder}


def test_the_layers_that_a_plan_knows_are_those_of_the_model(stable_diffusion: dict[str, nn.Module]) -> None:
    unet = stable_diffusion["unet"]
    assert sum(weight.numel() for weight in unet.parameters()) == estimate.UNET_PARAMETERS
    known = {layer.name: layer for layer in unet_layers()}
    blocks = ("Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D")
    inside = tuple(f"{name}." for name, module in unet.named_modules() if type(module).__name__ in blocks)
    found = {n: m for n, m in unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d) and n.startswith(inside)}
    assert found.keys() == known.keys()
    for name, module in found.items():
        layer = known[name]
        assert tuple(module.weight.shape[:2]) == (layer.outputs, layer.inputs)
        assert module.weight.numel() == layer.weights
        assert layer.is_convolution == isinstance(module, nn.Conv2d)
        assert getattr(module, "stride", (1,))[0] == layer.stride


def test_the_text_encoders_layers_are_those_of_the_model(stable_diffusion: dict[str, nn.Module]) -> None:
    text_encoder = stable_diffusion["text_encoder"]
    assert sum(weight.numel() for weight in text_encoder.parameters()) == estimate.TEXT_ENCODER_PARAMETERS
    found = {
        name.rpartition("encoder.layers.")[2]: tuple(module.weight.shape)
        for name, module in text_encoder.named_modules()
        if isinstance(module, nn.Linear)
    }
    known = list(text_encoder_layers())
    assert len(known) == 72
    assert found == {each.name.rpartition("encoder.layers.")[2]: (each.outputs, each.inputs) for each in known}


@pytest.mark.parametrize(
    ("settings", "modules", "weights"),
    [
        ({}, 128, 1_594_368),
        ({"target_modules": "attention+mlp"}, 160, 2_992_128),
        ({"target_modules": "kohya"}, 192, 3_391_488),
        ({"target_modules": "full"}, 278, 8_406_528),
        ({"target_modules": "full", "conv_rank": 4}, 278, 8_406_528 - 4 * 544_000),
        ({"text_encoder": {}}, 128 + 72, 1_594_368 + 1_327_104),
        ({"text_encoder": {"rank": 4}}, 128 + 72, 1_594_368 + 1_327_104 // 2),
        ({"target_modules": ["conv_shortcut", "mid_block.resnets.0.conv1"]}, 14 + 1, None),
        ({"patterns": {"mid_block": {"rank": 16}}}, 128, 1_594_368 + 8 * (2 * 4 * 2 * 1280 - 2 * (1280 - 768))),
        ({"kind": "dora"}, 128, 1_594_368 + 99_840),
    ],
)
def test_weights_by_layers(settings: dict[str, Any], modules: int, weights: int | None) -> None:
    lora = LoraConfig.model_validate_json(json.dumps(settings))
    found = list(adapted(lora))
    assert len(found) == modules
    if weights is not None:
        assert estimate.parameters(lora) == weights
        assert estimate.file_bytes(lora) == 8 * weights


def test_adapters_of_a_pack_are_filled_up_layer_by_layer() -> None:
    training = TrainingConfig(steps=1)
    narrow, wide = LoraConfig(rank=2), LoraConfig(rank=4, target_modules=("to_q",))
    alone = estimate.adapters_bytes([(narrow, training)])
    filled_up = estimate.parameters(narrow) + estimate.parameters(LoraConfig(rank=2, target_modules=("to_q",)))
    assert estimate.adapters_bytes([(narrow, training)] * 2) == 2 * alone
    assert estimate.adapters_bytes([(narrow, training), (wide, training)]) == 2 * filled_up * 4 * 4


def test_what_an_image_keeps_grows_with_the_layers_that_have_adapters() -> None:
    """Differences to attention alone, in MiB at 384 pixels, as the layers' saved tensors were counted without data."""
    counted = {
        ("attention", 64): 20.0,
        ("attention+mlp", 8): 124.9,
        ("kohya", 8): 132.2,
        ("full", 8): 149.5,
    }
    usual = estimate.kept_bytes(384, 4)
    for (target_modules, rank), more in counted.items():
        lora = LoraConfig.model_validate({"target_modules": target_modules, "rank": rank})
        found = (estimate.kept_bytes(384, 4, [lora]) - usual) / 2**20
        assert found == pytest.approx(more, rel=0.2)
        halves = estimate.kept_bytes(384, 2, [lora])
        assert halves == pytest.approx(estimate.kept_bytes(384, 4, [lora]) / 2, abs=2)
    with_text = LoraConfig(text_encoder=TextEncoderLoraConfig())
    assert 50 < (estimate.kept_bytes(384, 4, [with_text]) - usual) / 2**20 < 60
    dora = LoraConfig(kind="dora")
    assert (estimate.kept_bytes(384, 4, [dora]) - usual) / 2**20 == pytest.approx(156.5, rel=0.01)


def test_a_text_encoder_takes_memory_and_time() -> None:
    training, plain, more = TrainingConfig(steps=1), LoraConfig(), LoraConfig(text_encoder=TextEncoderLoraConfig())
    found = [estimate.training_bytes(384, 2, 4, [(lora, training)]) for lora in (plain, more)]
    assert found[1] - found[0] > 2 * estimate.TEXT_ENCODER_PARAMETERS
    base = estimate.image_flops(384)
    assert estimate.training_flops(384, plain) == base
    assert 1.02 * base < estimate.training_flops(384, more) < 1.05 * base
