"""What rows of their own cost: updates of packs whose adapters differ in their settings, against equal ones.

Usage: python -m benchmarks.mixed [--width 32] [--resolution 128] [--batch 4] [--precision auto] [--members 8]
           [--mixes mixed,lion,...] [--rows 1,2,4,8,16] [--updates 5] [--rounds 5] [--patience 0]
           [--against FOLDER]

Every pack has its turn in every round, of so many updates, after two that do not count. "equal" is a pack of adapters
of rank 16; "mixed" has the same largest rank, and its adapters differ in rank, rate, decay, weighting and noise offset;
other packs differ from "equal" in what their name says. Ratios are medians over the rounds, each of two turns in one
round, beside the lowest and the highest; CPU seconds are those of all threads. An operation is one that computes
something, which on a GPU takes at least one kernel; they are counted, not timed. `--rows` are the numbers of adapters
of further packs, equal and mixed. Width 32 is about the miniature's, 320 that of SD 1.5.

With `--patience`, each turn waits for a quiet moment first, for so many seconds at most. With `--against`, only
`--members` equal adapters of rank 8 are trained, in fp32 on the CPU, by this checkout's code and by that of another
checkout in FOLDER, a process each turn.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.loop import pack, random_data, unet
from benchmarks.machine import describe
from benchmarks.rounds import Lap, Laps, in_turns, timed
from benchmarks.waiting import wait_for_quiet
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.training import TrainingConfig
from lora_engine.system.device import DTYPES, find_device, resolve_precision
from lora_engine.system.device import describe as describe_device
from lora_engine.system.malloc import keep_freed_blocks
from lora_engine.system.quiet import quiet_libraries
from lora_engine.training.members import MemberConfig
from lora_engine.training.trainer import PackTrainer

_WARM_UP = 2  # updates that do not count
_IN_ROWS = ("equal", "mixed")  # packs that are made of any number of members
_UNWRITTEN = ("aten::empty", "aten::new_empty")
_ROOT = Path(__file__).resolve().parents[1]

# What a member has besides the settings of `member_config`; keys of `lora` have a dot before them.
Settings = Mapping[str, Any]

_PLAIN: Settings = {}
_LION = {"optimizer": {"name": "lion"}}
_PRODIGY = {"optimizer": {"name": "prodigy"}}
_SCHEDULE_FREE = {"optimizer": {"name": "schedule_free_adamw"}}
_SGD = {"optimizer": {"name": "sgd"}}


def _mixed(member: int) -> Settings:
    """Neighbours differ in as much as they can, so that as little as possible is computed for several at once."""
    low, middle, high = (bool(member >> bit & 1) for bit in range(3))
    return {
        ".rank": 8 if middle else 16,
        "optimizer": {"learning_rate": 2e-4 if high else 1e-4, "weight_decay": 0.1 if low != middle else 0.01},
        "weighting": {"name": "min_snr" if low else "none"},
        "noise": {"offset": 0.05 if middle != high else 0.0},
    }


# The settings of each pack's members, which have them in turns.
MIXES: Mapping[str, Sequence[Settings]] = {
    "equal": [_PLAIN],
    "rank 8": [{".rank": 8, ".alpha": 8.0}],
    "mixed": [_mixed(member) for member in range(8)],
    "ranks": [_PLAIN, {".rank": 8, ".alpha": 8.0}],
    "alphas": [_PLAIN, {".alpha": 8.0}],
    "LoRA+": [{".plus_ratio": 16.0}],
    "layers": [_PLAIN, {".target_modules": ("to_q", "to_v")}],
    "optimizers": [_PLAIN, _LION, _PRODIGY, _SCHEDULE_FREE, _SGD],
    "lion": [_LION],
    "prodigy": [_PRODIGY],
    "schedule-free": [_SCHEDULE_FREE],
    "sgd": [_SGD],
    "EMA": [{"ema": {}}],
    "weightings": [{"weighting": {"name": name}} for name in ("none", "min_snr", "soft_min_snr", "debiased")],
    "losses": [{"loss": {"name": name}} for name in ("mse", "l1", "huber")],
    "offsets": [{"noise": {"offset": offset}} for offset in (0.0, 0.05)],
    "multires": [_PLAIN, {"noise": {"multires": {}}}],
    "perturbation": [_PLAIN, {"noise": {"input_perturbation": 0.1}}],
    "timesteps": [_PLAIN, {"timesteps": {"from": 200, "to": 800}}],
}


def member_config(settings: Settings, batch: int) -> MemberConfig:
    """A member's, with these settings of its own."""
    adapter = {key.removeprefix("."): value for key, value in settings.items() if key.startswith(".")}
    training = {key: value for key, value in settings.items() if not key.startswith(".")}
    return MemberConfig(
        LoraConfig.model_validate({"rank": 16, "alpha": 16.0} | adapter),
        TrainingConfig.model_validate({"steps": 1_000_000, "batch_size": batch} | training),
    )


