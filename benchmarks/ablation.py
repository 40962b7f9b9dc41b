"""The training loop with each trick on and off, at equal work.

Usage: python -m benchmarks.ablation [--width 320] [--resolution 384] [--images 12] [--rounds 3] [--precision auto]
           [--cases 1x1,3x1,...]

A case is named by variants x batch; every case trains on as many images (of all its variants together), a multiple of
12, after an update that does not count. Cases take turns, each in a process of its own. FLOPs are those of the model,
forward and backward, without what is computed twice; utilisation is their rate over that of a large matrix product,
measured in the same process right before and after.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal

import peft
import torch
from diffusers import UNet2DConditionModel
from torch.nn.functional import mse_loss
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.loop import RANK, TEXT_TOKENS, TEXT_WIDTH, random_data, trainer, unet
from benchmarks.machine import describe
from benchmarks.rounds import in_turns
from lora_engine.config.models import DtypeName
from lora_engine.config.training import TrainingConfig
from lora_engine.system.device import DTYPES, find_device, resolve_precision
from lora_engine.system.device import describe as describe_device
from lora_engine.system.malloc import keep_freed_blocks
from lora_engine.system.memory import peak_bytes
from lora_engine.system.quiet import quiet_libraries
from lora_engine.training.micro_batches import MicroBatches

_STEPS = 1_000_000  # of a run, so that it would be worth compiling for; few of them are done
_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


@dataclass(frozen=True)
class Case:
    """One way of training."""

    precision: DtypeName
    members: int = 1
    batch: int = 1
    accumulation: int = 1
    micro_batches: MicroBatches | None = None  # None is all of an update at once
    bare: bool = False  # PEFT's own layers and torch's optimizer, and nothing else
    compile: Literal["off", "regional", "full"] = "off"
    cuda_graph: Literal["auto", "off"] = "off"
    channels_last: bool = False

    @property
    def images_per_step(self) -> int:
        """Of all variants together."""
        return self.members * self.batch * self.accumulation


@dataclass(frozen=True)
class Setting:
    """What all cases have in common."""

    width: int
    resolution: int
    images: int


@dataclass(frozen=True)
class Measured:
    """One case, once."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    matrix_rate: float  # FLOP/s


def cases(precision: DtypeName) -> dict[str, Case]:
    """All of them, by name."""
    found = {
        "1x1": Case(precision),
        "1x1 bare": Case(precision, bare=True),
        "1x3": Case(precision, batch=3),
        "3x1": Case(precision, members=3),
        "1x4": Case(precision, batch=4),
        "1x4 recomputed": Case(precision, batch=4, micro_batches=MicroBatches(4, 1, recompute=True)),
        "1x1x4": Case(precision, accumulation=4, micro_batches=MicroBatches(1, 1)),
        "1x1x4 folded": Case(precision, accumulation=4, micro_batches=MicroBatches(4, 1)),
        "1x12": Case(precision, batch=12),
        "3x4": Case(precision, members=3, batch=4),
        "3x4 channels-last": Case(precision, members=3, batch=4, channels_last=True),
        "3x4 regional": Case(precision, members=3, batch=4, compile="regional"),
        "3x4 full": Case(precision, members=3, batch=4, compile="full"),
    }
    if precision != "fp32":
        found["1x1 fp32"] = Case("fp32")
    if torch.cuda.is_available():
        found |= {f"{name} graph": replace(case, cuda_graph="auto") for name, case in found.items() if not case.bare}
    return found


_TRICKS = {
    "our loop, against a bare step": ("1x1", "1x1 bare"),
    "three variants packed, against one after the other": ("3x1", "1x1"),
    "the same, batch 4": ("3x4", "1x4"),
    "three variants packed, against one variant with that batch": ("3x1", "1x3"),
    "the same, batch 4 and 12": ("3x4", "1x12"),
    "batch 4, against 1": ("1x4", "1x1"),
    "accumulation folded into the batch": ("1x1x4 folded", "1x1x4"),
    "activations computed twice": ("1x4 recomputed", "1x4"),
    "precision, against fp32": ("1x1", "1x1 fp32"),
    "channels-last, against the plain layout": ("3x4 channels-last", "3x4"),
    "blocks compiled": ("3x4 regional", "3x4"),
    "the UNet compiled": ("3x4 full", "3x4"),
    "as one graph, batch 1": ("1x1 graph", "1x1"),
    "as one graph, batch 4": ("1x4 graph", "1x4"),
    "as one graph, three variants, batch 4": ("3x4 graph", "3x4"),
    "as graphs: three variants packed, against one variant, batch 4": ("3x4 graph", "1x4 graph"),
    "as graphs: the same, against one variant with that batch": ("3x4 graph", "1x12 graph"),
    "as graphs: channels-last, against the plain layout": ("3x4 channels-last graph", "3x4 graph"),
    "as graphs: blocks compiled": ("3x4 regional graph", "3x4 graph"),
    "as graphs: the UNet compiled": ("3x4 full graph", "3x4 graph"),
}


