"""What a plan says of an adapter's state, against the state that there is."""

import pytest
import torch

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
    weights_P = torch.zeros(estimate.PARAMETERS_PER_RANK)
    state = make_optimizer(weights_P, torch.zeros_like(weights_P), training.optimizer, None).state()
    if ema is not None:
        state |= WeightAverage(weights_P, ema).state()
    vectors = [weights_P, *(value for value in state.values() if value.dim())]
    found = sum(value.numel() * value.element_size() for value in vectors)
    assert estimate.state_bytes(1, training) == found
    assert estimate.adapter_bytes(1, training) == found + weights_P.nbytes
