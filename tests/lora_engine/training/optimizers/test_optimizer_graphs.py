"""Optimizers as CUDA graphs, which only a GPU can show. Run with -m gpu."""

import pytest
import torch

from lora_engine.config.ema import EmaConfig
from lora_engine.training.ema import WeightAverage
from tests.lora_engine.training.optimizers.rows import KIND_NAMES, KINDS, Slope, rate_of, row_of

SIZE = 42


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "own_rates"), KINDS, ids=KIND_NAMES)
def test_updates_as_a_graph_are_those_that_they_would_be(name: str, own_rates: bool) -> None:
    slope = Slope(SIZE, torch.float32, seed=5)
    start_P = slope.start_P.cuda()
    graphed, eager = (row_of(name, own_rates, start_P) for _ in range(2))
    averages = [WeightAverage(row.weights_P, EmaConfig(decay=0.9)) for row in (graphed, eager)]
    rate, refuse = torch.zeros((), device="cuda"), torch.tensor(True, device="cuda")
    with torch.cuda.stream(torch.cuda.Stream()):  # the kernels are loaded before the capture
        graphed.optimizer.step(rate, refuse)
        averages[0].update(refuse)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        graphed.optimizer.step(rate, refuse)
        averages[0].update(refuse)
    for step in range(12):
        gradient_P = slope.gradient(eager.weights_P.cpu()).cuda()
        rate.fill_(rate_of(name, step))
        refuse.fill_(step % 5 == 3)
        graphed.gradient_P.copy_(gradient_P)
        graph.replay()
        eager.step(gradient_P, rate_of(name, step), refuse)
        averages[1].update(refuse)
    for key, value in graphed.everything().items():
        torch.testing.assert_close(value, eager.everything()[key], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(averages[0].averaged(), averages[1].averaged(), rtol=1e-4, atol=1e-6)
