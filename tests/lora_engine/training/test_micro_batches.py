import weakref

import pytest
import torch

from benchmarks.loop import random_data, trainer, unet
from lora_engine.config.training import TrainingConfig
from lora_engine.errors import ResourceError
from lora_engine.system.memory import kept_bytes
from lora_engine.training import estimate
from lora_engine.training.micro_batches import MicroBatches, candidates, choose, spendable

CONFIG = TrainingConfig(steps=1, batch_size=4, gradient_accumulation=2)


def ways(memory: str, *, fold: bool = False, members: int = 3) -> list[MicroBatches]:
    config = CONFIG.model_copy(update={"memory": memory})
    return list(candidates(config, members, config.images_per_step, fold=fold))


def test_what_each_setting_allows() -> None:
    assert ways("fast") == [MicroBatches(8, 3)]
    assert ways("low") == [MicroBatches(1, 1, recompute=True)]
    smaller = [
        MicroBatches(2, 3),
        MicroBatches(1, 3),
        MicroBatches(1, 2),
        MicroBatches(1, 1),
        MicroBatches(1, 1, recompute=True),
    ]
    assert ways("auto") == [MicroBatches(4, 3), *smaller]
    assert ways("auto", fold=True) == [MicroBatches(8, 3), MicroBatches(4, 3), *smaller]


@pytest.mark.parametrize("micro_batches", [*ways("auto", fold=True), MicroBatches(3, 2), MicroBatches(100, 100)])
def test_micro_batches_cover_everything_once(micro_batches: MicroBatches) -> None:
    seen = torch.zeros(3, 8)
    for members, images in micro_batches.slices(3, 8):
        seen[members, images] += 1
    assert torch.equal(seen, torch.ones(3, 8))


def test_the_first_way_that_fits_is_taken() -> None:
    tried: list[MicroBatches] = []

    def attempt(micro_batches: MicroBatches) -> None:
        tried.append(micro_batches)
        if len(tried) == 1:
            raise torch.cuda.OutOfMemoryError("injected: the estimate was too low")

    assert choose(ways("auto"), 100, 6 * 100, attempt) == MicroBatches(1, 3)
    assert tried == [MicroBatches(2, 3), MicroBatches(1, 3)]
    with pytest.raises(ResourceError, match="smallest"):
        choose(ways("auto"), 2**30, 2**20, attempt)


def test_bytes_kept_for_the_backward_pass_are_counted_once_each() -> None:
    """A linear layer keeps its input, and a product both factors; the input is one tensor."""
    weight = torch.randn(64, 64, requires_grad=True)
    x = torch.randn(8, 64, requires_grad=True)
    assert kept_bytes(lambda: x * (x @ weight), [weight]) == (x.numel() + x.numel()) * 4
    more = torch.randn(16, 64, requires_grad=True)
    assert kept_bytes(lambda: more * (more @ weight), [weight]) == 2 * kept_bytes(lambda: x * (x @ weight), [weight])


def test_what_was_counted_is_freed() -> None:
    """A CUDA graph cannot be captured while an earlier pass's is alive, and its activations would stay with it."""
    x, seen = torch.randn(8, 64, requires_grad=True), []

    def forward() -> torch.Tensor:
        kept = x.exp()  # which is what its backward pass needs
        seen.append(weakref.ref(kept))
        return kept

    assert kept_bytes(forward, []) == x.numel() * 4
    assert seen[0]() is None


def test_what_a_pass_needs_beside_its_activations_stays_free() -> None:
    assert spendable(1000, torch.device("cuda")) == 900
    assert spendable(1000, torch.device("cpu")) == 650


@pytest.mark.slow
@pytest.mark.parametrize("resolution", [64, 256, 384])
def test_the_plan_knows_what_an_image_of_the_real_size_keeps(resolution: int) -> None:
    """The UNet of SD 1.5, with random weights: 3.4 GB and a minute."""
    cpu = torch.device("cpu")
    model = unet(320, cpu, torch.float32)
    assert sum(weight.numel() for weight in model.parameters()) == estimate.UNET_PARAMETERS
    made = trainer(model, random_data(resolution, cpu, torch.float32), 1, TrainingConfig(steps=1, batch_size=1))
    assert made.image_bytes() == pytest.approx(estimate.kept_bytes(resolution, 4), rel=0.02)
