"""Drawing samples with all adapters of a pack in one pass, against one adapter after the other and single images.

Usage: PYTHONPATH=scripts python -m benchmarks.sampling [--width 320] [--resolution 384] [--variants 3] [--prompts 2]
           [--steps 5] [--guidance 7.5] [--precision fp32] [--rounds 3]

Single images are drawn as diffusers' training script draws its own for validation: with one prompt at a time. All ways
share one loaded UNet with random weights; the prompts are encoded before.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.inputs import write_model
from benchmarks.machine import describe
from benchmarks.rounds import table, take_turns
from lora_engine.adapters import lora
from lora_engine.config.adapter import LoraConfig
from lora_engine.evaluation.sampler import Request, Sample, Sampler
from lora_engine.models import stable_diffusion
from lora_engine.models.files import LocalModel
from lora_engine.records import SampleSetting
from lora_engine.system.device import DTYPES, find_device
from lora_engine.system.malloc import keep_freed_blocks


def main() -> None:
    """Make the model, take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--resolution", type=int, default=384)
    parser.add_argument("--variants", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--precision", choices=sorted(DTYPES), default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device = find_device()
    if device.type == "cpu":
        keep_freed_blocks()  # as the job does
    print(describe(str(device)))
    prompts = [f"drawing {number}" for number in range(options.prompts)]
    side = options.resolution
    setting = SampleSetting(side, side, options.steps, options.guidance, negative="", strength=1.0)
    names = [f"variant-{number}" for number in range(options.variants)]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_model(folder, options.width)
        unet = stable_diffusion.load_unet(LocalModel(folder), DTYPES[options.precision], device)
        lora.inject(unet, [(name, 0) for name in names], LoraConfig(rank=8, alpha=8))
        single, together = (
            Sampler(LocalModel(folder), unet, ["", *prompts], at_once, device) for at_once in (1, 2 * options.prompts)
        )
    print(
        f"UNet of width {options.width}, {options.precision}, {options.resolution}x{options.resolution}, "
        f"{options.variants} adapters, {options.prompts} prompts, {options.steps} steps, guidance {options.guidance}"
    )
    ways: dict[str, Callable[[], Sequence[Sample]]] = {
        "single images": partial(_one_after_the_other, single, names, prompts, setting),
        "adapter after adapter": partial(_one_after_the_other, together, names, prompts, setting),
        "adapters together": partial(_generate, together, names, prompts, setting),
    }
    print(table(take_turns(ways, options.rounds), options.variants * options.prompts, "single images"))


def _one_after_the_other(
    sampler: Sampler, names: Sequence[str], prompts: Sequence[str], setting: SampleSetting
) -> list[Sample]:
    return [drawn for name in names for drawn in _generate(sampler, [name], prompts, setting)]


def _generate(sampler: Sampler, names: Sequence[str], prompts: Sequence[str], setting: SampleSetting) -> list[Sample]:
    requests = [Request(dict.fromkeys(names, prompt), 0, setting) for prompt in prompts]
    return [one for drawn in sampler.generate(requests, lambda: None) for one in drawn]


if __name__ == "__main__":
    main()
