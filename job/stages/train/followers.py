"""What the first of several processes that train together tells the others. Alone, it tells nobody.

torch is imported where there is something to tell of tensors: the first order may be that an early check failed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from job.errors import ExitCode, JobError, code_of
from job.process.stop import StopFlag
from job.threads import wait_for
from lora_engine.errors import LostPeerError
from lora_engine.system.distributed import Processes

if TYPE_CHECKING:
    from job.manifest.packs import Pack
    from job.stages.train.resume import States
    from lora_engine.training.micro_batches import MicroBatches
    from lora_engine.training.trainer import PackTrainer

_PATIENCE_SECONDS = 20.0  # after a signal, for an order to train: then all stop together; platforms kill after 30


@dataclass(frozen=True)
class Read:
    """The run is prepared, from the source with this fingerprint: read what it consists of."""

    fingerprint: str


@dataclass(frozen=True)
class Start:
    """Make a pack's trainer, in this state."""

    pack: int
    micro_batches: MicroBatches
    states: States


@dataclass(frozen=True)
class Train:
    """Update up to this step."""

    until: int
    frozen: tuple[str, ...]  # members that take no part, or no more


class Followers:
    """The first process's side."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self._listening = processes.count > 1  # the others, for an order

    def read(self, fingerprint: str) -> None:
        """See `Read`."""
        self._send("read", fingerprint=fingerprint)

    def start(self, pack: Pack, trainer: PackTrainer) -> None:
        """See `Start`: as `trainer` is."""
        names = [member.adapter_name for member in pack.members]
        self._send("start", pack=pack.index, micro_batches=asdict(trainer.micro_batches), members=names)
        if self._listening:
            from safetensors.torch import save

            for name in names:
                self.processes.broadcast(save(trainer.state(name)))

    @contextmanager
    def training(self, until: int, frozen: Sequence[str]) -> Iterator[None]:
        """See `Train`: the block does the same here. If it fails, the others wait for a gradient, and hear no more."""
        self._send("train", until=until, frozen=list(frozen))
        listening, self._listening = self._listening, False
        yield
        self._listening = listening

    def end(self, error: BaseException | None) -> None:
        """Say how the attempt ended."""
        cause, remedy = (getattr(error, name, str(error)) for name in ("cause", "remedy"))
        with suppress(LostPeerError):
            self._send("end", code=int(code_of(error)) if error else 0, cause=cause[:1500], remedy=remedy[:500])

    def _send(self, order: str, **facts: Any) -> None:
        if self._listening:
            self.processes.broadcast(json.dumps({"order": order} | facts).encode())


@contextmanager
def leading(processes: Processes) -> Iterator[Followers]:
    """Be the first process while the block runs; the others end as it does."""
    followers = Followers(processes)
    try:
        yield followers
    except BaseException as error:
        followers.end(error)
        raise
    followers.end(None)


def broadcasts(processes: Processes, stop: StopFlag) -> Iterator[Read | Start | Train]:
    """What another than the first process has to do, until the first has ended well or this one is to stop.

    Raises:
        JobError: what the first process ended with, or that of `stop`.
        LostPeerError: it is gone and did not say.
    """
    from safetensors.torch import load

    from lora_engine.training.micro_batches import MicroBatches

    patience_seconds = 0.0  # nothing is lost while the first prepares, and that may take hours

    def receive() -> bytes:
        return wait_for(processes.receive, stop.check_after(patience_seconds))

    while True:
        facts = json.loads(receive())
        match facts.pop("order"):
            case "read":
                patience_seconds = _PATIENCE_SECONDS
                yield Read(**facts)
            case "start":
                states = {name: load(receive()) for name in facts["members"]}
                yield Start(facts["pack"], MicroBatches(**facts["micro_batches"]), states)
            case "train":
                yield Train(facts["until"], tuple(facts["frozen"]))
            case _:
                if facts["code"] != ExitCode.DONE:
                    raise JobError(ExitCode(facts["code"]), facts["cause"], facts["remedy"])
                return
