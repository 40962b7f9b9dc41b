"""Starts the process of a tracker, asks it, and ends it with all that it started."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
from pydantic import ValidationError

import job
from job.manifest.trackers import TrackerConfig
from job.trackers.messages import Answer, Request
from lora_engine.text import shortened

# By these, libraries take a process for one of those that train together, or for one of MLflow's own.
_NOT_FOR_TRACKERS = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK"),
    *("MLFLOW_RUN_ID", "MLFLOW_NESTED_RUN", "MLFLOW_TAGS", "MLFLOW_EXPERIMENT_NAME"),
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SHORTEST_SECRET = 6  # characters
_SHOWN = 300  # characters of an error
_REAP_SECONDS = 1.0  # for the system to report the end of a process that was killed


class TrackerError(Exception):
    """A tracker does not work; the message says how, in words that can follow its name and a colon."""


class TrackerProcess:
    """The process of one tracker.

    Args:
        scratch: a folder for what the tracker itself keeps on this machine.
    """

    def __init__(self, config: TrackerConfig, scratch: Path) -> None:
        self._killing = threading.Lock()
        command = [sys.executable, "-P", "-m", "job.trackers.child", config.model_dump_json(), str(os.getpid())]
        try:
            scratch.mkdir(parents=True, exist_ok=True)
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(os.environ, scratch),
                start_new_session=True,
            )
        except OSError as error:
            raise TrackerError(f"its process cannot be started: {error}") from error

    def ask(self, request: Request) -> Answer:
        """Have something done, and wait for the answer. Raises TrackerError where there is none, or it is an error."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # Its last words say more.
            self._process.stdin.write(request.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()
        return self._answer()

    def finish(self) -> None:
        """Have all that was shown arrive, and end. Raises TrackerError as `ask` does."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._answer()
        self.kill()

    def _answer(self) -> Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        try:
            answer = Answer.model_validate_json(line)
        except ValidationError as error:
            ended = self._ends_now()
            self.kill()
            how = f"its process ended, with {_in_words(self._process.returncode)}" if ended else "it says nothing more"
            raise TrackerError(how) from error
        if answer.error is not None:
            raise TrackerError(shortened(without_secrets(answer.error, os.environ), _SHOWN))
        return answer

    def _ends_now(self) -> bool:
        """Whether the process ends within a moment. It is left to be reaped, so that nothing else can have its id."""
        deadline = time.monotonic() + _REAP_SECONDS
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while (ended := os.waitid(os.P_PID, self._process.pid, flags)) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return ended is not None

    def kill(self) -> None:
        """End the process and all that it started, whatever they do. May be called in any thread."""
        with self._killing:
            if self._process.returncode is not None:
                return
            started: list[psutil.Process] = []
            with contextlib.suppress(psutil.Error):
                started = psutil.Process(self._process.pid).children(recursive=True)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            for process in started:  # Some have a session of their own.
                with contextlib.suppress(psutil.Error):
                    process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_REAP_SECONDS)


def without_secrets(text: str, environ: Mapping[str, str]) -> str:
    """The text without passwords in addresses, and without the values of variables that are called keys or the like."""
    text = re.sub(r"://[^/@\s]+@", "://...@", text)
    for name, value in environ.items():
        if _SECRET.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "...")
    return text


def _environment(environ: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """The variables of a tracker's process: the job's own, without those that would have it take part in training."""
    kept = {name: value for name, value in environ.items() if name not in _NOT_FOR_TRACKERS}
    here = str(Path(job.__file__).parents[1])
    path = os.pathsep.join(part for part in (environ.get("PYTHONPATH"), here) if part)
    return (
        {"WANDB_DIR": str(scratch), "WANDB_SILENT": "true", "GIT_PYTHON_REFRESH": "quiet"}
        | kept
        | {
            "PYTHONPATH": path,
            "CUDA_VISIBLE_DEVICES": "",
        }
    )


def _in_words(code: int) -> str:
    return f"code {code}" if code >= 0 else signal.Signals(-code).name