def member_configs(mix: str, members: int, batch: int) -> list[MemberConfig]:
    """Those of a pack."""
    each = MIXES[mix]
    return [member_config(each[at % len(each)], batch) for at in range(members)]


def sharing(model: UNet2DConditionModel) -> UNet2DConditionModel:
    """Another model with the same tensors, for adapters of its own: those of others would slow the choice of active."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, tensors)


def update(training: PackTrainer, updates: int) -> None:
    """Do so many updates."""
    for _ in training.run(training.step + updates, lambda: False):
        pass
    assert not training.take_remarks(), "then it would not be this pack that is measured"


class Operations(TorchDispatchMode):
    """Counts those within its block that compute something: neither views nor memory that nobody has written to."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name()  # of the profiler's, too, which compute nothing
        self.count += name.startswith("aten::") and not func.is_view and not name.startswith(_UNWRITTEN)
        return func(*args, **(kwargs or {}))


def lap(training: PackTrainer, updates: int, patience_seconds: float) -> Lap:
    """One turn of a pack."""
    if patience_seconds:
        wait_for_quiet(patience_seconds)
    return timed(partial(update, training, updates))


def named(mix: str, members: int) -> str:
    """The name of a pack."""
    return f"{mix}, {members} rows"


def measure(options: argparse.Namespace, mixes: Sequence[str], rows: Sequence[int]) -> tuple[Laps, dict[str, int]]:
    """All turns of every pack, and how many operations its updates have; those are not counted on a GPU."""
    quiet_libraries()
    device = find_device()
    precision = resolve_precision(options.precision, device)
    if device.type == "cpu":
        keep_freed_blocks()  # as the job does
    model = unet(options.width, device, DTYPES[precision])
    data = random_data(options.resolution, device, DTYPES[precision])
    print(describe(describe_device(device)))
    print(f"{_sizes(options)}, {precision}, {torch.get_num_threads()} threads, {options.rounds} rounds", flush=True)
    wanted = dict.fromkeys([(mix, options.members) for mix in mixes] + [(m, k) for k in rows for m in _IN_ROWS])
    trainers, operations = {}, {}
    for mix, members in wanted:
        name = named(mix, members)
        configs = member_configs(mix, members, options.batch)
        trainers[name] = pack(sharing(model), data, f"member-{len(trainers)}", configs)
        update(trainers[name], _WARM_UP)
        if device.type == "cpu":
            with Operations() as counted:
                update(trainers[name], 1)
            operations[name] = counted.count
    ways = {name: partial(lap, made, options.updates, options.patience) for name, made in trainers.items()}
    return in_turns(ways, options.rounds), operations


def _sizes(options: argparse.Namespace) -> str:
    return (
        f"UNet of width {options.width}, {options.resolution}x{options.resolution}, batch {options.batch}, "
        f"{options.updates} updates a turn"
    )


