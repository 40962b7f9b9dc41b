"""Adapters from files of their own: as the UNet that wrote them computes, or refused with the reason."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lora_engine.adapters import formats, from_file, lora
from lora_engine.errors import ModelError
from lora_engine.models import stable_diffusion
from lora_engine.models.files import LocalModel
from tests.lora_engine.adapters.trained import CARD, LORA, alphas_of, unet_output

FILES = ("blip.safetensors", "pytorch_lora_weights.safetensors")  # kohya's format, diffusers'


@pytest.fixture(scope="module")
def trained(all_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A UNet with an adapter, and the folder of the adapter's files."""
    folder = tmp_path_factory.mktemp("trained")
    unet = fresh(all_layers)
    lora.inject(unet, [("blip", 0)], LORA)
    generator = torch.Generator().manual_seed(3)
    weights = {
        key: 0.05 * torch.randn(weight.shape, generator=generator) for key, weight in lora.export(unet, "blip").items()
    }
    lora.load(unet, "blip", weights)
    card = replace(CARD, trigger_phrase="xyz")
    formats.write_checkpoint(folder, weights, alphas_of(weights), {"step": torch.tensor(1)}, card)
    return unet, folder


def fresh(model: Path) -> nn.Module:
    return stable_diffusion.load_unet(LocalModel(model), torch.float32)


@pytest.mark.parametrize("name", FILES)
def test_a_file_computes_as_the_adapter_that_was_written(
    trained: tuple[nn.Module, Path], all_layers: Path, name: str
) -> None:
    ours, folder = trained
    theirs = fresh(all_layers)
    base = unet_output(theirs)
    from_file.load_file(theirs, folder / name, "any")
    for strength in (1.0, 0.5, 0.0, -1.0, 1.0):
        lora.activate(ours, ["blip"], strength)
        from_file.activate(theirs, ["any", "any"], strength)
        torch.testing.assert_close(unet_output(theirs), unet_output(ours), atol=1e-5, rtol=1e-4)
    assert (unet_output(theirs) - base).abs().max() > 1e-3
    from_file.activate(theirs, [])
    torch.testing.assert_close(unet_output(theirs), base, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("is_stored_as_linear", [True, False])
def test_a_convolution_of_one_pixel_and_a_linear_layer_may_be_stored_as_each_other(
    all_layers: Path, tmp_path: Path, is_stored_as_linear: bool
) -> None:
    dice, tensors, wanted = torch.Generator().manual_seed(0), {}, fresh(all_layers)
    for name in ("mid_block.attentions.0.proj_in", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"):
        weight = wanted.get_submodule(name).weight
        down, up = (torch.randn(size, generator=dice) / 4 for size in ((2, weight.shape[1]), (len(weight), 2)))
        weight.data += (up @ down).view_as(weight)
        for part, tensor in (("down", down), ("up", up)):
            stored = tensor if is_stored_as_linear else tensor[..., None, None]
            tensors[f"lora_unet_{name.replace('.', '_')}.lora_{part}.weight"] = stored
    save_file(tensors, tmp_path / "a.safetensors")
    unet = fresh(all_layers)
    from_file.load_file(unet, tmp_path / "a.safetensors", "any")
    from_file.activate(unet, ["any"])
    torch.testing.assert_close(unet_output(unet), unet_output(wanted), atol=1e-5, rtol=1e-4)


def test_the_trigger_phrase_is_what_the_file_says(trained: tuple[nn.Module, Path]) -> None:
    _, folder = trained
    assert [from_file.trigger_phrase(folder / name) for name in FILES] == ["xyz", ""]


def with_text_encoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    layer = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    return state | {f"{layer}.lora_up.weight": torch.zeros(4, 2), f"{layer}.lora_down.weight": torch.zeros(2, 3)}


def with_another_layer(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {"lora_unet_x.lora_up.weight": torch.zeros(2, 3)}


def of_another_width(state: dict[str, Tensor]) -> dict[str, Tensor]:
    downs = ("lora_down.weight", "lora_A.weight")
    return {key: torch.cat([each, each], -1) if key.endswith(downs) else each for key, each in state.items()}


def of_a_block_that_there_is_not(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {
        key.replace("down_blocks_0", "down_blocks_9").replace("down_blocks.0", "down_blocks.9"): each.clone()
        for key, each in state.items()
    }


def whole_model(_: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"model.diffusion_model.out.0.weight": torch.zeros(3)}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_text_encoder, "has weights for a text encoder, which is not there"),
        (with_another_layer, "'lora_unet_x.lora_up.weight', which is no low-rank weight of a layer"),
        (whole_model, "'model.diffusion_model.out.0.weight', which is no low-rank weight"),
        (of_a_block_that_there_is_not, "has weights for 144 layers, of which 128 are in the base model"),
        (of_another_width, "cannot be loaded into the base model"),
    ],
)
def test_what_would_be_left_out_or_does_not_fit_is_refused(
    trained: tuple[nn.Module, Path],
    all_layers: Path,
    tmp_path: Path,
    name: str,
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    said: str,
) -> None:
    save_file(change(load_file(trained[1] / name)), tmp_path / name)
    with pytest.raises(ModelError, match=said) as caught:
        from_file.load_file(fresh(all_layers), tmp_path / name, "any")
    assert name in caught.value.cause
    assert caught.value.remedy


@pytest.mark.parametrize("data", [b"", b"not a file of weights", b"\xff" * 8])
def test_a_damaged_file_is_refused(all_layers: Path, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match=r"a\.safetensors is no safetensors file"):
        from_file.load_file(fresh(all_layers), tmp_path / "a.safetensors", "any")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, {}),
        ({"ss_clip_skip": "None", "ss_v_parameterization": "False"}, {}),
        ({"ss_clip_skip": "2"}, {"clip_skip": 2}),
        ({"ss_clip_skip": "-1", "ss_zero_terminal_snr": "True"}, {}),
        ({"modelspec.prediction_type": "v"}, {"prediction_type": "v_prediction"}),
        (
            {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"},
            {"prediction_type": "v_prediction", "zero_terminal_snr": True},
        ),
    ],
)
def test_a_file_says_how_its_base_model_was_used(
    tmp_path: Path, said: dict[str, str], expected: dict[str, object]
) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors", said)
    assert from_file.base_model_use(tmp_path / "a.safetensors").model_dump(exclude_defaults=True) == expected
