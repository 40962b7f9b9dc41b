"""What one image keeps for the backward pass in SD 1.5's UNet with rank 8 adapters, and what `plan` estimates.

Usage: python -m benchmarks.memory [--width 320] [--resolutions 256,384,512] [--precision fp32] [--members 1]
    [--layers attention] [--kind lora] [--text-encoder]

Beside it, the peak of the process, in which a whole update of all members is computed.
"""

import argparse

import torch

from benchmarks.loop import attach_text_encoder, pack, random_data, unet
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.training import TrainingConfig
from lora_engine.system.device import DTYPES, find_device
from lora_engine.system.memory import peak_bytes
from lora_engine.training import estimate
from lora_engine.training.members import MemberConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--resolutions", default="256,384,512")
    parser.add_argument("--precision", choices=sorted(DTYPES), default="fp32")
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--layers", default="attention")
    parser.add_argument("--kind", default="lora")
    parser.add_argument("--text-encoder", action="store_true")
    options = parser.parse_args()
    text_encoder = {} if options.text_encoder else None
    adapter = LoraConfig.model_validate(
        {"kind": options.kind, "target_modules": options.layers, "text_encoder": text_encoder}
    )
    print(f"{'resolution':>10} {'kept, MiB':>10} {'estimated':>10} {'process, MiB':>13} {'estimated':>10}")
    for resolution in map(int, options.resolutions.split(",")):
        device, dtype = find_device(), DTYPES[options.precision]
        config = TrainingConfig(steps=1, batch_size=1, memory="fast")
        model = unet(options.width, device, dtype)
        if options.text_encoder:
            attach_text_encoder(model, device, dtype)
        data = random_data(resolution, device, dtype, text_encoder=options.text_encoder)
        members = [MemberConfig(adapter, config)] * options.members
        made = pack(model, data, "memory", members)
        kept = made.image_bytes()
        for _ in made.run(1, lambda: False):
            pass
        peak = peak_bytes(torch.device("cpu"))
        said = estimate.kept_bytes(resolution, dtype.itemsize, [adapter] * options.members)
        whole = estimate.training_bytes(
            resolution, dtype.itemsize, options.members, [(adapter, config)] * options.members
        )
        sizes = (kept, said, peak, whole + estimate.LIBRARIES_BYTES)
        print(f"{resolution:10} {' '.join(f'{size / 2**20:10.0f}' for size in sizes)}", flush=True)


if __name__ == "__main__":
    main()