def measure(case: Case, setting: Setting) -> Measured:
    """Train on that many images. To be called in a new process."""
    quiet_libraries()
    device, dtype = find_device(), DTYPES[case.precision]
    update = _bare(case, setting, device, dtype) if case.bare else _ours(case, setting, device, dtype)
    _forget_peak(device)
    update(1)
    first_peak = peak_bytes(device)  # a graph's memory counts when it is captured, and not when it is used
    before = _matrix_rate(device, dtype)
    _forget_peak(device)
    start, cpu_start = time.perf_counter(), time.process_time()
    update(setting.images // case.images_per_step)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    peak = max(first_peak, peak_bytes(device))
    return Measured(seconds, cpu_seconds, peak, (before + _matrix_rate(device, dtype)) / 2)


def _ours(case: Case, setting: Setting, device: torch.device, dtype: torch.dtype) -> Callable[[int], None]:
    if device.type == "cpu":
        keep_freed_blocks()  # as the job does
    model = unet(setting.width, device, dtype)
    if case.channels_last:
        model.to(memory_format=torch.channels_last)
    config = TrainingConfig(
        steps=_STEPS,
        batch_size=case.batch,
        gradient_accumulation=case.accumulation,
        compile=case.compile,
        cuda_graph=case.cuda_graph,
    )
    made = trainer(model, random_data(setting.resolution, device, dtype), case.members, config)
    made.use_micro_batches(case.micro_batches or MicroBatches(case.batch * case.accumulation, case.members))

    def update(steps: int) -> None:
        for _ in made.run(made.step + steps, lambda: False):
            pass
        assert not made.take_remarks(), "then it would not be this case that is measured"

    return update


def _bare(case: Case, setting: Setting, device: torch.device, dtype: torch.dtype) -> Callable[[int], None]:
    model = with_peft(unet(setting.width, device, dtype)).to(dtype)
    noisy, timesteps, text = inputs(case.batch, setting.resolution, device, dtype)
    target = torch.randn_like(noisy, dtype=torch.float32)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)

    def update(steps: int) -> None:
        for _ in range(steps):
            torch.autograd.backward(mse_loss(model(noisy, timesteps, text).sample.float(), target))
            optimizer.step()
            optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return update


def with_peft(model: UNet2DConditionModel) -> UNet2DConditionModel:
    """The model, frozen, with PEFT's own layers in it."""
    model.requires_grad_(requires_grad=False)
    model.add_adapter(peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=_TARGETS))
    return model


def inputs(batch: int, resolution: int, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Noisy latents, timesteps, text."""
    noisy = torch.randn(batch, 4, resolution // 8, resolution // 8, device=device, dtype=dtype)
    text = torch.randn(batch, TEXT_TOKENS, TEXT_WIDTH, device=device, dtype=dtype)
    return noisy, torch.full((batch,), 500, device=device), text


def flops_per_image(width: int, resolution: int) -> int:
    """Of a forward and a backward pass. Nothing is computed."""
    nowhere = torch.device("meta")
    model = with_peft(unet(width, nowhere, torch.float32))
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(model(*inputs(1, resolution, nowhere, torch.float32)).sample.sum())
    return int(counter.get_total_flops())


def _matrix_rate(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """FLOP/s of a product of large square matrices."""
    side = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / median(seconds[1:])


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def case_table(measured: Mapping[str, Sequence[Measured]], of: Mapping[str, Case], setting: Setting) -> str:
    """A row a case, medians over the rounds."""
    flops = flops_per_image(setting.width, setting.resolution) * setting.images
    lines = [
        f"{flops / setting.images / 1e9:.0f} GFLOP an image",
        "",
        "| variants x batch | seconds a step | images/s | peak memory, GiB | utilisation | matrix product, GFLOP/s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, own in measured.items():
        seconds = median(m.seconds for m in own)
        cells = (
            f"{seconds * of[name].images_per_step / setting.images:.3f}",
            f"{setting.images / seconds:.3f}",
            f"{median(m.peak_bytes for m in own) / 2**30:.2f}",
            f"{median(flops / m.seconds / m.matrix_rate for m in own):.0%}",
            f"{median(m.matrix_rate for m in own) / 1e9:.0f}",
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def trick_table(measured: Mapping[str, Sequence[Measured]]) -> str:
    """A row a trick: medians of the ratios within a round. Above 1 in the first two, it is faster."""
    lines = ["| | cases | images/s | images a CPU second | peak memory |", "| --- | --- | --- | --- | --- |"]
    for trick, (on, off) in _TRICKS.items():
        if on in measured and off in measured:
            pairs = list(zip(measured[on], measured[off], strict=True))
            cells = (
                f"{median(b.seconds / a.seconds for a, b in pairs):.2f}",
                f"{median(b.cpu_seconds / a.cpu_seconds for a, b in pairs):.2f}",
                f"{median(a.peak_bytes / b.peak_bytes for a, b in pairs):.2f}",
            )
            lines.append(f"| {trick} | {on} / {off} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--resolution", type=int, default=384)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=("auto", *DTYPES), default="auto")
    parser.add_argument("--cases", default="", help="Names of cases, separated by commas; all by default.")
    options = parser.parse_args()
    setting = Setting(options.width, options.resolution, options.images)
    known = cases(resolve_precision(options.precision, find_device()))
    chosen = {name: known[name] for name in options.cases.split(",")} if options.cases else known
    print(describe(describe_device(find_device())))
    print(
        f"UNet of width {setting.width}, {setting.resolution}x{setting.resolution}, {known['1x1'].precision}",
        flush=True,
    )
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["benchmarks.loop"])  # what takes long to import is imported once
    with ProcessPoolExecutor(1, server, max_tasks_per_child=1) as processes:
        ways = {name: partial(_in, processes, name, case, setting) for name, case in chosen.items()}
        measured = in_turns(ways, options.rounds)
    print(case_table(measured, chosen, setting), trick_table(measured), sep="\n\n")


def _in(processes: ProcessPoolExecutor, name: str, case: Case, setting: Setting) -> Measured:
    measured = processes.submit(measure, case, setting).result()
    print(f"{name}: {measured.seconds:.2f} seconds", flush=True)  # whatever becomes of the next
    return measured


if __name__ == "__main__":
    main()
