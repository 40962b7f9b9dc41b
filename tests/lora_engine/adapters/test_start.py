"""Adapters that start from files: what a file decides of one, and that it computes as the file's own adapter did."""

import math
import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lora_engine.adapters import lora
from lora_engine.adapters.lora_file import LoraFile, LoraLayer, read_lora
from lora_engine.adapters.start import require_alike, settings_in, weights_in
from lora_engine.adapters.targets import matching_modules
from lora_engine.config.adapter import LoraConfig
from lora_engine.errors import ModelError
from lora_engine.models.adapted import load_unet_for
from lora_engine.models.files import LocalModel
from tests.lora_files import write_diffusers, write_kohya


def unet_of(miniature: Path, *, with_text_encoder: bool = True) -> nn.Module:
    model = LocalModel(miniature / "sd")
    return load_unet_for(model, torch.float32, torch.device("cpu"), with_text_encoder=with_text_encoder)


def trained(unet: nn.Module, config: LoraConfig) -> dict[str, LoraLayer]:
    """The layers of a trained adapter of these settings, which the UNet is given as `then`."""
    lora.inject(unet, [("then", 0)], config)
    generator = torch.Generator().manual_seed(7)
    weights = {key: torch.rand(w.shape, generator=generator) / 3 for key, w in lora.parameters(unet, "then").items()}
    lora.load(unet, "then", weights)
    return {
        name: LoraLayer(
            weights[f"{name}.lora_A.weight"],
            weights[f"{name}.lora_B.weight"],
            alpha,
            weights.get(f"{name}.lora_magnitude_vector"),
        )
        for name, alpha in lora.file_alphas(unet, "then").items()
    }


def settings_of(unet: nn.Module, file: LoraFile, **given: Any) -> LoraConfig:
    """The settings of an adapter that starts from the file; those that are given have to be the file's."""

    def targets(config: LoraConfig) -> Collection[str]:
        return matching_modules(unet, config).keys()

    read = settings_in(file, LoraConfig.model_validate(given, strict=False), targets, "FILE")
    config = LoraConfig.model_validate(read | given, strict=False)
    require_alike(file, config, targets, "FILE")
    return config


SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "attention": {"rank": 4, "alpha": 1.0},
    "attention+mlp": {"rank": 3, "alpha": 6.0, "target_modules": "attention+mlp"},
    "kohya": {"rank": 2, "alpha": 1.0, "target_modules": "kohya", "text_encoder": {"rank": 4, "alpha": 2.5}},
    "full": {"rank": 4, "alpha": 2.0, "target_modules": "full", "conv_rank": 2, "conv_alpha": 1.0, "text_encoder": {}},
    "blocks": {"rank": 4, "alpha": 4.0, "patterns": {"mid_block": {"rank": 2, "alpha": 1.0}}},
    "names": {"rank": 2, "alpha": 2.0, "target_modules": ("attn1.to_q", "attn2.to_v")},
    "dora": {"rank": 2, "alpha": 1.0, "kind": "dora"},
}


