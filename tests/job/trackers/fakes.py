"""A package `wandb` that stands for one that is broken, and what can be wrong with it."""

import os
from pathlib import Path

_PACKAGE = """\
import ctypes, os, signal, subprocess, sys, time, types
from pathlib import Path


def at(place):
    with Path(os.environ["FAKE_LOG"]).open("a") as log:
        log.write(f"{place} {os.getpid()}\\n")
    if place == os.environ.get("FAKE_PLACE"):
        exec(os.environ["FAKE_DOES"])


at("import")


class Settings:
    def __init__(self, **_):
        pass


class Image:
    def __init__(self, image, caption):
        pass


class Run:
    def __init__(self):
        self.summary = {}

    def define_metric(self, *_, **__):
        pass

    def log(self, values, step=None):
        at("log")

    def finish(self):
        at("finish")


def teardown():
    pass


def init(**_):
    at("init")
    return Run()
"""

HANGS = "time.sleep(10000)"
# Leaves a process whose parent has ended, in a session of its own, and hangs where no signal is heard.
FORKS_TWICE = """
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    at("forked")
    time.sleep(10000)
os.wait()
at("hangs")
ctypes.PyDLL(None).pause()
"""
# What it does, and what the warning says of it; None where it goes unnoticed.
WRONGS: dict[str, tuple[str, str | None]] = {
    "raises": ("raise OSError('the network is unreachable')", "OSError: the network is unreachable"),
    "hangs": (HANGS, "it was waited for for limits.tracker_seconds (1)"),
    "hangs with the GIL": ("ctypes.PyDLL(None).pause()", "limits.tracker_seconds (1)"),
    "ignores signals": (f"signal.signal(signal.SIGTERM, signal.SIG_IGN); {HANGS}", "limits.tracker_seconds (1)"),
    "ends": ("sys.exit(0)", "its process ended, with code 0"),
    "ends at once": ("os._exit(3)", "its process ended, with code 3"),
    "crashes": ("ctypes.string_at(0)", "its process ended, with SIGSEGV"),
    "prints": (
        "print('nonsense'); os.write(1, b'{\"error\": 1}\\n'); os.write(2, b'x' * 100000); sys.stdin.read()",
        None,
    ),
    "closes all": ("os.closerange(0, 100); time.sleep(10000)", "it says nothing more"),
    "forks twice": (FORKS_TWICE, "limits.tracker_seconds (1)"),
    "forks and crashes": (
        FORKS_TWICE.replace("PyDLL(None).pause()", "string_at(0)"),
        "its process ended, with SIGSEGV",
    ),
    "forks": (
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(10000)'], start_new_session=True)\n"
        f"Path(os.environ['FAKE_LOG']).open('a').write(f'forked {{child.pid}}\\n')\n{HANGS}",
        "limits.tracker_seconds (1)",
    ),
}


def make_wandb(folder: Path) -> Path:
    """Make the package in the folder, and return that."""
    (folder / "wandb").mkdir(parents=True)
    (folder / "wandb" / "__init__.py").write_text(_PACKAGE)
    return folder


def environment(folder: Path, place: str, does: str) -> dict[str, str]:
    """The variables by which it is found, and does that at that place."""
    path = os.pathsep.join(part for part in (str(make_wandb(folder)), os.environ.get("PYTHONPATH")) if part)
    return {"PYTHONPATH": path, "FAKE_LOG": str(folder / "log"), "FAKE_PLACE": place, "FAKE_DOES": does}


def pids(folder: Path) -> set[int]:
    """The processes that have imported the package."""
    lines = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
    return {int(line.split()[1]) for line in lines}
