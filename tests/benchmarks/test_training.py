import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.ablation import Case, Setting, flops_per_image, measure
from benchmarks.mixed import MIXES, member_configs
from benchmarks.rounds import in_turns
from benchmarks.start import seconds_by_package, stage_seconds
from lora_engine.training.micro_batches import MicroBatches

ROOT = Path(__file__).resolve().parents[2]
SMALLEST = Setting(width=32, resolution=64, images=12)

# Takes what diffusers' script takes, and leaves a trace of how it was started.
PEER = """
import json, os, sys
from pathlib import Path
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = Path(given["--train_data_dir"])
rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
assert all((folder / row["file_name"]).exists() for row in rows)
assert "PYTHONPATH" not in os.environ
Path(given["--output_dir"], "captions.json").write_text(json.dumps([row["text"] for row in rows]))
"""


def benchmark(name: str, *arguments: str | Path) -> str:
    """What the command prints."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _environment() -> dict[str, str]:
    return {"PATH": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}"}


def rows_of(printed: str) -> dict[str, list[str]]:
    """The rows of all tables by their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows}


def test_every_way_has_its_turn_in_every_round() -> None:
    order: list[str] = []
    ways = {name: (lambda name=name: order.append(name)) for name in "abc"}
    assert in_turns(ways, 2) == {name: [None, None] for name in "abc"}
    assert "".join(order) == "abcbca"


SPEND = """
import sys
from pathlib import Path
from benchmarks.commands import spend
log = Path(sys.argv[1])
small = spend([sys.executable, "-c", ""], log)
large = spend([sys.executable, "-c", "print(len(b'x' * 2**27))"], log)
assert abs((large.peak_bytes - small.peak_bytes) / 2**27 - 1) < 0.1
assert (small + large).peak_bytes == large.peak_bytes
assert (small + large).seconds == small.seconds + large.seconds
assert small.times(3).seconds == 3 * small.seconds
assert small.times(3).peak_bytes == small.peak_bytes
assert log.read_text() == f"{2**27}\\n"
spend([sys.executable, "-c", "raise SystemExit('no such thing')"], log)
"""


def test_a_command_s_peak_and_time_are_its_own(tmp_path: Path) -> None:
    # from a small process, since a peak is inherited
    command = [sys.executable, "-c", SPEND, tmp_path / "log"]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False)
    assert done.stderr.startswith("no such thing\n")
    assert "ended with 1" in done.stderr


def test_imports_count_once_for_their_package() -> None:
    profile = """
import time: self [us] | cumulative | imported package
import time:       200 |        900 |   torch.nn
import time:       100 |       1000 | torch
import time:       250 |        250 | json
{"event": "something else"}
import time:       300 |        900 |   torch.nn
"""
    assert seconds_by_package(profile) == {"torch": 300e-6, "json": 250e-6}


def test_stages_count_when_they_have_ended() -> None:
    log = """{"event": "stage started", "stage": "train"}
import time: 1 | 1 | json
{"event": "stage ended", "stage": "evaluate", "step": 4, "seconds": 1.5}
"""
    assert stage_seconds(log) == {"evaluate": 1.5}


@pytest.mark.parametrize(
    "case",
    [
        Case("fp32", batch=2, micro_batches=MicroBatches(2, 1, recompute=True)),
        pytest.param(Case("fp32", bare=True), marks=pytest.mark.slow),
        pytest.param(Case("fp32", members=3), marks=pytest.mark.slow),
        pytest.param(Case("fp32", accumulation=4, micro_batches=MicroBatches(1, 1)), marks=pytest.mark.slow),
    ],
)
def test_a_case_of_the_ablation(case: Case) -> None:
    measured = measure(case, SMALLEST)
    assert min(measured.seconds, measured.cpu_seconds, measured.peak_bytes, measured.matrix_rate) > 0


