"""A pack's weights against one torch optimizer an adapter, in float64 and apart from each other."""

import math
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lora_engine.adapters import lora
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.ema import EmaConfig
from lora_engine.config.optimizer import AdamWConfig, ProdigyConfig, SgdConfig
from lora_engine.training.weights import PackWeights, Row
from tests.lora_engine.adapters.toy import Toy, toy

LORA = LoraConfig(rank=2, alpha=3.0, target_modules=("to_q", "to_out.0"))
ADAMW = AdamWConfig(learning_rate=0.5, weight_decay=0.3, beta1=0.7, beta2=0.9, epsilon=1e-3)
NO, YES = torch.tensor([False, False]), torch.tensor([True, True])
KEYS = [f"block.{layer}.lora_{part}.weight" for layer in ("to_q", "to_out.0") for part in "AB"]


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pack(
    names: str = "ab", dtype: torch.dtype = torch.float64, max_norm: float | None = None
) -> tuple[Toy, PackWeights]:
    """A model whose adapters' weights are all drawn, and their pack."""
    model = toy(dtype)
    lora.inject(model, [(name, at) for at, name in enumerate(names)], LORA)
    for at, name in enumerate(names):
        for i, weight in enumerate(lora.parameters(model, name).values()):
            weight.data.copy_(drawn(*weight.shape, seed=10 * at + i))
    return model, PackWeights(model, [Row(name, ADAMW, max_grad_norm=max_norm) for name in names])


