"""The average of weights against diffusers' EMAModel."""

import pytest
import torch
from diffusers.training_utils import EMAModel

from lora_engine.config.ema import EmaConfig
from lora_engine.training.ema import WeightAverage

NEVER, ALWAYS = torch.tensor(False), torch.tensor(True)


def drawn(random: torch.Generator) -> torch.Tensor:
    return torch.randn(9, generator=random, dtype=torch.float64)


@pytest.mark.parametrize("decay", [0.0, 0.6, 0.999])
def test_the_average_is_diffusers_s_and_leaves_refused_updates_out(decay: float) -> None:
    random = torch.Generator().manual_seed(7)
    print("seed", 7)
    weights_P = drawn(random)
    ours, theirs = WeightAverage(weights_P, EmaConfig(decay=decay)), EMAModel([torch.nn.Parameter(weights_P)], decay)
    assert torch.equal(ours.averaged(), weights_P)
    for step in range(30):
        weights_P.copy_(drawn(random))
        theirs.step([torch.nn.Parameter(weights_P)])
        ours.update(NEVER)
        torch.testing.assert_close(ours.averaged(), theirs.shadow_params[0], rtol=1e-12, atol=1e-12)
        before = {name: value.clone() for name, value in ours.state().items()}
        weights_P.fill_(torch.nan if step % 2 else 3.0)
        ours.update(ALWAYS)
        assert all(torch.equal(value, before[name]) for name, value in ours.state().items())


def test_a_copied_average_goes_on_to_the_bit() -> None:
    random = torch.Generator().manual_seed(8)
    print("seed", 8)
    weights_P = drawn(random)
    average = WeightAverage(weights_P, EmaConfig(decay=0.7))
    for _ in range(5):
        weights_P.copy_(drawn(random))
        average.update(NEVER)
    other = WeightAverage(weights_P, EmaConfig(decay=0.7))
    for name, value in other.state().items():
        value.copy_(average.state()[name])
    for _ in range(30):
        weights_P.copy_(drawn(random))
        average.update(NEVER)
        other.update(NEVER)
        assert torch.equal(other.averaged(), average.averaged())
