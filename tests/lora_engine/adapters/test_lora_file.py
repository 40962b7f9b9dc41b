"""The one reader of LoRA files: every way in which a layer is named, every dtype, and what is refused."""

import contextlib
import json
import math
import re
import struct
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from lora_engine.adapters.formats import diffusers_tensors, kohya_tensors, layers_of
from lora_engine.adapters.layer_names import diffusers_name, kohya_layer, other_kind, place_of
from lora_engine.adapters.lora_file import LoraFile, read_lora
from lora_engine.errors import ModelError
from tests.lora_engine.adapters.trained import load_models

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"
TEXT = "text_encoder.text_model.encoder.layers.1.self_attn.out_proj"
K, T = kohya_layer(LAYER), kohya_layer(TEXT)
DOWN, UP = torch.arange(6.0).view(2, 3), torch.arange(8.0).view(4, 2)


def read(folder: Path, tensors: dict[str, Tensor], **metadata: str) -> LoraFile:
    save_file(
        {key: tensor.contiguous().clone() for key, tensor in tensors.items()},
        folder / "a.safetensors",
        metadata or None,
    )
    return read_lora(folder / "a.safetensors")


def pair(
    name: str, ends: tuple[str, str] = (".lora_down.weight", ".lora_up.weight"), **others: Tensor
) -> dict[str, Tensor]:
    return {name + ends[0]: DOWN, name + ends[1]: UP} | {f"{name}.{end}": tensor for end, tensor in others.items()}


def test_every_layer_has_a_name_in_either_format_by_which_it_is_found(all_layers: Path) -> None:
    models = load_models(all_layers)
    prefix = "text_encoder." if hasattr(models.text_encoder, "text_model") else "text_encoder.text_model."
    layers = [name for name, module in models.unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    layers += [
        f"{prefix}{name}" for name, module in models.text_encoder.named_modules() if isinstance(module, nn.Linear)
    ]
    assert len(layers) > 250
    for layer in layers:
        assert place_of(f"{kohya_layer(layer)}.lora_down.weight") == (layer, "down"), layer
        assert place_of(f"{diffusers_name(layer)}.lora_B.weight") == (layer, "up"), layer
    assert len({kohya_layer(layer) for layer in layers}) == len(layers)


PAIRS = {
    "kohya": pair(K),
    "kohya of diffusers' scripts": pair(K, (".lora_A.weight", ".lora_B.weight")),
    "diffusers": pair(f"unet.{LAYER}", (".lora_A.weight", ".lora_B.weight")),
    "diffusers before PEFT": pair(f"unet.{LAYER}", (".lora.down.weight", ".lora.up.weight")),
    "diffusers with processors": pair(
        f"unet.{LAYER.removesuffix('.to_out.0')}.processor.to_out", ("_lora.down.weight", "_lora.up.weight")
    ),
    "text encoder, kohya": pair(T),
    "text encoder, diffusers": pair(TEXT, (".lora_A.weight", ".lora_B.weight")),
    "text encoder of transformers 5": pair(TEXT.replace(".text_model", ""), (".lora_A.weight", ".lora_B.weight")),
    "text encoder before PEFT": pair(TEXT, (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight")),
}


@pytest.mark.parametrize("way", PAIRS)
def test_a_layer_is_found_however_it_is_named(tmp_path: Path, way: str) -> None:
    ((name, layer),) = read(tmp_path, PAIRS[way]).layers.items()
    assert name == (TEXT if way.startswith("text") else LAYER)
    assert torch.equal(layer.down, DOWN)
    assert torch.equal(layer.up, UP)
    assert (layer.rank, layer.alpha, layer.magnitude) == (2, 2.0, None)


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2],
)
def test_every_float_is_read_as_fp32(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = pair(K, alpha=torch.tensor(4), dora_scale=torch.ones(4, 1))
    found = read(tmp_path, {k: t if k.endswith("alpha") else t.to(dtype) for k, t in tensors.items()}).layers[LAYER]
    assert found.magnitude is not None
    assert found.down.dtype == found.up.dtype == found.magnitude.dtype == torch.float32
    assert torch.equal(found.down, DOWN)
    assert (found.alpha, found.magnitude.shape) == (4.0, (4,))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, 2.0),
        ({"text_encoder.lora_alpha": 7}, 2.0),
        ({"unet.r": 2}, 8.0),
        ({"unet.lora_alpha": 7}, 7.0),
        ({"unet.lora_alpha": 7, "unet.use_rslora": True}, 7 * math.sqrt(2)),
        ({"unet.lora_alpha": 7, "unet.alpha_pattern": {"to_out": 3, "attn2.to_out.0": 4, "to_out.0": 5}}, 4.0),
        ({"unet.lora_alpha": 7, "unet.alpha_pattern": {"^to_out.0": 3, f"^{LAYER}": 9}}, 9.0),
        ({"unet.lora_alpha": 7, "unet.alpha_pattern": {"^" + re.escape(LAYER): 6}}, 6.0),
    ],
)
def test_the_alpha_is_that_of_the_metadata_as_peft_applies_them(
    tmp_path: Path, said: dict[str, Any], expected: float
) -> None:
    tensors = PAIRS["diffusers"]
    assert read(tmp_path, tensors, lora_adapter_metadata=json.dumps(said)).layers[LAYER].alpha == expected


