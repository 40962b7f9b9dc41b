"""Runs the command as a user does, in a process of its own, without importing the model libraries every time.

A server imports them once and forks for every command: the child is a real process with its own descriptors,
environment, folder and signals, and runs the console script's function. `COLD` is the script itself, which imports
them.
"""

import array
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLD = Path(sys.executable).parent / "lora-job"
_START_SECONDS = 300  # that the server may take to start


class Started:
    """A command that was started. It has `stdout` and `stderr` once `wait` has returned."""

    def __init__(self, arguments: tuple[str, ...], env: Mapping[str, str], cwd: Path) -> None:
        self._outputs = [os.memfd_create("output") for _ in range(2)]
        self._connection = _connect()
        request = json.dumps({"arguments": arguments, "env": dict(env), "cwd": str(cwd)}).encode()
        rights = array.array("i", self._outputs)
        self._connection.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        self._connection.shutdown(socket.SHUT_WR)
        self._answers = self._connection.makefile()
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the command, if it has not ended yet."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, timeout: float = 300) -> int:
        """Wait for the end of the command and return its exit code, or minus the signal that ended it."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            self.returncode = int(self._answers.readline())
            self._answers.close()
            self._connection.close()
            self.stdout, self.stderr = (_read_and_close(output) for output in self._outputs)
        return self.returncode

    def wait_until_it_says(self, phrase: str) -> bool:
        """Wait until standard error holds the phrase, or the command has ended; whether it holds the phrase."""
        while self.poll() is None:
            if phrase in os.pread(self._outputs[1], 2**24, 0).decode():
                return True
            time.sleep(0.005)
        return phrase in self.stderr

    def poll(self) -> int | None:
        """The exit code; None while the command runs."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return self.wait()
        return None


def _read_and_close(output: int) -> str:
    with open(output, "rb") as file:
        file.seek(0)
        return file.read().decode()


def start(*arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Started:
    """Start `lora-job` with these arguments."""
    environ = os.environ | {"OMP_NUM_THREADS": "1"} | (env or {})
    return Started(tuple(map(str, arguments)), environ, cwd)


def lora_job(
    *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run `lora-job` to its end."""
    started = start(*arguments, env=env, cwd=cwd)
    code = started.wait()
    return subprocess.CompletedProcess(arguments, code, started.stdout, started.stderr)


def stop_at(path: Path, started: Started, number: signal.Signals = signal.SIGTERM) -> int:
    """Send a signal once `path` exists, wait for the command's end, and return its exit code."""
    deadline = time.monotonic() + 300
    while not path.exists() and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    started.send_signal(number)
    return started.wait()


@cache
def _server() -> tuple[str, "subprocess.Popen[bytes]"]:
    address = str(Path(tempfile.mkdtemp(prefix="lora-job-")) / "socket")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.lora_job_server", address, str(os.getpid())],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
    )
    return address, process


def _connect() -> socket.socket:
    (address, process), deadline = _server(), time.monotonic() + _START_SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(address)
        except OSError:
            connection.close()
            if time.monotonic() > deadline or process.poll() is not None:
                raise
            time.sleep(0.05)
        else:
            return connection