@pytest.mark.slow
@pytest.mark.parametrize(("resolution", "gflop"), [(384, 877), (512, 1718)])
def test_flops_of_stable_diffusion(resolution: int, gflop: int) -> None:
    assert flops_per_image(320, resolution) / 1e9 == pytest.approx(gflop, rel=1e-3)


@pytest.mark.slow
def test_the_ablation_at_its_smallest() -> None:
    sizes = ("--width", "32", "--resolution", "64", "--rounds", "1", "--precision", "fp32")
    rows = rows_of(benchmark("ablation", *sizes, "--cases", "1x1,3x1"))
    assert len(rows["1x1"]) == len(rows["3x1"]) == 5
    assert rows["three variants packed, against one after the other"][0] == "3x1 / 1x1"


def test_the_mixed_pack_differs_in_all_that_it_is_said_to() -> None:
    configs, equal = member_configs("mixed", 8, batch=4), member_configs("equal", 8, batch=4)
    assert len(set(map(repr, equal))) == 1
    assert len(set(map(repr, configs))) == 8
    assert max(config.lora.rank for config in configs) == equal[0].lora.rank
    training = [config.training for config in configs]
    for values in (
        {config.lora.rank for config in configs},
        {config.optimizer.learning_rate for config in training},
        {config.optimizer.weight_decay for config in training},
        {config.weighting for config in training},
        {config.noise for config in training},
    ):
        assert len(values) == 2


def test_every_other_pack_differs_from_the_equal_one() -> None:
    equal = member_configs("equal", 5, batch=4)
    assert [mix for mix in MIXES if member_configs(mix, 5, batch=4) == equal] == ["equal"]


@pytest.mark.slow
def test_mixed_packs_at_their_smallest() -> None:
    sizes = ("--width", "32", "--resolution", "64", "--batch", "1", "--members", "2", "--updates", "1", "--rounds", "1")
    rows = rows_of(benchmark("mixed", *sizes, "--precision", "fp32", "--mixes", "lion", "--rows", "1"))
    assert rows["equal"][1] == "1.000"
    assert int(rows["equal"][5]) < int(rows["lion"][5])
    assert int(rows["1, equal, over 1"][5]) < int(rows["equal"][5]) < int(rows["mixed"][5])
    checkouts = rows_of(benchmark("mixed", *sizes, "--against", ROOT))
    assert checkouts.keys() >= {"before", "now"}


@pytest.mark.slow
def test_sampling_at_its_smallest() -> None:
    sizes = ("--width", "32", "--resolution", "64", "--variants", "2", "--prompts", "1", "--steps", "1")
    rows = rows_of(benchmark("sampling", *sizes, "--rounds", "1"))
    assert {"single images", "adapter after adapter", "adapters together"} <= rows.keys()


@pytest.mark.slow
def test_the_start_of_the_smallest_run() -> None:
    rows = rows_of(benchmark("start", "--rounds", "1", "--set", "evaluation.samples=null"))
    assert {"validate", "validate --offline", "run, to the first training step", "latents", "torch"} <= rows.keys()


@pytest.mark.slow
def test_peers_at_their_smallest(tmp_path: Path) -> None:
    (tmp_path / "peer.py").write_text(PEER)
    sizes = ("--width", "32", "--resolution", "64", "--steps", "1", "--images", "8", "--rounds", "1")
    printed = benchmark("peers", tmp_path / "peer.py", *sizes, "--precision", "fp32", "--folder", tmp_path)
    rows = rows_of(printed)
    assert rows["lora-job, 3 variants in one run"][1] == "1.00"
    assert float(rows["diffusers, three runs"][1]) > 0
    captions = [path.read_text() for path in tmp_path.glob("diffusers-*/captions.json")]
    assert len(set(captions)) == 3


@pytest.mark.slow
def test_the_noise_of_scoring_at_its_smallest() -> None:
    rows = rows_of(benchmark("noise", "--steps", "5", "--repeats", "4", "--timesteps", "2"))
    assert rows["strata and shared noise"][1] == "1.00"
    assert float(rows["noise of each adapter's own"][1]) > 4