class Alone:
    """One adapter with gradients by autograd from the merged weights, clipped and optimized by torch."""

    def __init__(self, adapter: lora.Adapter) -> None:
        self.weights = {key: nn.Parameter(value.clone()) for key, value in adapter.items()}
        self.optimizer = torch.optim.AdamW(
            self.weights.values(), lr=0.0, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.3, foreach=False, fused=False
        )

    def loss(self, x: Tensor) -> Tensor:
        model = toy()
        merged = {}
        for layer in ("block.to_q", "block.to_out.0"):
            down, up = self.weights[f"{layer}.lora_A.weight"], self.weights[f"{layer}.lora_B.weight"]
            merged[f"{layer}.weight"] = model.get_submodule(layer).weight.detach() + 1.5 * up @ down
        return functional_call(model, merged, x).square().sum()

    def update(self, xs: list[Tensor], learning_rate: float, max_norm: float | None) -> Tensor:
        """The gradient's norm before it was clipped."""
        self.optimizer.zero_grad()
        for x in xs:
            self.loss(x).backward()
        norm = nn.utils.clip_grad_norm_(self.weights.values(), max_norm or float("inf"))
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        return norm

    def moments(self) -> dict[str, Tensor]:
        state = {key: self.optimizer.state[weight] for key, weight in self.weights.items()}
        return {f"{part}.{key}": state[key][part] for part in ("step", "exp_avg", "exp_avg_sq") for key in KEYS}


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for key, value in expected.items():
        torch.testing.assert_close(found[key].detach().double(), value.detach().double(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_a_pack_learns_as_its_adapters_would_alone(max_norm: float | None) -> None:
    model, weights = pack(max_norm=max_norm)
    alone = {name: Alone(lora.export(model, name)) for name in "ab"}
    for step in range(4):
        # two micro-batches, and in the last updates one adapter has next to no gradient and is not clipped
        xs = {name: [drawn(3, 5, seed=20 * step + 10 * at + m) for m in range(2)] for at, name in enumerate("ab")}
        shrink = 1.0 if step < 2 else 1e-3
        weights.zero_grad()
        weights.select()
        for micro in range(2):
            out = model(torch.cat([xs["a"][micro], shrink * xs["b"][micro]]))
            out.square().sum().backward()
            weights.accumulate()
        norms = weights.clip()
        weights.update([0.1 / (step + 1)] * 2, NO)
        for at, name in enumerate("ab"):
            theirs = [x if name == "a" else shrink * x for x in xs[name]]
            expected = alone[name].update(theirs, 0.1 / (step + 1), max_norm)
            torch.testing.assert_close(norms[at], expected.double(), rtol=1e-10, atol=1e-10)
            close(lora.parameters(model, name), alone[name].weights)
            close(dict(weights.moments(name)), alone[name].moments())


def test_a_pack_may_be_one_adapter_in_one_layer() -> None:
    model = toy()
    lora.inject(model, [("a", 0)], LORA.model_copy(update={"target_modules": ("to_q",)}))
    weights = PackWeights(model, [Row("a", ADAMW)])
    assert weights.gradients_KP.shape == (1, 18)
    weights.select()
    assert torch.equal(model(drawn(3, 5, seed=0)), toy()(drawn(3, 5, seed=0)))
    assert list(weights.moments("a")) == [
        f"{part}.{key}" for part in ("step", "exp_avg", "exp_avg_sq") for key in KEYS[:2]
    ]


def test_a_learning_rate_on_the_device_is_as_good_as_a_number() -> None:
    updated = []
    for rates in ([0.05, 0.05], torch.tensor([0.05, 0.05], dtype=torch.float64)):
        model, weights = pack()
        weights.select()
        model(drawn(4, 5, seed=1)).square().sum().backward()
        weights.update(rates, NO)
        updated.append(lora.export(model, "b"))
    close(updated[0], updated[1])


def test_a_refused_update_changes_nothing() -> None:
    model, weights = pack()
    weights.select()
    for refuse in (NO, YES):
        weights.zero_grad()
        model(drawn(4, 5, seed=1)).square().sum().backward()
        before = [tensor.clone() for tensor in weights.tensors()]
        weights.update([0.1, 0.1], refuse)
        same = [torch.equal(one, other) for one, other in zip(weights.tensors(), before, strict=True)]
        assert all(same) is bool(refuse.all())
    assert int(weights.moments("a")[f"step.{KEYS[0]}"]) == 1


def test_every_row_is_one_adapters_weights_and_gradients_live() -> None:
    model, weights = pack("abc")
    rows = weights.tensors()[0]
    assert rows.shape == (3, 10 + 8 + 8 + 6)
    for at, name in enumerate("abc"):
        live = lora.parameters(model, name)
        assert torch.equal(torch.cat([weight.flatten() for weight in live.values()]), rows[at])
        for weight in live.values():
            assert weight.grad is not None
            weight.data.fill_(at + 1)
            weight.grad.fill_(-at)
        assert set(rows[at].tolist()) == {at + 1}
        assert set(weights.gradients_KP[at].tolist()) == {-at}
    weights.zero_grad()
    assert not weights.gradients_KP.any()


def test_all_that_an_update_changes_is_listed() -> None:
    model, weights = pack()
    matrices, state = ("weights", "gradients", "copy", "partial"), ("step", "exp_avg", "exp_avg_sq")
    names = (*matrices, *(f"{name} of a" for name in state), *state)
    listed = dict(zip(names, weights.tensors(), strict=True))
    assert listed["gradients"] is weights.gradients_KP
    assert not listed["weights"].requires_grad
    weights.select()
    model(drawn(4, 5, seed=1)).square().sum().backward()
    weights.update([0.1, 0.1], NO)
    assert listed["step"] == 1
    moments = weights.moments("b")
    for part in ("exp_avg", "exp_avg_sq"):
        found = torch.cat([moments[f"{part}.{key}"].flatten() for key in KEYS])
        assert torch.equal(found, listed[part])
    torch.testing.assert_close(listed["exp_avg"], 0.3 * weights.gradients_KP[1])
    assert torch.equal(listed["copy"], listed["weights"])


def test_a_part_of_the_pack_computes_and_learns_alone() -> None:
    model, weights = pack("abc")
    x = drawn(2, 5, seed=1)
    weights.select()
    every = model(x.repeat(3, 1)).chunk(3)
    model.zero_grad(set_to_none=False)
    for first, last in [(1, 2), (0, 2), (1, 3), (2, None), (0, 3)]:
        weights.zero_grad()
        weights.select(first, last)
        chosen = range(3)[first:last]
        out = model(x.repeat(len(chosen), 1))
        torch.testing.assert_close(out, torch.cat([every[k] for k in chosen]), rtol=1e-12, atol=1e-12)
        out.square().sum().backward()
        weights.accumulate()
        assert [bool(row.any()) for row in weights.gradients_KP] == [k in chosen for k in range(3)]


def test_selecting_switches_the_adapters_on_again() -> None:
    model, weights = pack()
    x = drawn(4, 5, seed=1)
    weights.select()
    adapted = model(x)
    lora.activate(model, [])
    assert torch.equal(model(x), toy()(x))
    weights.select()
    assert torch.equal(model(x), adapted)
    assert [layer.active_adapters for layer in lora.packed_layers(model)] == [["a", "b"]] * 2


def leaves(model: Toy) -> tuple[Tensor, Tensor]:
    """What the first layer computes with, and its gradients."""
    down = lora.packed_layers(model)[0].down_KRI
    assert down is not None
    assert down.grad is not None
    return down, down.grad


def test_over_a_base_in_half_precision_copies_compute_and_gradients_add_up_in_single() -> None:
    model, weights = pack(dtype=torch.bfloat16)
    master = weights.tensors()[0]
    assert (master.dtype, weights.gradients_KP.dtype) == (torch.float32, torch.float32)
    weights.select()
    down, gradient = leaves(model)
    assert (down.dtype, gradient.dtype) == (torch.bfloat16, torch.bfloat16)
    assert torch.equal(down.flatten(1), master[:, :10].bfloat16())
    weights.zero_grad()
    for value in (1.0, 2**-9):  # bfloat16 holds either, but not their sum
        gradient.fill_(value)
        weights.accumulate()
        assert not gradient.any()
    assert set(weights.gradients_KP[:, :10].flatten().tolist()) == {1 + 2**-9}
    assert not weights.gradients_KP[:, 10:].any()
    gradient.fill_(1.0)
    weights.zero_grad()
    assert not gradient.any()
    assert not weights.gradients_KP.any()


def test_copies_follow_the_weights_after_an_update_and_whenever_the_pack_is_selected() -> None:
    model, weights = pack(dtype=torch.bfloat16)
    weights.select()
    master = weights.tensors()[0]
    before = master.clone()
    weights.gradients_KP.fill_(1.0)
    weights.update([0.1, 0.1], NO)
    assert not torch.equal(master, before)
    assert torch.equal(leaves(model)[0].flatten(1), master[:, :10].bfloat16())
    master.fill_(3.0)
    weights.select()
    assert set(leaves(model)[0].flatten().tolist()) == {3.0}


def test_the_gradients_of_a_base_in_half_precision_are_those_of_its_copies() -> None:
    model, weights = pack(dtype=torch.bfloat16)
    weights.zero_grad()
    weights.select()
    x = drawn(4, 5, seed=1).bfloat16()
    model(x).square().sum().backward()
    expected = [leaf.grad.clone() for layer in lora.packed_layers(model) for leaf in (layer.down_KRI, layer.up_KOR)]  # type: ignore[union-attr]
    weights.accumulate()
    found = torch.cat([one.flatten(1) for one in expected], dim=1).float()
    assert torch.equal(weights.gradients_KP, found)
    assert all(one.any() for one in expected)


def test_clipping_scales_only_the_rows_that_are_longer() -> None:
    for max_norm in (None, 2.0):
        _, weights = pack("abc", max_norm=max_norm)
        weights.gradients_KP.zero_()
        weights.gradients_KP[0, :2] = torch.tensor([3.0, 4.0])
        weights.gradients_KP[1, 31] = 0.5
        assert weights.clip().tolist() == [5.0, 0.5, 0.0]
        assert (weights.gradients_KP[0, :2].tolist() == [3.0, 4.0]) == (max_norm is None)
    assert weights.gradients_KP[0, :2].tolist() == pytest.approx([1.2, 1.6], rel=1e-6)
    assert weights.gradients_KP[0, :2].norm().item() == pytest.approx(2 * 5 / (5 + 1e-6), rel=1e-12)
    assert weights.gradients_KP[1, 31] == 0.5


def rows(weights: PackWeights, **values: float) -> Tensor:
    """Gradients that are zero but for the first value of these layers' parameters, in two rows: `a0` is A of to_q."""
    starts = {"A0": 0, "B0": 10, "A1": 18, "B1": 26}
    result = torch.zeros_like(weights.gradients_KP)
    for name, value in values.items():
        result[1, starts[name]] = value
    return result


def test_the_relative_error_is_the_largest_of_the_layers_that_matter() -> None:
    _, weights = pack()
    true = rows(weights, A0=10.0, B0=1.0, A1=0.0101, B1=0.0099)
    assert weights.relative_error(true, true) == 0
    found = rows(weights, A0=10.5, B0=0.8, A1=0.0101, B1=0.0099)
    assert weights.relative_error(found, true) == pytest.approx(0.2)
    # a thousandth of the largest is next to nothing, and what is a little more is not
    assert weights.relative_error(rows(weights, A0=10.0, B0=1.0, A1=0.0101, B1=7.0), true) == 0
    wrong = rows(weights, A0=10.0, B0=1.0, A1=0.0404, B1=0.0099)
    assert weights.relative_error(wrong, true) == pytest.approx(3.0)
    # the whole of a layer's gradient counts, not value by value
    both = rows(weights, A0=3.0)
    both[1, 1] = 4.0
    off = both.clone()
    off[1, 1] = 4.5
    assert weights.relative_error(off, both) == pytest.approx(0.1)
    assert weights.relative_error(true, torch.zeros_like(true)) == 0


def test_the_relative_error_of_what_is_not_finite_is_no_number() -> None:
    _, weights = pack()
    true = rows(weights, A0=1.0, B0=float("nan"))
    assert torch.tensor(weights.relative_error(rows(weights, A0=1.0), true)).isnan()
    assert torch.tensor(weights.relative_error(true, rows(weights, A0=1.0, B0=1.0))).isnan()


def test_moments_go_on_in_another_pack() -> None:
    model, weights = pack()
    weights.select()
    for seed in range(2):
        model(drawn(4, 5, seed=seed)).square().sum().backward()
        weights.update([0.1, 0.1], NO)
    kept = {key: value.clone() for key, value in weights.moments("b").items()}
    assert {key.partition(".")[0] for key in kept} == {"step", "exp_avg", "exp_avg_sq"}
    _, other = pack("cb")
    live = other.moments("b")
    other.load_moments("b", kept)
    close(dict(live), kept)
    assert not any(value.any() for key, value in other.moments("c").items() if not key.startswith("step"))
    with pytest.raises(KeyError):
        other.load_moments("b", {key: value for key, value in kept.items() if "exp_avg_sq" not in key})
    with pytest.raises(RuntimeError):
        other.load_moments("b", kept | {f"exp_avg.{KEYS[0]}": torch.zeros(3, 3)})


UNLIKE = {  # name to the settings of an adapter and of its row
    "a": (LORA, Row("a", ADAMW, max_grad_norm=0.1)),
    "b": (
        LORA.model_copy(update={"rank": 3, "alpha": 7.0, "target_modules": ("to_q",)}),
        Row("b", SgdConfig(name="sgd", momentum=0.0, learning_rate=0.5), plus_ratio=4.0, ema=EmaConfig(decay=0.5)),
    ),
    "c": (
        LORA.model_copy(update={"rank": 1, "target_modules": ("to_out.0",)}),
        Row("c", ProdigyConfig(name="prodigy", d0=1e-3)),
    ),
}


def unlike(names: str = "abc") -> tuple[Toy, PackWeights]:
    """A model with adapters of unlike ranks, scales, layers and rows, and the pack of some of them."""
    model = toy()
    for at, (name, (config, _)) in enumerate(UNLIKE.items()):
        lora.inject(model, [(name, at)], config)
        for i, weight in enumerate(lora.parameters(model, name).values()):
            weight.data.copy_(drawn(*weight.shape, seed=10 * at + i))
    return model, PackWeights(model, [UNLIKE[name][1] for name in names])


def test_unlike_adapters_compute_as_each_does_alone() -> None:
    model, weights = unlike()
    x = drawn(2, 5, seed=1)
    alone = []
    for name in "abc":
        lora.activate(model, [name])
        alone.append(model(x))
    for first, last in [(0, 3), (0, 1), (1, 2), (2, 3), (1, 3)]:
        weights.select(first, last)
        found = model(x.repeat(last - first, 1))
        torch.testing.assert_close(found, torch.cat(alone[first:last]), rtol=1e-12, atol=1e-12)
    for at, name in enumerate("bc", start=1):
        other, pack_of_one = unlike(name)
        pack_of_one.select()
        torch.testing.assert_close(other(x), alone[at], rtol=1e-12, atol=1e-12)
        assert [layer.down_KRI is None for layer in lora.packed_layers(other)] == [name == "c", name == "b"]


def test_rows_are_clipped_rated_averaged_and_measured_each_in_its_own_way() -> None:
    model, weights = unlike()
    assert {key.partition(".")[0] for key in weights.moments("b")} == {"momentum_buffer", "ema_step", "ema"}
    gradients = {name: dict(lora.parameters(model, name)) for name in "abc"}
    for part in (weight.grad for adapter in gradients.values() for weight in adapter.values()):
        assert part is not None
        part.fill_(1.0)
    norms = weights.clip().tolist()
    assert norms == pytest.approx([math.sqrt(32), math.sqrt(27), math.sqrt(7)], rel=1e-15)
    clipped = [weights.gradients_KP[k].norm().item() for k in range(3)]
    assert clipped == pytest.approx([0.1 * norms[0] / (norms[0] + 1e-6), norms[1], norms[2]], rel=1e-15)
    before = lora.export(model, "b")
    for refuse in (NO, YES):
        weights.update([0.5, 0.5, 1.0], torch.tensor([*refuse, False]))
    after = lora.export(model, "b")
    for key, factor in zip(KEYS[:2], (1.0, 4.0), strict=True):
        torch.testing.assert_close(after[key], before[key] - 0.5 * factor, rtol=1e-15, atol=1e-15)
    weights.update([0.5] * 3, torch.tensor([False] * 3))  # after update 2, the average keeps 2 / 11
    with weights.averaged():
        for key, factor in zip(KEYS[:2], (1.0, 4.0), strict=True):
            expected = before[key] - 0.5 * factor * (2 - 2 / 11)
            torch.testing.assert_close(lora.export(model, "b")[key], expected, rtol=1e-14, atol=1e-14)
    assert not any(torch.equal(value, after[key]) for key, value in lora.export(model, "b").items())
    found = weights.measured("d")
    assert (found.dtype, found.isnan().tolist()) == (torch.float64, [True, True, False])
    assert found[2] == weights.moments("c")[f"d.{KEYS[2]}"] >= 1e-3


def test_torch_may_not_say_that_gradients_lie_elsewhere_than_it_would_put_them() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pack()
        warnings.warn("grad and param do not obey the gradient layout contract. This is not an error", stacklevel=1)
        with pytest.raises(UserWarning, match="another"):
            warnings.warn("another", stacklevel=1)
