"""Fifty updates with everything that makes them fast, against the loop that anybody would write."""

import math

import numpy as np
import peft
import pytest
import torch
from torch.nn.functional import mse_loss

from lora_engine import diffusion
from lora_engine.adapters import lora
from lora_engine.config.adapter import LISTED, LoraConfig
from lora_engine.config.lr_schedule import CosineLrSchedule
from lora_engine.config.optimizer import AdamWConfig
from lora_engine.config.training import TrainingConfig
from lora_engine.dataset.draws import Draws, PackMember
from lora_engine.dataset.encoded import TrainingData
from lora_engine.dataset.table import TensorTable
from lora_engine.training.lr_schedule import learning_rate
from lora_engine.training.members import MemberConfig
from lora_engine.training.micro_batches import MicroBatches
from lora_engine.training.trainer import PackTrainer
from tests.lora_engine.tiny import tiny_data, tiny_noise_schedule, tiny_unet

LORA = LoraConfig(rank=4, alpha=8.0)
CONFIG = TrainingConfig(
    steps=50,
    batch_size=2,
    gradient_accumulation=2,
    optimizer=AdamWConfig(learning_rate=2e-3),
    schedule=CosineLrSchedule(name="cosine", warmup_steps=5),
    max_grad_norm=0.5,
    random_flip=True,
)
MEMBERS = tuple(
    PackMember(name, 5, np.array([[1 + (image + at) % 5] for image in range(7)]), np.ones((7, 1)), dropout)
    for at, (name, dropout) in enumerate([("a", 0.0), ("b", 0.3)])
)


def data_of(dtype: torch.dtype, device: torch.device) -> TrainingData:
    """In float32, the texts in the base's dtype, none of it kept on the device."""
    tiny = tiny_data(dtype=torch.float32)
    moments = tiny.moments.place(tiny.moments.read(np.arange(7)))
    texts = tiny.texts.place(tiny.texts.read(np.arange(6)))
    both = torch.cat([moments, moments.flip(4)])
    return TrainingData(
        tiny.image_ids,
        TensorTable(both.__getitem__, len(both), device, torch.float32, resident=False),
        TensorTable(texts.__getitem__, len(texts), device, dtype, resident=False),
        flips=True,
    )


def fast(dtype: torch.dtype, device: torch.device, **asked: str) -> list[list[float]]:
    """The losses of every member: packed, streamed, accumulation folded."""
    unet, data = tiny_unet(dtype).to(device), data_of(dtype, device)
    lora.inject(unet, [(member.name, member.seed) for member in MEMBERS], LORA)
    config = CONFIG.model_copy(update=asked)
    configs = [MemberConfig(LORA, config)] * len(MEMBERS)
    made = PackTrainer(unet, MEMBERS, data, tiny_noise_schedule(), configs, half_precision=dtype == torch.float16)
    made.use_micro_batches(MicroBatches(4, 2))
    losses = [[record.loss or math.nan for record in row.values()] for row in made.run(CONFIG.steps, lambda: False)]
    assert not made.take_remarks()
    return losses


def plain(member: PackMember) -> list[float]:
    """One adapter in fp32: PEFT's layers, one micro-batch after the other, torch's optimizer and clipping."""
    unet, noise_schedule = tiny_unet(torch.float32), tiny_noise_schedule().to(torch.device("cpu"))
    lora.inject(unet, [(member.name, member.seed)], LORA)
    start = lora.export(unet, member.name)
    unet = tiny_unet(torch.float32).requires_grad_(requires_grad=False)
    unet.add_adapter(peft.LoraConfig(r=4, lora_alpha=8.0, target_modules=list(LISTED["attention"])))
    peft.set_peft_model_state_dict(unet, start)
    weights = [weight for weight in unet.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=2e-3, weight_decay=CONFIG.optimizer.weight_decay)
    tiny = tiny_data(dtype=torch.float32)
    moments = tiny.moments.place(tiny.moments.read(np.arange(7)))
    texts = tiny.texts.place(tiny.texts.read(np.arange(6)))
    draws = Draws((member.seed,), tiny.image_ids, tiny.latent_shape, 4, 1000, flips=True)
    losses = []
    for step in range(1, CONFIG.steps + 1):
        draw = draws.of_step(step)
        rows = draws.caption_rows(draw, [member])[0]
        total = 0.0
        for micro in (slice(0, 2), slice(2, 4)):
            both = moments[draw.indices[0, micro]]  # [2, 2, C, H, W]
            flipped = torch.from_numpy(draw.flips[0, micro]).bool().view(-1, 1, 1, 1, 1)
            mean, std = torch.where(flipped, both.flip(4), both).unbind(1)
            noise, posterior = (torch.from_numpy(drawn[0, micro]) for drawn in (draw.noise, draw.posterior))
            timesteps = torch.from_numpy(draw.timesteps[0, micro])
            noisy = diffusion.add_noise(noise_schedule, mean + std * posterior, noise, timesteps)
            loss = mse_loss(unet(noisy, timesteps, texts[rows[micro]]).sample, noise) / 2
            torch.autograd.backward(loss)
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(weights, 0.5)
        optimizer.param_groups[0]["lr"] = learning_rate(CONFIG, step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


@pytest.fixture(scope="module")
def plain_losses() -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """[50, 2]."""
    return np.array([plain(member) for member in MEMBERS]).T


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-3)])
def test_fifty_updates_over_a_base_in_any_precision_are_those_of_a_plain_loop_in_fp32(
    plain_losses: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", dtype: torch.dtype, tolerance: float
) -> None:
    compare(fast(dtype, torch.device("cpu")), plain_losses, tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graph", ["off", "auto"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_so_they_are_on_a_gpu(
    plain_losses: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", dtype: torch.dtype, cuda_graph: str
) -> None:
    compare(fast(dtype, torch.device("cuda", 0), cuda_graph=cuda_graph), plain_losses, 5e-3)  # fp32 convolves in TF32


def compare(
    losses: list[list[float]], plain: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", tolerance: float
) -> None:
    found = np.array(losses)
    print(f"largest relative difference of a loss: {np.abs(found / plain - 1).max():.1e}")
    np.testing.assert_allclose(found, plain, rtol=tolerance)
