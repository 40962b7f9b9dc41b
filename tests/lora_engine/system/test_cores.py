"""How many cores and threads this process may use, on machines that are made of files."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_engine.system.cores import Load, busy_seconds, usable_cores, usable_threads

UNLIMITED = "max 100000\n"
Machine = Callable[..., Path]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make the system's files of a machine on which this process may use so many cores."""

    def make(cores: int, files: dict[str, str]) -> Path:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, errors="surrogateescape")
        return tmp_path

    return make


V2 = {"proc/self/cgroup": "0::/kubepods/pod1/box\n"}
V1 = {"proc/self/cgroup": "9:name=systemd:/x\n4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n0::/x\n"}
CPU = "sys/fs/cgroup/cpu,cpuacct"
QUOTAS: dict[str, tuple[dict[str, str], int]] = {
    "no cgroups": ({}, 64),
    "v2, none": (V2 | {"sys/fs/cgroup/cpu.max": UNLIMITED}, 64),
    "v2, a container's own root": (V2 | {"sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),
    "v2, an inner group": (V2 | {"sys/fs/cgroup/kubepods/pod1/box/cpu.max": "300000 100000\n"}, 3),
    "v2, the group around it": (
        V2
        | {
            f"sys/fs/cgroup/kubepods/pod1{at}/cpu.max": f"{quota}\n"
            for at, quota in (("", "2000 1000"), ("/box", "max 1000"))
        },
        2,
    ),
    "v2, more than there is": (V2 | {"sys/fs/cgroup/cpu.max": "9900000 100000\n"}, 64),
    "v2, less than one": (V2 | {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
    "v2, one and a half": (V2 | {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1),
    "v2, outside of its namespace": ({"proc/self/cgroup": "0::/../box\n", "sys/fs/cgroup/cpu.max": "4000 1000"}, 4),
    "v2, a name with the end of a line": (
        {"proc/self/cgroup": "0::/a\nb\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"},
        3,
    ),
    "v2, a name that is no text": (
        {"proc/self/cgroup": "0::/a\udcff\n", "sys/fs/cgroup/a\udcff/cpu.max": "300000 100000\n"},
        3,
    ),
    "v2, half a line": ({"proc/self/cgroup": "0:\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"}, 64),
    "v1, mounted in another order": (
        {"proc/self/cgroup": "3:cpuacct,cpu:/x\n"}
        | {f"sys/fs/cgroup/cpu/cpu.cfs_{name}_us": f"{us}\n" for name, us in (("quota", 300000), ("period", 100000))},
        3,
    ),
    "v2, another file": (V2 | {"sys/fs/cgroup/cpu.max": "many 0\n"}, 64),
    "v1, none": (V1 | {f"{CPU}/cpu.cfs_quota_us": "-1\n", f"{CPU}/cpu.cfs_period_us": "100000\n"}, 64),
    "v1, a container's": (V1 | {f"{CPU}/cpu.cfs_quota_us": "300000\n", f"{CPU}/cpu.cfs_period_us": "100000\n"}, 3),
    "v1, the host's": (
        V1 | {f"{CPU}/docker/1/cpu.cfs_quota_us": "300000\n", f"{CPU}/docker/1/cpu.cfs_period_us": "100000\n"},
        3,
    ),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_a_quota_of_the_cgroup_is_kept_to(machine: Machine, name: str) -> None:
    files, expected = QUOTAS[name]
    root = machine(64, files)
    assert (usable_cores(root), usable_threads(root)) == (expected, expected)


def test_of_a_core_that_shows_itself_twice_one_thread_computes(machine: Machine) -> None:
    siblings = {
        f"sys/devices/system/cpu/cpu{at}/topology/thread_siblings_list": f"{at % 4},{at % 4 + 4}\n" for at in range(8)
    }
    root = machine(8, siblings)
    assert (usable_cores(root), usable_threads(root)) == (8, 4)
    machine(3, {})
    assert (usable_cores(root), usable_threads(root)) == (3, 3)
    machine(8, V2 | {"sys/fs/cgroup/cpu.max": "600000 100000\n"})
    assert (usable_cores(root), usable_threads(root)) == (6, 4)


def test_the_load_is_that_of_others_on_the_cores_that_may_be_used(machine: Machine) -> None:
    def stat(*busy: int) -> dict[str, str]:
        rows = [f"cpu{at} {ticks} 0 0 {at} 7 0 0 0 0 0" for at, ticks in enumerate(busy)]
        return {"proc/stat": "\n".join(["cpu  9 9 9 9 9 9 9 9 9 9", *rows, "intr 5", "btime 1"])}

    root = machine(2, stat(100, 100, 100))
    load, began = Load(root), time.monotonic()
    machine(2, stat(100_100, 100, 900_100))  # of the third core, which this process may not use, much more
    others, elapsed = load.others(), time.monotonic() - began
    used = 100_000 / os.sysconf("SC_CLK_TCK")
    assert 0 < others <= used / 0.2
    assert others * elapsed > used / 2
    for odd in ("", "\n\n", "cpu0 1 2 3\n", "cpu0 a b c d e f g h\n", "cpu0 \udcff\n"):
        assert busy_seconds(machine(2, {"proc/stat": odd})) == 0


def test_cores_are_counted_without_torch() -> None:
    code = "import sys, job.process.cores; sys.exit(','.join({'torch', 'numpy'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
