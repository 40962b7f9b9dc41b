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
FOUND = ROOT / "tests" / "bin" / "lora-job"  # asks the server, whose address `LORA_JOB_SERVER` is to be
_PATIENCE = 1800  # seconds for what takes a few on a machine that does nothing else


class Started:
    """A command that was started. It has `stdout` and `stderr` once `wait` has returned."""

    def __init__(self, request: Mapping[str, object], env: Mapping[str, str] | None, cwd: Path) -> None:
        self._outputs = [os.memfd_create("output") for _ in range(2)]
        self._connection = _connect()
        environ = os.environ | {"OMP_NUM_THREADS": "1"} | (env or {})
        asked = json.dumps({**request, "env": environ, "cwd": str(cwd)}).encode()
        rights = array.array("i", self._outputs)
        self._connection.sendmsg([asked], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        self._connection.shutdown(socket.SHUT_WR)
        self._answers = self._connection.makefile()
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the command, if it has not ended yet."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, timeout: float = _PATIENCE) -> int:
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
    return Started({"arguments": [*map(str, arguments)]}, env, cwd)


def lora_job(
    *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run `lora-job` to its end."""
    started = start(*arguments, env=env, cwd=cwd)
    code = started.wait()
    return subprocess.CompletedProcess(arguments, code, started.stdout, started.stderr)


def run_program(program: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a Python program to its end, in a process of its own that need not import the model libraries."""
    started = Started({"program": program}, None, cwd)
    code = started.wait()
    return subprocess.CompletedProcess(program, code, started.stdout, started.stderr)


def server_address() -> str:
    """The socket at which `tests/bin/lora-job` finds the server, once it can be asked."""
    _connect().close()
    return _server().address


def stop_at(path: Path, started: Started, number: signal.Signals = signal.SIGTERM) -> int:
    """Send a signal once `path` exists, wait for the command's end, and return its exit code."""
    deadline = time.monotonic() + _PATIENCE
    while not path.exists() and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    started.send_signal(number)
    return started.wait()


class Server:
    """A server that this process started, or that the one did that started this process."""

    def __init__(self, address: str | None = None) -> None:
        self.address = address or str(Path(tempfile.mkdtemp(prefix="lora-job-")) / "socket")
        self._process = None if address else self._started()

    def _started(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "tests.lora_job_server", self.address, str(os.getpid())],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
        )

    @property
    def has_ended(self) -> bool:
        """Whether it is known to have ended."""
        return self._process is not None and self._process.poll() is not None


_given: list[Server] = []


def use_server(address: str) -> None:
    """Have commands of this process be run by the server there."""
    _given.append(Server(address))


@cache
def _server() -> Server:
    return _given[-1] if _given else Server()


def _connect() -> socket.socket:
    server, deadline = _server(), time.monotonic() + _PATIENCE
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(server.address)
        except OSError:
            connection.close()
            if time.monotonic() > deadline or server.has_ended:
                raise
            time.sleep(0.05)
        else:
            return connection