def test_patterns_and_layers_are_not_tried_each_with_each(tmp_path: Path) -> None:
    names = [
        f"{block}_blocks.{a}.attentions.{b}.proj_in" for block in ("down", "up") for a in range(50) for b in range(50)
    ]
    tensors = {f"unet.{name}.lora_{end}.weight": torch.ones(1, 1) for name in names for end in "AB"}
    patterns = {f"^x{number}": 1.0 for number in range(20_000)} | {name: 1.0 + at for at, name in enumerate(names)}
    said = {"unet.lora_alpha": 7, "unet.alpha_pattern": patterns}
    tried: list[str] = []

    def trace(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            tried.append(frame.f_code.co_name)

    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(said)})
    sys.setprofile(trace)
    try:
        found = read_lora(tmp_path / "a.safetensors")
    finally:
        sys.setprofile(None)
    assert [found.layers[name].alpha for name in names] == [1.0 + at for at in range(len(names))]
    assert tried.count("fullmatch") < 2 * (len(patterns) + len(tensors))


def test_an_alpha_among_the_weights_counts_more(tmp_path: Path) -> None:
    said = json.dumps({"unet.lora_alpha": 7})
    tensors = PAIRS["diffusers"] | {f"unet.{LAYER}.alpha": torch.tensor([3.0])}
    assert read(tmp_path, tensors, lora_adapter_metadata=said).layers[LAYER].alpha == 3.0


def test_what_is_written_in_either_format_is_read_back(tmp_path: Path) -> None:
    conv = "down_blocks.1.resnets.0.conv1"
    adapter = {
        f"{LAYER}.lora_A.weight": DOWN,
        f"{LAYER}.lora_B.weight": UP,
        f"{LAYER}.lora_magnitude_vector": torch.arange(4.0),
        f"{conv}.lora_A.weight": torch.randn(2, 3, 3, 3),
        f"{conv}.lora_B.weight": torch.randn(4, 2, 1, 1),
        f"{conv}.lora_magnitude_vector": torch.arange(4.0),
        f"{TEXT}.lora_A.weight": DOWN,
        f"{TEXT}.lora_B.weight": UP,
    }
    layers = layers_of(adapter, {LAYER: 3.0, conv: 5.0, TEXT: 2.0})
    for tensors in (kohya_tensors(layers), diffusers_tensors(layers)):
        found = read(tmp_path, tensors).layers
        assert found.keys() == layers.keys()
        for name, layer in layers.items():
            assert torch.equal(found[name].down, layer.down)
            assert torch.equal(found[name].up, layer.up)
            assert (found[name].magnitude is None) == (name == TEXT)
            assert name == TEXT or torch.equal(found[name].magnitude, layer.magnitude)
    assert [read(tmp_path, kohya_tensors(layers)).layers[name].alpha for name in layers] == [3.0, 5.0, 2.0]


CONV = "lora_unet_down_blocks_1_resnets_0_conv1"
MADE_WRONG: dict[str, tuple[dict[str, Tensor], str]] = {
    "no up": ({f"{K}.lora_down.weight": DOWN}, "has no up weights for mid_block"),
    "no down": ({f"{K}.lora_up.weight": UP}, "has no down weights for mid_block"),
    "an alpha alone": ({f"{K}.alpha": torch.tensor(1.0)}, "has no down weights"),
    "nothing": ({}, "holds no weights"),
    "rank 0": ({f"{K}.lora_down.weight": DOWN[:0], f"{K}.lora_up.weight": UP[:, :0]}, "which hold nothing"),
    "other ranks": ({f"{K}.lora_down.weight": DOWN[:1], f"{K}.lora_up.weight": UP}, "which are of different ranks"),
    "a vector": ({f"{K}.lora_down.weight": DOWN[0], f"{K}.lora_up.weight": UP}, "which are no two matrices"),
    "a matrix and a kernel": (
        {f"{CONV}.lora_down.weight": DOWN.view(2, 3, 1, 1), f"{CONV}.lora_up.weight": UP},
        "which are no two matrices",
    ),
    "a wide up": (
        {f"{CONV}.lora_down.weight": DOWN.view(2, 3, 1, 1), f"{CONV}.lora_up.weight": torch.zeros(4, 2, 3, 3)},
        "more than a pixel wide",
    ),
    "NaN": (pair(K) | {f"{K}.lora_up.weight": UP * torch.nan}, "that are not finite"),
    "an infinite alpha": (pair(K, alpha=torch.tensor(math.inf)), "that are not finite"),
    "an alpha of 0": (pair(K, alpha=torch.tensor(0.0)), "an alpha for mid_block"),
    "several alphas": (pair(K, alpha=torch.ones(2)), "an alpha for mid_block"),
    "integers": (pair(K) | {f"{K}.lora_up.weight": UP.int()}, "as I32"),
    "one layer twice": (pair(K) | pair(f"unet.{LAYER}", (".lora_A.weight", ".lora_B.weight")), "one and the same"),
    "norms of inputs": (pair(K, dora_scale=torch.ones(1, 3)), "which are no norms of 4 outputs"),
    "norms of as many inputs": (
        {
            f"{CONV}.lora_down.weight": torch.ones(2, 4, 3, 3),
            f"{CONV}.lora_up.weight": torch.ones(4, 2, 1, 1),
            f"{CONV}.dora_scale": torch.ones(1, 4, 1, 1),
        },
        "which are no norms of 4 outputs",
    ),
    "norms of some": (pair(K, dora_scale=torch.ones(4, 1)) | pair(CONV), "for 1 of 2 layers of the UNet"),
    "LoHa": ({f"{K}.hada_w1_a": DOWN}, "is a LoHa"),
    "LoKr": ({f"{K}.lokr_w1": DOWN}, "is a LoKr"),
    "OFT": ({f"{K}.oft_blocks": DOWN}, "is an OFT adapter"),
    "IA3": ({f"{K}.on_input": DOWN}, r"is an \(IA\)3 adapter"),
    "Tucker": (pair(K, **{"lora_mid.weight": DOWN}), "of three parts"),
    "differences": ({f"{K}.diff": DOWN}, "is whole differences of weights"),
    "SDXL, text": (pair("lora_te1_text_model_encoder_layers_0_mlp_fc1"), "is an adapter of SDXL"),
    "SDXL, UNet": (pair("lora_unet_input_blocks_4_1_proj_in"), "is an adapter of SDXL"),
    "SDXL, deep": (pair("lora_unet_mid_block_attentions_0_transformer_blocks_9_attn1_to_q"), "is an adapter of SDXL"),
    "SDXL, wide": (
        {
            f"unet.{LAYER.replace('to_out.0', 'to_k')}.lora_A.weight": torch.zeros(2, 2048),
            f"unet.{LAYER.replace('to_out.0', 'to_k')}.lora_B.weight": UP,
        },
        "is of SDXL",
    ),
    "LoKr of SDXL": ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.lokr_w1": DOWN}, "is a LoKr of SDXL"),
    "FLUX": (pair("lora_unet_double_blocks_0_img_attn_proj"), "is an adapter of SD 3, FLUX or another transformer"),
    "PEFT's own": (pair(f"base_model.model.{LAYER}", (".lora_A.weight", ".lora_B.weight")), "no low-rank weight"),
    "a whole model": ({"model.diffusion_model.out.0.weight": DOWN}, "no low-rank weight of a layer"),
    "a name that acts": ({"lora_unet_\x1b[31m.lora_down.weight": DOWN}, r"\\x1b\[31m"),
}


