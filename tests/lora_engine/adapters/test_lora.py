"""Packed adapters against their formula and torch's own gradients in float64, and against torch's initialisation."""

import hashlib
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lora_engine.adapters.lora import (
    Adapter,
    activate,
    export,
    inject,
    load,
    packed_layers,
    parameters,
    weights_sha256,
)
from lora_engine.adapters.packed import PackedLinear
from lora_engine.adapters.targets import matching_modules
from lora_engine.config.adapter import LoraConfig
from lora_engine.errors import ModelError
from tests.lora_engine.adapters.toy import Toy, toy

TARGETS = ("to_q", "to_out.0")
KEYS = [
    "block.to_q.lora_A.weight",
    "block.to_q.lora_B.weight",
    "block.to_out.0.lora_A.weight",
    "block.to_out.0.lora_B.weight",
]


def config(alpha: float = 3.0, rank: int = 2, targets: Sequence[str] = TARGETS) -> LoraConfig:
    return LoraConfig(rank=rank, alpha=alpha, target_modules=tuple(targets))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def injected(names: str = "ab", alpha: float = 3.0) -> tuple[Toy, dict[str, Adapter]]:
    """A model with trained adapters, all active, and their weights."""
    model = toy()
    inject(model, [(name, at) for at, name in enumerate(names)], config(alpha))
    trained = {}
    for at, name in enumerate(names):
        live = parameters(model, name)
        trained[name] = {key: drawn(*w.shape, seed=100 * at + i) for i, (key, w) in enumerate(live.items())}
        load(model, name, trained[name])
    activate(model, list(names))
    return model, trained


def merged(adapter: Adapter, scale: float) -> Toy:
    """The model with the adapter added to its weights."""
    model = toy()
    for name in ("block.to_q", "block.to_out.0"):
        down, up = adapter[f"{name}.lora_A.weight"], adapter[f"{name}.lora_B.weight"]
        model.get_submodule(name).weight.data += scale * up @ down
    return model


@pytest.mark.parametrize("alpha", [3.0, 2.0, 0.5])
def test_each_adapter_has_its_share_of_the_batch(alpha: float) -> None:
    model, trained = injected("abc", alpha)
    x = drawn(6, 7, 5)
    expected = torch.cat([merged(trained[name], alpha / 2)(x[2 * k : 2 * k + 2]) for k, name in enumerate("abc")])
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
    flat = torch.cat([merged(trained[name], alpha / 2)(x[2 * k : 2 * k + 2, 0]) for k, name in enumerate("abc")])
    torch.testing.assert_close(model(x[:, 0]), flat, rtol=1e-12, atol=1e-12)


def layer_of(shape: tuple[int, int], *, bias: bool, scale: float) -> tuple[PackedLinear, Tensor, Tensor]:
    """A layer with two adapters of rank 2 whose copies ask for gradients."""
    model = toy()
    model.block.to_q = nn.Linear(*shape, bias=bias, dtype=torch.float64)
    inject(model, [("a", 0), ("b", 1)], config(2 * scale, targets=["to_q"]))
    layer = packed_layers(model)[0]
    down, up = drawn(2, 2, shape[0], seed=1).requires_grad_(), drawn(2, shape[1], 2, seed=2).requires_grad_()
    layer.down_KRI, layer.up_KOR = down, up
    return layer, down, up