@pytest.mark.parametrize("is_kohya", [True, False], ids=["kohya", "diffusers"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_file_says_the_settings_of_its_adapter_and_starts_one_that_computes_as_it_did(
    miniature: Path, tmp_path: Path, name: str, is_kohya: bool
) -> None:
    config = LoraConfig.model_validate(SETTINGS[name], strict=False)
    unet = unet_of(miniature)
    layers = trained(unet, config)
    path = write_kohya(tmp_path / "a.safetensors", layers) if is_kohya else write_diffusers(tmp_path, layers)
    file = read_lora(path)
    read = settings_of(unet, file)
    assert read.model_dump(exclude={"text_encoder", "patterns"}) == config.model_dump(
        exclude={"text_encoder", "patterns"}
    )
    assert lora.sizes_of(unet, read) == lora.sizes_of(unet, config)
    lora.inject(unet, [("now", 1)], read)
    lora.load(unet, "now", weights_in(file, lora.parameters(unet, "now")))
    then, now = (lora.export(unet, each) for each in ("then", "now"))
    assert then.keys() == now.keys()
    assert all(torch.equal(then[key], now[key]) for key in then)
    assert lora.file_alphas(unet, "now") == pytest.approx(lora.file_alphas(unet, "then"), rel=1e-6)


def test_a_rank_stabilized_adapter_starts_from_a_file_of_either_kind(miniature: Path, tmp_path: Path) -> None:
    for was, now in ((True, True), (True, False), (False, True)):
        unet = unet_of(miniature, with_text_encoder=False)
        layers = trained(unet, LoraConfig(rank=9, alpha=2.0, rank_stabilized=was))
        file = read_lora(write_kohya(tmp_path / "a.safetensors", layers))
        config = settings_of(unet, file, rank_stabilized=now)
        factor = math.sqrt(9) if was else 1
        assert (config.rank, config.alpha) == (9, pytest.approx(2.0 * factor / (math.sqrt(9) if now else 1), rel=1e-6))
        lora.inject(unet, [("now", 1)], config)
        assert lora.file_alphas(unet, "now") == pytest.approx(lora.file_alphas(unet, "then"), rel=1e-6)


def test_any_ranks_of_blocks_become_patterns(miniature: Path, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    unet = unet_of(miniature, with_text_encoder=False)
    names = list(matching_modules(unet, LoraConfig(target_modules="full")))
    begins = [".".join(name.split(".")[: chosen.randint(1, 5)]) for name in chosen.sample(names, 4)]
    patterns = {begin: {"rank": chosen.randint(1, 6), "alpha": float(chosen.randint(1, 9))} for begin in begins}
    config = LoraConfig.model_validate(
        {"rank": 4, "alpha": 2.0, "conv_rank": 2, "target_modules": "full", "patterns": patterns}, strict=False
    )
    file = read_lora(write_kohya(tmp_path / "a.safetensors", trained(unet, config)))
    assert lora.sizes_of(unet, settings_of(unet, file)) == lora.sizes_of(unet, config)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"rank": 8}, r"lora\.rank is 8, but the rank of \S+ is 4 in FILE"),
        ({"alpha": 4.0}, r"lora\.alpha is 4, but the alpha of \S+ is 1 in FILE"),
        ({"kind": "dora"}, r"lora\.kind is dora, but it is lora in FILE"),
        ({"target_modules": "kohya"}, r"lora\.target_modules is kohya, but there are no weights for \S+proj_in in"),
        (
            {"target_modules": ("to_q", "to_k")},
            r"lora\.target_modules is to_q, to_k, but there are weights for \S+, too",
        ),
        ({"text_encoder": {}}, r"lora\.text_encoder is given, but there are no layers of the text encoder in FILE"),
        (
            {"patterns": {"mid_block": {"rank": 2}}},
            r"lora\.patterns\.mid_block\.rank is 2, but the rank of mid_block\S+ is 4",
        ),
        ({"conv_rank": 2}, r"lora\.conv_rank is 2, but there are no convolutions of 3x3 in FILE"),
    ],
)
def test_what_the_manifest_says_otherwise_is_refused_with_both_values(
    miniature: Path, tmp_path: Path, given: dict[str, Any], told: str
) -> None:
    unet = unet_of(miniature, with_text_encoder=False)
    file = read_lora(write_kohya(tmp_path / "a.safetensors", trained(unet, LoraConfig(rank=4, alpha=1.0))))
    assert settings_of(unet, file, rank=4, alpha=1.0, target_modules=("to_out.0", "to_k", "to_q", "to_v")).rank == 4
    with pytest.raises(ModelError, match=told):
        settings_of(unet, file, **given)


def test_what_no_settings_say_is_refused_with_the_reason(miniature: Path, tmp_path: Path) -> None:
    unet = unet_of(miniature)
    layers = trained(unet, LoraConfig.model_validate({"rank": 4, "alpha": 1.0, "text_encoder": {}}))
    text = [name for name in layers if name.startswith("text_encoder.")]
    cut = {name: LoraLayer(layer.down[:2], layer.up[:, :2], 1.0) for name, layer in layers.items()}
    for changed, told in (
        (layers | {text[0]: cut[text[0]]}, "layers of the text encoder of several sizes: rank 2 with alpha 1, rank 4"),
        ({name: layers[name] for name in text}, "no weights for the UNet"),
        (layers | {name: with_norms(layers[name]) for name in text}, "DoRA in some layers and plain LoRA"),
    ):
        file = read_lora(write_kohya(tmp_path / "a.safetensors", changed))
        with pytest.raises(ModelError, match=told):
            settings_of(unet, file)


def test_layers_of_the_text_encoder_that_a_file_lacks_begin_with_nothing(miniature: Path, tmp_path: Path) -> None:
    unet = unet_of(miniature)
    layers = trained(unet, LoraConfig.model_validate({"rank": 4, "alpha": 1.0, "text_encoder": {}}))
    kept = {name: layer for name, layer in layers.items() if ".mlp." not in name}
    file = read_lora(write_kohya(tmp_path / "a.safetensors", kept))
    lora.inject(unet, [("now", 1)], settings_of(unet, file))
    weights = weights_in(file, lora.parameters(unet, "now"))
    assert weights.keys() == lora.parameters(unet, "then").keys()
    added = [key for key in weights if ".mlp." in key and key.endswith("lora_B.weight") and key.startswith("text_")]
    assert added
    assert not any(weights[key].any() for key in added)


def with_norms(layer: LoraLayer) -> LoraLayer:
    return LoraLayer(layer.down, layer.up, layer.alpha, torch.ones(len(layer.up)))
