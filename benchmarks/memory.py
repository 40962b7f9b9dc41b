"""What one image keeps for the backward pass in SD 1.5's UNet with rank 8 adapters: what `plan` estimates with.

Usage: python -m benchmarks.memory [--width 320] [--resolutions 256,384,512] [--precision fp32]

Beside it, the growth of the process while a whole update is computed.
"""

import argparse

import psutil
import torch

from benchmarks.loop import random_data, trainer, unet
from lora_engine.config.training import TrainingConfig
from lora_engine.system.device import DTYPES, find_device
from lora_engine.system.memory import peak_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--resolutions", default="256,384,512")
    parser.add_argument("--precision", choices=sorted(DTYPES), default="fp32")
    options = parser.parse_args()
    print(f"{'resolution':>10} {'kept, MiB':>10} {'process, MiB':>13}")
    for resolution in map(int, options.resolutions.split(",")):
        device, dtype = find_device(), DTYPES[options.precision]
        config = TrainingConfig(steps=1, batch_size=1)
        made = trainer(unet(options.width, device, dtype), random_data(resolution, device, dtype), 1, config)
        kept = made.image_bytes()
        before = psutil.Process().memory_info().rss
        for _ in made.run(1, lambda: False):
            pass
        peak = peak_bytes(torch.device("cpu"))
        print(f"{resolution:10} {kept / 2**20:10.0f} {(peak - before) / 2**20:13.0f}", flush=True)


if __name__ == "__main__":
    main()