@pytest.mark.parametrize("scale", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("leading", [(4,), (4, 3), (2, 3, 2)])
def test_output_and_gradients_are_those_of_the_formula(leading: tuple[int, ...], bias: bool, scale: float) -> None:
    layer, down, up = layer_of((5, 4), bias=bias, scale=scale)
    x, weights = drawn(*leading, 5, seed=3).requires_grad_(), drawn(*leading, 4, seed=4)
    found = layer(x)
    found_gradients = torch.autograd.grad((found * weights).sum(), (x, down, up))
    base = layer.get_base_layer()
    halves = x.chunk(2)
    expected = functional.linear(x, base.weight, base.bias) + scale * torch.cat(
        [halves[k] @ down[k].T @ up[k].T for k in range(2)]
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), (x, down, up))
    for one, other in zip(found_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    layer, down, up = layer_of((5, 4), bias=True, scale=1.5)
    x = drawn(2, 3, 5, seed=3).requires_grad_()

    def of(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        layer.down_KRI, layer.up_KOR = down, up
        return layer(x)

    assert torch.autograd.gradcheck(of, (x, down, up))


def test_an_input_without_gradient_gets_none_and_the_base_never_does() -> None:
    layer, down, up = layer_of((5, 4), bias=True, scale=1.5)
    x = drawn(2, 3, 5, seed=3)
    layer(x).sum().backward()
    assert x.grad is None
    assert down.grad is not None
    assert up.grad is not None
    base = layer.get_base_layer()
    assert base.weight.grad is None
    assert base.bias.grad is None


@pytest.mark.parametrize("missing", ["down_KRI", "up_KOR"])
def test_without_copies_to_compute_with_a_layer_is_the_base_layer(missing: str) -> None:
    layer, _, _ = layer_of((5, 4), bias=True, scale=1.5)
    x, base = drawn(2, 3, 5, seed=3), layer.get_base_layer()
    assert not torch.equal(layer(x), base(x))
    setattr(layer, missing, None)
    assert torch.equal(layer(x), base(x))


def test_disabled_adapters_leave_the_base_layer() -> None:
    layer, _, _ = layer_of((5, 4), bias=True, scale=1.5)
    x = drawn(2, 3, 5, seed=3)
    layer.enable_adapters(enabled=False)
    assert torch.equal(layer(x), layer.get_base_layer()(x))


def test_active_adapters_share_the_batch_in_the_order_that_they_are_named() -> None:
    model, trained = injected("ab")
    x = drawn(4, 7, 5)
    of = {name: merged(trained[name], 1.5) for name in "ab"}
    activate(model, ["b", "a"])
    torch.testing.assert_close(model(x), torch.cat([of["b"](x[:2]), of["a"](x[2:])]), rtol=1e-12, atol=1e-12)
    activate(model, ["b"])
    torch.testing.assert_close(model(x), of["b"](x), rtol=1e-12, atol=1e-12)
    activate(model, ["a", "a"])
    torch.testing.assert_close(model(x), of["a"](x), rtol=1e-12, atol=1e-12)
    activate(model, [])
    torch.testing.assert_close(model(x), toy()(x), rtol=0, atol=0)
    assert all(layer.down_KRI is None and layer.up_KOR is None for layer in packed_layers(model))
    activate(model, ["a"])
    torch.testing.assert_close(model(x), of["a"](x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.0, -1.0])
def test_a_strength_multiplies_what_adapters_add(strength: float) -> None:
    model, trained = injected("ab")
    x = drawn(4, 7, 5)
    activate(model, ["b", "a"], strength)
    of = {name: merged(trained[name], strength * 1.5) for name in "ab"}
    torch.testing.assert_close(model(x), torch.cat([of["b"](x[:2]), of["a"](x[2:])]), rtol=1e-12, atol=1e-12)
    activate(model, ["a"])
    torch.testing.assert_close(model(x), merged(trained["a"], 1.5)(x), rtol=1e-12, atol=1e-12)


def test_activation_copies_the_weights_in_the_dtype_of_the_base() -> None:
    model = toy(torch.bfloat16)
    inject(model, [("a", 0)], config())
    layer = packed_layers(model)[0]
    assert layer.down_KRI is not None
    assert layer.up_KOR is not None
    assert (layer.down_KRI.dtype, layer.up_KOR.dtype) == (torch.bfloat16, torch.bfloat16)
    assert torch.equal(layer.down_KRI[0], layer.lora_A["a"].weight.bfloat16())
    assert not layer.down_KRI.requires_grad
    assert not layer.up_KOR.requires_grad


@pytest.mark.parametrize("base", [torch.float16, torch.bfloat16])
def test_unequal_scales_are_not_rounded_to_the_dtype_of_the_base(base: torch.dtype) -> None:
    """Files say the scale as it was set, so training has to compute with that."""
    model = toy(base)
    for name, rank in (("a", 1), ("b", 3)):
        inject(model, [(name, 0)], config(alpha=1.0, rank=rank))
    activate(model, ["a", "b"])
    x = drawn(4, 7, 5).to(base)
    assert model(x).dtype == base
    for layer in packed_layers(model):
        assert layer.scale.flatten().tolist() == pytest.approx([1, 1 / 3], rel=1e-6)


@pytest.mark.parametrize(
    ("base", "wide"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)]
)
def test_adapters_begin_as_torch_initialises_linear_layers_by_the_seed(base: torch.dtype, wide: torch.dtype) -> None:
    model = toy(base)
    inject(model, [("a", 7), ("b", 8), ("c", 7)], config())
    for name, seed in (("a", 7), ("b", 8), ("c", 7)):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            downs = [nn.init.kaiming_uniform_(torch.empty(2, features), a=math.sqrt(5)) for features in (5, 4)]
        found = list(parameters(model, name).values())
        assert [weight.dtype for weight in found] == [wide] * 4
        assert all(torch.equal(one, other.to(wide)) for one, other in zip(found[::2], downs, strict=True))
        assert not any(weight.any() for weight in found[1::2])
    x = drawn(3, 7, 5).to(base)
    torch.testing.assert_close(model(x), toy(base)(x))


def test_the_seeds_of_adapters_are_not_those_of_what_is_drawn_next() -> None:
    drawn_next = []
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            inject(toy(), [("a", 7)], config())
            drawn_next.append(torch.rand(()).item())
    assert drawn_next[0] != drawn_next[1]


def test_the_base_is_frozen_and_every_adapter_active() -> None:
    model = toy()
    inject(model, [("a", 0), ("b", 1)], config())
    untouched = toy()
    inject(untouched, [], config())
    assert not any(weight.requires_grad for weight in untouched.parameters())
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trainable <= {name for name, _ in model.named_parameters() if "lora_" in name}
    assert [layer.active_adapters for layer in packed_layers(model)] == [["a", "b"]] * 2
    assert [layer.scaling for layer in packed_layers(model)] == [{"a": 1.5, "b": 1.5}] * 2


def test_parameters_are_live_and_an_export_is_a_copy() -> None:
    model, trained = injected("ab")
    live, copied = parameters(model, "b"), export(model, "b")
    assert list(live) == list(copied) == KEYS
    assert [tuple(weight.shape) for weight in live.values()] == [(2, 5), (4, 2), (2, 4), (3, 2)]
    for key in KEYS:
        assert torch.equal(copied[key], trained["b"][key])
        assert not copied[key].requires_grad
    with torch.no_grad():
        live[KEYS[0]].fill_(1)
    assert torch.equal(copied[KEYS[0]], trained["b"][KEYS[0]])
    assert (model.block.to_q.lora_A["b"].weight == 1).all()
    live[KEYS[0]].data = torch.zeros(5, 2, dtype=torch.float64).T
    assert export(model, "b")[KEYS[0]].is_contiguous()


def test_only_what_fits_is_loaded() -> None:
    model, trained = injected("ab")
    lacking = {key: value for key, value in trained["a"].items() if key != KEYS[0]}
    with pytest.raises(ValueError, match=r"^adapter 'a' has 4 tensors, the saved one 3 or other names$"):
        load(model, "a", lacking)
    with pytest.raises(ValueError, match=r"^block\.to_q\.lora_A\.weight is \(2, 5\), saved as \(1, 5\)$"):
        load(model, "a", trained["a"] | {KEYS[0]: torch.zeros(1, 5)})
    load(model, "a", trained["b"])
    assert all(torch.equal(weight, trained["b"][key]) for key, weight in parameters(model, "a").items())


def test_the_hash_of_weights_is_of_names_and_single_precision_values_in_the_order_of_the_names() -> None:
    adapter = {"b": drawn(2, 3), "a": drawn(3, 2).T}
    data = b"a" + adapter["a"].float().contiguous().numpy().tobytes() + b"b" + adapter["b"].float().numpy().tobytes()
    assert weights_sha256(adapter) == hashlib.sha256(data).hexdigest()
    assert weights_sha256(dict(reversed(adapter.items()))) == hashlib.sha256(data).hexdigest()


def test_targets_name_layers_by_their_ends_and_come_in_the_models_order() -> None:
    model = toy()
    found = matching_modules(model, config(targets=["to_out.0", "block.to_q"]))
    assert list(found) == ["block.to_q", "block.to_out.0"]
    assert found["block.to_q"] is model.block.to_q
    # not those that merely end in the same letters
    model.block.go_to_q = nn.Linear(2, 2)
    assert list(matching_modules(model, config(targets=["to_q"]))) == ["block.to_q"]


def test_targets_to_choose_among_are_the_ends_of_names() -> None:
    """Those that are numbers with what they are numbers of."""

    class ResnetBlock2D(nn.Sequential):
        pass

    model = nn.ModuleDict(
        {"down": nn.ModuleList([toy()]), "mid": ResnetBlock2D(nn.Linear(2, 2)), "out": nn.Linear(2, 2)}
    )
    with pytest.raises(ModelError) as caught:
        matching_modules(model, config(targets=["to_z"]))
    assert caught.value.remedy == "Choose among mid.0, to_out.0, to_q."


@pytest.mark.parametrize(
    ("targets", "cause", "remedy"),
    [
        (
            ["to_q", "to_z"],
            "lora.target_modules names 'to_z', but the UNet has no such layer.",
            "Choose among to_out.0, to_q.",
        ),
        (
            ["norm"],
            "lora.target_modules names 'norm', but block.norm is a LayerNorm.",
            "Adapters go into linear layers and convolutions only. Choose among to_out.0, to_q.",
        ),
        (
            ["time"],
            "lora.target_modules names 'time', but what loads kohya's format leaves time out.",
            "Choose among to_out.0, to_q.",
        ),
    ],
)
def test_a_target_that_cannot_have_an_adapter_is_named(targets: list[str], cause: str, remedy: str) -> None:
    for look in (matching_modules, lambda model, config: inject(model, [("a", 0)], config)):
        with pytest.raises(ModelError) as caught:
            look(toy(), config(targets=targets))
        assert (caught.value.cause, caught.value.remedy) == (cause, remedy)