@pytest.mark.parametrize("way", MADE_WRONG)
def test_what_is_no_lora_of_ours_is_refused_with_what_it_is(tmp_path: Path, way: str) -> None:
    tensors, says = MADE_WRONG[way]
    with pytest.raises(ModelError, match=says) as caught:
        read(tmp_path, tensors)
    assert caught.value.cause.startswith("a.safetensors")
    assert caught.value.remedy
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "they are no JSON"),
        ("[" * 100_000, "they are no JSON"),
        ("[]", "they are no JSON object"),
        ('{"unet.alpha_pattern": [1]}', "their alpha_pattern is no object"),
        ('{"unet.alpha_pattern": {"(a+)+$": 1}}', "regular expressions"),
        ('{"unet.lora_alpha": "8"}', "an alpha that is no number above 0"),
        ('{"unet.lora_alpha": true}', "an alpha that is no number above 0"),
        ('{"unet.lora_alpha": NaN}', "an alpha that is no number above 0"),
        ('{"unet.lora_alpha": 0}', "an alpha that is no number above 0"),
        ('{"unet.lora_alpha": 1' + "0" * 400 + "}", "an alpha that is no number above 0"),
    ],
)
def test_metadata_that_cannot_be_read_are_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        read(tmp_path, PAIRS["diffusers"], lora_adapter_metadata=text)


def with_header(path: Path, header: dict[str, Any], data: bytes = b"") -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_a_file_that_claims_more_than_fits_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path, size = tmp_path / "a.safetensors", 2**31
    layer = {"dtype": "F8_E4M3", "shape": [2, size // 2], "data_offsets": [0, size]}
    with_header(path, {f"{K}.lora_down.weight": layer})
    with pytest.raises(ModelError, match="is no safetensors file"):
        read_lora(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size)  # a hole, of which nothing is on the disk
    with pytest.raises(ModelError, match="holds 2,147,483,648 values"):
        read_lora(path)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\xff" * 8, b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_damaged_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"a\.safetensors"):
        read_lora(path)
    with pytest.raises(ModelError, match=r"b\.safetensors is no safetensors file"):
        read_lora(tmp_path / "b.safetensors")


WORDS = st.sampled_from(
    ["lora_unet_", "lora_te_", "unet.", "text_encoder.", "down_blocks", "_", ".", "0", "to_q", "conv1"]
)


@given(
    st.lists(WORDS | st.text(max_size=5), max_size=12).map("".join), st.sampled_from([".alpha", ".lora_A.weight", ""])
)
def test_any_key_names_a_layer_that_either_format_names_back_or_none(begin: str, end: str) -> None:
    if found := place_of(begin + end):
        layer, part = found
        assert place_of(f"{kohya_layer(layer)}.alpha") == (layer, "alpha")
        assert place_of(f"{diffusers_name(layer)}.dora_scale") == (layer, "magnitude")
        assert part in ("alpha", "down")
    other_kind(begin + end)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.data())
def test_a_file_with_bytes_changed_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a.safetensors"
    save_file(pair(K, alpha=torch.tensor(1.0), dora_scale=torch.ones(4, 1)), path, {"a": "b"})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(ModelError):
        read_lora(path)
