"""Starts the process of a tracker, asks it, and ends it with all that it started."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

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
_END_SECONDS = 5.0  # for a process to end that is told to, or that says nothing more


class TrackerError(Exception):
    """A tracker does not work; the message says how, in words that can follow its name and a colon."""


class TrackerProcess:
    """The process of one tracker.

    Args:
        scratch: a folder for what the tracker itself keeps on this machine.
    """

    def __init__(self, config: TrackerConfig, scratch: Path) -> None:
        command = [sys.executable, "-P", "-m", "job.trackers.child", config.model_dump_json(), str(os.getpid())]
        try:
            scratch.mkdir(parents=True, exist_ok=True)
            self._process = subprocess.Popen(  # noqa: S603 - this Python, and a module of our own
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

    def _answer(self) -> Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        try:
            answer = Answer.model_validate_json(line)
        except ValidationError as error:
            raise TrackerError(self._end_in_words()) from error
        if answer.error is not None:
            raise TrackerError(shortened(without_secrets(answer.error, os.environ), _SHOWN))
        return answer

    def _end_in_words(self) -> str:
        try:
            code = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return "it says nothing more"
        return f"its process ended, with {f'code {code}' if code >= 0 else signal.Signals(-code).name}"

    def kill(self) -> None:
        """End the process and all that it started, whatever they do. May be called in any thread."""
        self._process.terminate()  # Its guard hears that, and ends after all the others.
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def close(self) -> None:
        """End the process as `kill` does, and let go of its pipes. Only for the thread that asks and finishes."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # It has not taken all.
                pipe.close()


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