def cells(laps: Laps, name: str, reference: str, updates: int) -> list[str]:
    """What the tables say of a pack: milliseconds and ratios."""
    pairs = list(zip(laps[name], laps[reference], strict=True))
    ratios = [own.seconds / base.seconds for own, base in pairs]
    return [
        f"{median(own.seconds for own in laps[name]) / updates * 1000:.1f}",
        f"{median(ratios):.3f}",
        f"{min(ratios):.3f} to {max(ratios):.3f}",
        f"{median(own.cpu_seconds for own in laps[name]) / updates * 1000:.1f}",
        f"{median(own.cpu_seconds / base.cpu_seconds for own, base in pairs):.3f}",
    ]


def table(title: str, laps: Laps, rows: Mapping[str, tuple[str, str]], updates: int, more: Mapping[str, str]) -> str:
    """A row a pack.

    Args:
        rows: what stands first, to the name of the pack and of the one that it is compared with.
        more: what stands last, by the name of the pack.
    """
    lines = [
        f"| {title} | ms an update | ratio | lowest to highest | CPU ms | ratio of those | operations |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for first, (name, reference) in rows.items():
        lines.append(f"| {first} | {' | '.join([*cells(laps, name, reference, updates), more.get(name, '')])} |")
    return "\n".join(lines)


def of_checkout(folder: Path, arguments: Sequence[str], patience_seconds: float) -> Lap:
    """One turn of the plain pack with the code of a checkout."""
    if patience_seconds:
        wait_for_quiet(patience_seconds)
    command = [sys.executable, "-m", "benchmarks.waiting", "--work", *arguments]
    environment = os.environ | {"PYTHONPATH": str(folder), "DIFFUSERS_VERBOSITY": "error"}
    done = subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return Lap(**json.loads(done.stdout))


def compare_checkouts(options: argparse.Namespace) -> None:
    """Take turns, print the table."""
    names = ("width", "resolution", "members", "batch", "updates")
    arguments = [part for name in names for part in (f"--{name}", str(getattr(options, name)))]
    folders = {"before": options.against.resolve(), "now": _ROOT}
    ways = {name: partial(of_checkout, folder, arguments, options.patience) for name, folder in folders.items()}
    laps = in_turns(ways, options.rounds)
    print(describe())
    print(f"{_sizes(options)}, fp32, {options.members} rows, {options.rounds} rounds")
    print(table("plain pack", laps, {name: (name, "before") for name in folders}, options.updates, {}))


def main() -> None:
    """Take turns, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"width": 32, "resolution": 128, "batch": 4, "members": 8, "updates": 5, "rounds": 5}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", choices=("auto", *DTYPES), default="auto")
    parser.add_argument("--mixes", default=",".join(MIXES), help="Beside equal and mixed; all by default.")
    parser.add_argument("--rows", default="1,2,4,8,16", help="Empty for none.")
    parser.add_argument("--patience", type=float, default=0.0)
    parser.add_argument("--against", type=Path)
    options = parser.parse_args()
    if options.against is not None:
        compare_checkouts(options)
        return
    mixes = list(dict.fromkeys([*_IN_ROWS, *filter(None, options.mixes.split(","))]))
    counts = [int(count) for count in filter(None, options.rows.split(","))]
    laps, operations = measure(options, mixes, counts)
    more = {name: str(count) for name, count in operations.items()}
    equal = named("equal", options.members)
    print(
        table(
            f"{options.members} rows",
            laps,
            {m: (named(m, options.members), equal) for m in mixes},
            options.updates,
            more,
        )
    )
    if counts:
        one = named("equal", counts[0])
        of_equal = {f"{k}, equal, over {counts[0]}": (named("equal", k), one) for k in counts}
        of_mixed = {f"{k}, mixed, over equal": (named("mixed", k), named("equal", k)) for k in counts}
        print(table("rows", laps, of_equal | of_mixed, options.updates, more))


if __name__ == "__main__":
    main()
