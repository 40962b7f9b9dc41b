"""Time the training loop alone: packs of one and of several adapters over one UNet of SD 1.5's layout.

Usage: loop.py [--width 320] [--resolution 384] [--steps 5] [--rounds 3] [--precision fp32] [--cases 3x1,1x3,1x1]

A case KxB trains K adapters with B images each. Cases take turns, round after round, so that whatever else the machine
does falls on all of them; medians of the rounds are compared.
"""

import argparse
import resource
import statistics
import time

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from lora_engine import adapters
from lora_engine.config.training import LoraConfig, TrainingConfig
from lora_engine.device import DTYPES, find_device
from lora_engine.diffusion import NoiseSchedule
from lora_engine.draws import PackMember
from lora_engine.train import PackTrainer, TrainingData

IMAGES = 16
HEAD_DIM_OF_WIDTH = 40 / 320  # SD 1.5 has 8 heads at every level


def unet(width: int, device: torch.device, dtype: torch.dtype) -> UNet2DConditionModel:
    """SD 1.5's UNet with random weights; 320 is its width."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(width, 2 * width, 4 * width, 4 * width),
        cross_attention_dim=768,
        attention_head_dim=8,
    ).to(device, dtype)


def trainer(model: UNet2DConditionModel, members: int, batch: int, resolution: int, steps: int) -> PackTrainer:
    """A pack whose adapters are new."""
    weight = next(model.parameters())
    names = [f"{members}x{batch}-{at}" for at in range(members)]
    adapters.inject(model, [(name, 0) for name in names], LoraConfig(rank=8, alpha=8))
    generator = torch.Generator().manual_seed(1)
    side = resolution // 8
    mean = torch.randn(IMAGES, 4, side, side, generator=generator).to(weight.device)
    text = torch.randn(4, 77, 768, generator=generator).to(weight.device, weight.dtype)
    data = TrainingData(tuple(f"{i:064x}" for i in range(IMAGES)), mean, mean.abs() * 0.1, text)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    schedule = NoiseSchedule(scheduler.alphas_cumprod.double(), "epsilon")
    pack = [PackMember(name, 0, np.full((IMAGES, 1), 1 + at % 3), (1.0,), 0.0) for at, name in enumerate(names)]
    return PackTrainer(model, pack, data, schedule, TrainingConfig(steps=steps, batch_size=batch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--resolution", type=int, default=384)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=sorted(DTYPES), default="fp32")
    parser.add_argument("--cases", default="3x1,1x3,1x1")
    options = parser.parse_args()
    device = find_device()
    cases = [tuple(map(int, case.split("x"))) for case in options.cases.split(",")]
    seconds: dict[tuple[int, ...], list[float]] = {case: [] for case in cases}
    for round_number in range(options.rounds + 1):  # the first one warms up
        for members, batch in cases:
            model = unet(options.width, device, DTYPES[options.precision])
            made = trainer(model, members, batch, options.resolution, options.steps)
            began = time.perf_counter()
            for _ in made.run(options.steps, lambda: False):
                pass
            if round_number:
                seconds[members, batch].append((time.perf_counter() - began) / options.steps)
    print(f"{'case':8} {'s/step':>8} {'images/s':>9}")
    for (members, batch), times in seconds.items():
        median = statistics.median(times)
        print(f"{members}x{batch:<6} {median:8.3f} {members * batch / median:9.3f}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
