"""Packed layers of every kind, in float64, against PEFT's own layers with one adapter each."""

from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from lora_engine.adapters import lora
from lora_engine.config.adapter import LoraConfig
from tests.lora_engine.tiny import tiny_text_encoder, tiny_unet

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 5), (2, 7, 6)),
    "linear without a bias": (nn.Linear(6, 5, bias=False), (2, 7, 6)),
    "convolution of one pixel": (nn.Conv2d(6, 5, 1), (2, 6, 4, 3)),
    "convolution of 3x3": (nn.Conv2d(6, 5, 3, padding=1), (2, 6, 5, 4)),
    "convolution that strides": (nn.Conv2d(6, 5, 3, stride=2, padding=1, bias=False), (2, 6, 6, 5)),
}


class ResnetBlock2D(nn.Module):
    """A block of a name that adapters go into, with one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class Model(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.block = ResnetBlock2D(layer)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out


def copy_of(layer: nn.Module) -> Model:
    made: Any = nn.Linear if isinstance(layer, nn.Linear) else nn.Conv2d
    if isinstance(layer, nn.Conv2d):
        args = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding)
        twin = made(*args, bias=layer.bias is not None)
    else:
        twin = made(layer.in_features, layer.out_features, bias=layer.bias is not None)
    twin.load_state_dict(layer.state_dict())
    return Model(twin).double()


def with_random_weights(model: nn.Module, names: list[str], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        for weight in lora.parameters(model, name).values():
            change = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            weight.data = weight.data + 0.3 * change


def peft_twin(layer: nn.Module, config: LoraConfig, adapter: lora.Adapter) -> Model:
    """PEFT's own layer with the weights of an adapter."""
    twin = copy_of(layer)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        use_rslora=config.rank_stabilized,
        use_dora=config.kind == "dora",
        target_modules=["layer"],
    )
    peft.inject_adapter_in_model(settings, twin, adapter_name="a")
    twin.double()
    own: Any = twin.block.layer
    own.lora_A["a"].weight.data = adapter["block.layer.lora_A.weight"]
    own.lora_B["a"].weight.data = adapter["block.layer.lora_B.weight"]
    if config.kind == "dora":
        magnitude = own.lora_magnitude_vector["a"].weight
        magnitude.data = adapter["block.layer.lora_magnitude_vector"].view_as(magnitude)
    return twin


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_packed_layer_and_its_gradients_are_those_of_pefts_with_one_adapter_each(name: str, kind: str) -> None:
    layer, shape = LAYERS[name]
    settings = {"a": (2, 3.0), "b": (3, 1.0), "c": (1, 5.0)} if kind == "lora" else {"a": (2, 3.0), "b": (2, 3.0)}
    model, configs = copy_of(layer), {}
    for at, (adapter, (rank, alpha)) in enumerate(settings.items()):
        configs[adapter] = LoraConfig(
            kind=kind,  # type: ignore[arg-type]
            rank=rank,
            alpha=alpha,
            rank_stabilized=at == 1,
            target_modules=("layer",),
        )
        lora.inject(model, [(adapter, at)], configs[adapter])
    if kind == "dora":
        same = copy_of(layer)(torch.ones(shape).double())
        torch.testing.assert_close(model(torch.ones(shape).double()), same, rtol=1e-12, atol=1e-12)
    with_random_weights(model, list(settings), seed=1)
    x = torch.randn(len(settings) * shape[0], *shape[1:], dtype=torch.float64, requires_grad=True)
    lora.activate(model, list(settings))
    packed: Any = lora.packed_layers(model)[0]
    leaves = [part for part in (packed.down_KRI, packed.up_KOR, packed.magnitude_KO) if part is not None]
    for leaf in leaves:
        leaf.requires_grad_()
    out = model(x)
    out.square().sum().backward()
    assert x.grad is not None
    for at, adapter in enumerate(settings):
        part = slice(at * shape[0], (at + 1) * shape[0])
        twin = peft_twin(layer, configs[adapter], lora.export(model, adapter))
        own_x = x.detach()[part].requires_grad_()
        expected = twin(own_x)
        torch.testing.assert_close(out[part], expected, rtol=1e-12, atol=1e-12)
        expected.square().sum().backward()
        assert own_x.grad is not None
        torch.testing.assert_close(x.grad[part], own_x.grad, rtol=1e-11, atol=1e-11)
        own: Any = twin.block.layer
        theirs = [own.lora_A["a"].weight.grad, own.lora_B["a"].weight.grad]
        theirs += [own.lora_magnitude_vector["a"].weight.grad.flatten()] if kind == "dora" else []
        for leaf, gradient in zip(leaves, theirs, strict=True):
            mine = leaf.grad[at][tuple(slice(size) for size in gradient.shape)]
            torch.testing.assert_close(mine, gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", LAYERS)
def test_doras_strength_is_a_part_of_the_difference_to_the_base(name: str) -> None:
    layer, shape = LAYERS[name]
    model, x = copy_of(layer), torch.randn(shape, dtype=torch.float64)
    lora.inject(model, [("a", 0)], LoraConfig(kind="dora", rank=2, target_modules=("layer",)))
    with_random_weights(model, ["a"], seed=2)
    found = {}
    for strength in (0.0, 0.3, 1.0):
        lora.activate(model, ["a"], strength)
        found[strength] = model(x)
    lora.activate(model, [])
    base = model(x)
    torch.testing.assert_close(found[0.0], base, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[0.3], base + 0.3 * (found[1.0] - base))
    assert not torch.allclose(found[1.0], base)


def test_presets_name_the_layers_of_sd_1_5_that_the_field_does() -> None:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        text_encoder = CLIPTextModel(CLIPTextConfig(num_hidden_layers=12))
    counts = {
        preset: len(lora.matching_modules(unet, LoraConfig.model_validate({"target_modules": preset})))
        for preset in ("attention", "attention+mlp", "kohya", "full")
    }
    assert counts == {"attention": 128, "attention+mlp": 160, "kohya": 192, "full": 278}
    assert len(lora.text_encoder_modules(text_encoder)) == 72
    kohya = lora.matching_modules(unet, LoraConfig(target_modules="kohya")).values()
    assert sum(isinstance(layer, nn.Conv2d) for layer in kohya) == 32


def test_sizes_are_those_of_the_longest_pattern_and_of_the_kind_of_layer() -> None:
    unet = tiny_unet()
    config = LoraConfig.model_validate(
        {
            "rank": 3,
            "alpha": 6.0,
            "conv_rank": 2,
            "conv_alpha": 1.0,
            "target_modules": "full",
            "patterns": {"mid_block": {"rank": 5}, "mid_block.attentions": {"alpha": 2.0}},
        }
    )
    lora.inject(unet, [("a", 0)], config)
    weights, alphas = lora.export(unet, "a"), lora.file_alphas(unet, "a")
    found = {
        name: (len(weights[f"{name}.lora_A.weight"]), round(alpha, 9))
        for name, alpha in alphas.items()
        if name.startswith(("down_blocks.0.resnets.0", "mid_block.resnets.0.conv1", "mid_block.attentions.0.proj_in"))
    }
    assert found == {
        "down_blocks.0.resnets.0.conv1": (2, 1.0),
        "down_blocks.0.resnets.0.conv2": (2, 1.0),
        "down_blocks.0.resnets.0.time_emb_proj": (3, 6.0),
        "mid_block.resnets.0.conv1": (5, 1.0),
        "mid_block.attentions.0.proj_in": (3, 2.0),
    }


def test_the_files_alpha_of_stabilised_ranks_scales_as_they_were_trained() -> None:
    unet = tiny_unet()
    lora.inject(unet, [("a", 0)], LoraConfig(rank=4, alpha=6.0, rank_stabilized=True))
    assert set(lora.file_alphas(unet, "a").values()) == {12.0}


def test_a_list_that_is_a_preset_is_the_preset() -> None:
    listed = LoraConfig(target_modules=("to_v", "to_k", "to_q", "to_out.0"))
    assert listed == LoraConfig()
    assert listed.model_dump()["target_modules"] == "attention"
    assert LoraConfig(target_modules=("to_v",)).model_dump(mode="json")["target_modules"] == ["to_v"]


def test_a_text_encoder_has_its_layers_under_one_name_in_every_version_of_the_library() -> None:
    names = lora.text_encoder_modules(tiny_text_encoder())
    assert next(iter(names)) == "text_model.encoder.layers.0.self_attn.k_proj"
    assert len(names) == 12
