"""The messages that rank 0 of the processes that train together broadcasts to the others, its followers.

torch is imported only where tensors are sent: the first message may be that an early check failed, before the seconds
that importing it takes.
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

# How long a follower that got a signal still waits for the next `Train`, so that all processes stop at one step. It is
# less than the 30 s after which platforms kill.
_PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class Read:
    """The run is prepared, from the source with this fingerprint: read what training needs."""

    fingerprint: str


@dataclass(frozen=True)
class Start:
    """Make the trainer of a pack, in this state."""

    pack: int  # its index
    micro_batches: MicroBatches
    states: States


@dataclass(frozen=True)
class Train:
    """Update up to this step."""

    until: int
    frozen: tuple[str, ...]  # adapter names of the members that are not updated any more


class Followers:
    """The followers as rank 0 sees them: each method but `end` broadcasts the message that it is named after."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self._listening = processes.count > 1  # whether there are followers, and they wait for a message

    def read(self, fingerprint: str) -> None:
        """Broadcast `Read`."""
        self._send("read", fingerprint=fingerprint)

    def start(self, pack: Pack, trainer: PackTrainer) -> None:
        """Broadcast `Start`, with the state of rank 0's own trainer."""
        names = [member.adapter_name for member in pack.members]
        self._send("start", pack=pack.index, micro_batches=asdict(trainer.micro_batches), members=names)
        if self._listening:
            from safetensors.torch import save

            for name in names:
                self.processes.broadcast(save(trainer.state(name)))

    @contextmanager
    def training(self, until: int, frozen: Sequence[str]) -> Iterator[None]:
        """Broadcast `Train`; the block makes the same updates here.

        Where the block fails, nothing is broadcast any more: the followers wait for gradients, not for a message.
        """
        self._send("train", until=until, frozen=list(frozen))
        listening, self._listening = self._listening, False
        yield
        self._listening = listening

    def end(self, error: BaseException | None) -> None:
        """Broadcast how the attempt ended: with that error, or well for None."""
        cause, remedy = (getattr(error, name, str(error)) for name in ("cause", "remedy"))
        with suppress(LostPeerError):
            self._send("end", code=int(code_of(error)) if error else 0, cause=cause[:1500], remedy=remedy[:500])

    def _send(self, message: str, **facts: Any) -> None:
        if self._listening:
            self.processes.broadcast(json.dumps({"message": message} | facts).encode())


@contextmanager
def followers_of(processes: Processes) -> Iterator[Followers]:
    """The followers of this process, which is rank 0. At the block's end they are told how it ended, and end too."""
    followers = Followers(processes)
    try:
        yield followers
    except BaseException as error:
        followers.end(error)
        raise
    followers.end(None)


def broadcasts(processes: Processes, stop: StopFlag) -> Iterator[Read | Start | Train]:
    """Yield what a follower is told to do, until rank 0 has ended well.

    Raises:
        JobError: the error that rank 0 ended with, or that of `stop`.
        LostPeerError: rank 0 is gone and did not say why.
    """
    from safetensors.torch import load

    from lora_engine.training.micro_batches import MicroBatches

    patience_seconds = 0.0  # until rank 0 has prepared the run, which may take hours, a stop here costs nothing

    def receive() -> bytes:
        return wait_for(processes.receive, stop.check_after(patience_seconds))

    while True:
        facts = json.loads(receive())
        match facts.pop("message"):
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
