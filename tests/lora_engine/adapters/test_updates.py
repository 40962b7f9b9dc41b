"""Updates by their factors, against arithmetic with the updates themselves."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lora_engine.adapters import updates
from lora_engine.adapters.lora_file import LoraFile, LoraLayer
from lora_engine.errors import ModelError
from tests.lora_files import dense

SHAPES = {  # of the weights: [O, I] or [O, I, h, w]
    "down_blocks.0.attentions.0.proj_in": (12, 7, 1, 1),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (9, 14),
    "mid_block.resnets.0.conv1": (6, 5, 3, 3),
    "text_encoder.text_model.encoder.layers.0.mlp.fc1": (16, 4),
}


def made(seed: int, rank: int = 3, names: tuple[str, ...] = tuple(SHAPES)) -> LoraFile:
    """An adapter whose alpha is unlike its rank."""
    dice = torch.Generator().manual_seed(seed)
    layers = {}
    for name in names:
        outputs, *inputs = SHAPES[name]
        down, up = torch.randn(rank, *inputs, generator=dice), torch.randn(outputs, rank, generator=dice)
        layers[name] = LoraLayer(down, up.view(*up.shape, *[1] * (len(inputs) - 1)), 1.5 * rank + seed)
    return LoraFile(layers, {"made": str(seed)})


def together(file: LoraFile, names: list[str]) -> Tensor:
    return torch.cat([dense(file.layers[name]).flatten() for name in names])


def test_sizes_and_cosines_are_those_of_the_updates() -> None:
    names = list(SHAPES)
    a, b = made(1), made(2, rank=5, names=tuple(names[:3]))
    whole = made(2, rank=5)
    zero = {names[3]: replace(whole.layers[names[3]], up=torch.zeros(16, 5))}
    filled = LoraFile(dict(b.layers) | zero, {})
    found = updates.likenesses(a, b)
    blocks = {"": names, "down_blocks.0": names[:2], "mid_block": names[2:3], "text_encoder": names[3:]}
    assert list(found) == list(blocks)
    for block, of in blocks.items():
        left, right = together(a, of), together(filled, of)
        assert found[block].layers == len(of)
        assert found[block].norm_a == pytest.approx(float(left.norm()))
        assert found[block].norm_b == pytest.approx(float(right.norm()))
        assert found[block].difference == pytest.approx(float((left - right).norm()))
        if block == "text_encoder":
            assert found[block].cosine is None
        else:
            assert found[block].cosine == pytest.approx(float(left @ right / left.norm() / right.norm()))
        assert updates.norms(a)[block] == pytest.approx(float(left.norm()))
    same = updates.likenesses(a, a)[updates.WHOLE]
    assert (same.cosine, same.difference) == (pytest.approx(1), pytest.approx(0, abs=1e-6))
    assert updates.likenesses(a, updates.scaled(a, -2))[updates.WHOLE].cosine == pytest.approx(-1)


def test_layers_of_other_sizes_are_not_compared() -> None:
    a, b = made(1), made(2)
    name = "mid_block.resnets.0.conv1"
    odd = LoraFile({name: replace(b.layers[name], down=b.layers[name].down[:, :, :1, :1])}, {})
    with pytest.raises(ModelError, match=r"mid_block\.resnets\.0\.conv1 has weights for \[6, 5, 3, 3\] in the one"):
        updates.likenesses(a, odd)


@pytest.mark.parametrize("rank", [1, 2, 3, 5, 8])
def test_another_rank_leaves_out_the_smallest_singular_values_and_says_so(rank: int) -> None:
    file = made(3, rank=5)
    small, costs = updates.resize(file, dict.fromkeys(file.layers, rank))
    for name, layer in file.layers.items():
        before, after = dense(layer), dense(small.layers[name])
        values = torch.linalg.svdvals(before)
        left_out = math.sqrt(float(values[rank:].square().sum()))
        assert small.layers[name].rank == min(rank, 5)
        assert small.layers[name].down.shape[1:] == layer.down.shape[1:]
        assert float((before - after).norm()) == pytest.approx(left_out, abs=1e-4)
        assert costs[name].error == pytest.approx(left_out, abs=1e-4)
        assert costs[name].norm == pytest.approx(float(before.norm()))


def test_rank_of_more_than_the_layer_has_sides_for() -> None:
    layer = LoraLayer(torch.randn(9, 4), torch.randn(3, 9), 2.0)
    found = updates.resized(layer, 8)
    assert found.layer.rank == 3
    torch.testing.assert_close(dense(found.layer), dense(layer), rtol=1e-5, atol=1e-5)


def test_an_average_is_the_mean_of_updates_and_not_of_factors() -> None:
    names = tuple(SHAPES)
    files = [made(1), made(2, rank=2), made(3, names=names[:2])]
    mean = updates.averaged(files)
    assert mean.metadata == {"made": "3"}
    for name in names:
        expected = sum((dense(file.layers[name]) for file in files if name in file.layers), torch.tensor(0.0)) / 3
        torch.testing.assert_close(dense(mean.layers[name]), expected)
    small, costs = updates.resize(mean, dict.fromkeys(names, 3))
    for name in names:
        error = float((dense(small.layers[name]) - dense(mean.layers[name])).norm())
        assert costs[name].error == pytest.approx(error, abs=1e-4)


@pytest.mark.parametrize("name", list(SHAPES))
@pytest.mark.parametrize("strength", [1.0, 0.5, 0.0, -1.0])
def test_a_merged_weight_is_the_sum_and_of_dora_the_way_to_it(name: str, strength: float) -> None:
    layer = made(4).layers[name]
    weight = torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(5))
    update = dense(layer).view(weight.shape)
    torch.testing.assert_close(updates.merged(weight, layer, strength), (weight + strength * update).float())
    magnitude = torch.rand(len(weight)) + 0.5
    rows = (weight + update).flatten(1)
    target = (rows / rows.norm(dim=1, keepdim=True) * magnitude[:, None]).view(weight.shape)
    found = updates.merged(weight, replace(layer, magnitude=magnitude), strength)
    torch.testing.assert_close(found, (weight + strength * (target - weight)).float())


def test_a_layer_of_one_pixel_goes_into_a_linear_layer_and_no_other_size_does() -> None:
    layer = made(4).layers["down_blocks.0.attentions.0.proj_in"]
    assert updates.merged(torch.zeros(12, 7), layer).shape == (12, 7)
    for shape in ((7, 12), (12, 7, 3, 3), (12, 8)):
        with pytest.raises(ModelError, match=r"the adapter's layer is for weights of \[12, 7\]"):
            updates.merged(torch.zeros(shape), layer)
    with pytest.raises(ModelError, match="no finite number"):
        updates.merged(torch.full((12, 7), torch.finfo().max), layer, 1e38)
