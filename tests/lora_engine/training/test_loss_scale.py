"""The loss scale against torch's GradScaler, which does the same but waits for the device."""

import pytest
import torch

from lora_engine.training.loss_scale import LossScale

CPU = torch.device("cpu")
YES, NO = torch.tensor(True), torch.tensor(False)


def factor(scale: LossScale, k: int = 0) -> float:
    return float(scale.state(k)["factor"])


def theirs(overflows: set[int], updates: int) -> list[float]:
    """GradScaler's factor after each update."""
    scaler = torch.amp.GradScaler("cpu", init_scale=4096.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=500)
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    scaler.scale(weight.sum())  # it makes its factor at the first loss
    found = []
    for update in range(updates):
        weight.grad = torch.tensor(float("inf") if update in overflows else 1.0)
        scaler.step(optimizer)
        scaler.update()
        found.append(scaler.get_scale())
    return found


@pytest.mark.parametrize(
    "overflows",
    [set(), {0}, {499}, {500}, {498, 1000}, {3, 4, 5, 900}],
    ids=["none", "at once", "just before it grows", "just after it grew", "between", "several"],
)
def test_the_factor_moves_as_torch_moves_it(overflows: set[int]) -> None:
    scale = LossScale(CPU, 1, enabled=True)
    found = []
    for update in range(1502):
        scale.update(~torch.tensor(update in overflows), torch.tensor(update in overflows))
        found.append(factor(scale))
    assert found == theirs(overflows, 1502)


def test_the_factor_halves_down_to_one_and_is_the_least_there() -> None:
    scale = LossScale(CPU, 1, enabled=True)
    for power in reversed(range(12)):
        assert not scale.is_least
        scale.update(NO, YES)
        assert factor(scale) == 2.0**power
    assert scale.is_least
    scale.update(NO, YES)
    assert factor(scale) == 1.0


def test_where_nothing_ever_overflows_the_factor_stays_finite() -> None:
    scale = LossScale(CPU, 1, enabled=True)
    for before, after in ((2.0**63, 2.0**64), (2.0**64, 2.0**64)):
        scale.load(0, {"factor": torch.tensor(before), "lasted": torch.tensor(499)})
        scale.update(YES, NO)
        assert factor(scale) == after


def test_what_was_neither_done_nor_overflowed_counts_for_nothing() -> None:
    scale = LossScale(CPU, 1, enabled=True)
    for _ in range(499):
        scale.update(YES, NO)
    for _ in range(3):
        scale.update(NO, NO)
    assert (factor(scale), int(scale.state(0)["lasted"])) == (4096, 499)
    scale.update(YES, NO)
    assert (factor(scale), int(scale.state(0)["lasted"])) == (8192, 0)


def test_scaling_losses_and_unscaling_their_gradients_leaves_the_gradients() -> None:
    scale = LossScale(CPU, 2, enabled=True)
    scale.load(1, {"factor": torch.tensor(8.0), "lasted": torch.tensor(0)})
    weights_KP = torch.tensor([[1.5, -2.0], [3.0, 0.5]], requires_grad=True)
    losses_KB = weights_KP**3
    assert scale.scaled(losses_KB).item() == losses_KB[0].sum().item() * 4096 + losses_KB[1].sum().item() * 8
    assert scale.scaled(losses_KB[1:], slice(1, 2)).item() == losses_KB[1].sum().item() * 8
    scale.scaled(losses_KB).backward()
    assert weights_KP.grad is not None
    scale.unscale(weights_KP.grad)
    torch.testing.assert_close(weights_KP.grad, 3 * weights_KP.detach() ** 2)


def test_each_adapter_has_a_factor_of_its_own() -> None:
    scale = LossScale(CPU, 3, enabled=True)
    scale.update(torch.tensor([True, False, True]), torch.tensor([False, True, False]))
    assert [factor(scale, k) for k in range(3)] == [4096, 2048, 4096]
    assert [int(scale.state(k)["lasted"]) for k in range(3)] == [1, 0, 1]


def test_disabled_it_changes_nothing() -> None:
    scale = LossScale(CPU, 1, enabled=False)
    losses_KB, gradients_KP = torch.tensor([[3.0, 4.0]]), torch.tensor([[5.0]])
    assert scale.scaled(losses_KB) == 7
    scale.unscale(gradients_KP)
    assert gradients_KP.tolist() == [[5.0]]
    for _ in range(501):
        scale.update(YES, NO)
    scale.update(NO, YES)
    assert (factor(scale), int(scale.state(0)["lasted"])) == (1, 0)
    assert scale.is_least


def test_a_loaded_scale_goes_on_where_the_other_was() -> None:
    first, second = LossScale(CPU, 1, enabled=True), LossScale(CPU, 1, enabled=True)
    first.update(NO, YES)
    for _ in range(499):
        first.update(YES, NO)
    live = second.state(0)
    second.load(0, {name: value.clone() for name, value in first.state(0).items()})
    assert {name: float(value) for name, value in live.items()} == {"factor": 2048, "lasted": 499}
    second.update(YES, NO)
    assert factor(second) == 4096
    assert factor(first) == 2048


def test_it_lies_where_the_training_computes() -> None:
    state = LossScale(torch.device("meta"), 2, enabled=True).state(1)
    assert {value.device.type for value in state.values()} == {"meta"}
