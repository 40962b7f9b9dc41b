"""The process of one tracker: `python -m job.trackers.child SETTINGS`. Requests come in by standard input.

Answers go out by standard output. The tracker itself has neither, nor standard error: whatever it reads or prints
mixes with nothing of the job's.
"""

import base64
import contextlib
import os
import sys
from typing import BinaryIO

from pydantic import TypeAdapter

from job.manifest.trackers import MlflowConfig, TensorBoardConfig, TrackerConfig, WandbConfig
from job.trackers.guard import go_on_guarded
from job.trackers.messages import Answer, Request, Service

_NICE = 10  # the training's own threads come first


def serve(config: TrackerConfig, requests: BinaryIO, answers: BinaryIO) -> None:
    """Do what is asked for until there is no more, and finish. The first error is the last answer."""
    try:
        service = _service(config)
        for line in requests:
            events = service.take(Request.model_validate_json(line))
            _answer(answers, Answer(events=None if events is None else base64.b64encode(events).decode()))
        service.finish()
        _answer(answers, Answer())
    except Exception as error:  # noqa: BLE001 - whatever it is, the job says it, and goes on without the tracker
        _answer(answers, Answer(error=f"{type(error).__name__}: {error}"))


def _service(config: TrackerConfig) -> Service:
    match config:
        case TensorBoardConfig():
            from job.trackers.tensorboard import TensorBoard

            return TensorBoard()
        case WandbConfig():
            _alone()
            from job.trackers.wandb import Wandb

            return Wandb(config)
        case MlflowConfig():
            _alone()
            from job.trackers.mlflow import Mlflow

            return Mlflow(config)


def _alone() -> None:
    """Have accelerate take this process for one that trains nothing, and is none of several."""
    from accelerate import PartialState

    PartialState(cpu=True)


def _answer(answers: BinaryIO, answer: Answer) -> None:
    answers.write(answer.model_dump_json().encode() + b"\n")
    answers.flush()


def main(settings: str, job: int) -> None:
    """Serve the job, which is the process of that id, in a process that ends with it, whatever the tracker does."""
    go_on_guarded(job)
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    serve(TypeAdapter[TrackerConfig](TrackerConfig).validate_json(settings), requests, answers)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
