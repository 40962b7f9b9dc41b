"""What only a GPU can show. Run with -m gpu."""

from typing import Any

import numpy as np
import pytest
import torch

from lora_engine.adapters import lora
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.lr_schedule import CosineLrSchedule
from lora_engine.config.optimizer import AdamWConfig
from lora_engine.config.training import TrainingConfig
from lora_engine.dataset.encoded import TrainingData
from lora_engine.system.device import find_device, in_words, use_deterministic_kernels
from lora_engine.training.members import MemberConfig
from lora_engine.training.micro_batches import MicroBatches
from lora_engine.training.trainer import PackTrainer
from tests.lora_engine.tiny import rows_of, tiny_data, tiny_member, tiny_noise_schedule, tiny_unet

pytestmark = pytest.mark.gpu

LORA = LoraConfig(rank=4, alpha=8.0)
CONFIG = TrainingConfig(
    steps=24,
    batch_size=4,
    optimizer=AdamWConfig(learning_rate=2e-3),
    schedule=CosineLrSchedule(name="cosine", warmup_steps=3),
    max_grad_norm=0.5,
)
MEMBERS = (tiny_member("a", 5, 1), tiny_member("b", 5, 2, dropout=0.4), tiny_member("c", 0, 3))


def trainer(dtype: torch.dtype, **asked: Any) -> PackTrainer:
    device = torch.device("cuda", 0)
    unet = tiny_unet(dtype).to(device)
    lora.inject(unet, [(m.name, m.seed) for m in MEMBERS], LORA)
    tiny = tiny_data(dtype=torch.float32)
    moments = tiny.moments.place(tiny.moments.read(np.arange(7)))
    texts = tiny.texts.place(tiny.texts.read(np.arange(6)))
    data = TrainingData(tiny.image_ids, rows_of(moments.to(device)), rows_of(texts.to(device, dtype)))
    config = CONFIG.model_copy(update=asked)
    configs = [MemberConfig(LORA, config)] * len(MEMBERS)
    return PackTrainer(unet, MEMBERS, data, tiny_noise_schedule(), configs, half_precision=dtype == torch.float16)


def losses(made: PackTrainer, until: int = CONFIG.steps) -> list[list[float | None]]:
    found = [[record.loss for record in row.values()] for row in made.run(until, lambda: False)]
    assert not made.take_remarks()
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_updates_as_one_graph_are_those_that_they_would_be(dtype: torch.dtype) -> None:
    eager, graph = trainer(dtype, cuda_graph="off"), trainer(dtype)
    np.testing.assert_allclose(np.array(losses(graph)), np.array(losses(eager)), rtol=1e-3)
    for member in MEMBERS:
        ours, theirs = graph.state(member.name), eager.state(member.name)
        assert ours["step"] == theirs["step"] == CONFIG.steps
        weights = [key for key in ours if key.startswith("adapter.")]
        moved = torch.cat([(ours[key] - theirs[key]).flatten() for key in weights]).norm()
        assert moved / torch.cat([theirs[key].flatten() for key in weights]).norm() < 0.02


def test_a_graph_is_made_anew_when_a_member_is_frozen() -> None:
    eager, graph = trainer(torch.float32, cuda_graph="off"), trainer(torch.float32)
    for made in (eager, graph):
        losses(made, 8)
        made.freeze("b")
    found, expected = (np.array(losses(made), dtype=float) for made in (graph, eager))
    assert np.isnan(found[:, 1]).all()
    np.testing.assert_allclose(found[:, [0, 2]], expected[:, [0, 2]], rtol=1e-3)


def test_a_graph_is_made_after_memory_was_measured() -> None:
    """As a run does it: what one image keeps, then the gradients of an update that is cut up in this way."""
    plain, made = trainer(torch.bfloat16), trainer(torch.bfloat16)
    assert made.image_bytes() > 0
    made.use_micro_batches(MicroBatches(4, 3))
    np.testing.assert_allclose(np.array(losses(made)), np.array(losses(plain)), rtol=1e-3)


@pytest.mark.parametrize("cuda_graph", ["off", "auto"])
def test_deterministic_training_repeats_to_the_same_bits(cuda_graph: str) -> None:
    use_deterministic_kernels(enabled=True)
    try:
        first, second = (losses(trainer(torch.bfloat16, cuda_graph=cuda_graph)) for _ in range(2))
    finally:
        use_deterministic_kernels(enabled=False)
    assert first == second


def test_resuming_with_a_graph_continues_as_if_nothing_happened() -> None:
    whole, first, second = (trainer(torch.float32) for _ in range(3))
    expected = losses(whole)[10:]
    losses(first, 10)
    second.restore({member.name: first.state(member.name) for member in MEMBERS})
    np.testing.assert_allclose(np.array(losses(second)), np.array(expected), rtol=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_compiled_blocks_in_a_graph_train_as_eager_ones() -> None:
    eager = trainer(torch.float32, steps=4000, cuda_graph="off")
    both = trainer(torch.float32, steps=4000, compile="regional")
    np.testing.assert_allclose(np.array(losses(both, 24)), np.array(losses(eager, 24)), rtol=2e-3)


def test_a_cpu_that_is_asked_for_is_used_where_there_is_a_gpu() -> None:
    assert [find_device(choice).type for choice in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    assert in_words(find_device("cuda")).endswith(" GiB)")
