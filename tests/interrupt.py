"""Stops a job at a moment of its work."""

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


def stop_at(path: Path, command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str]) -> tuple[int, str]:
    """Start the command and send SIGTERM once `path` exists; its exit code and what it said."""
    process = subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True, env=env)
    deadline = time.monotonic() + 300
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors
