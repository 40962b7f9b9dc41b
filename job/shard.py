"""Which packs a process tries first, when several processes share one run."""

from collections.abc import Sequence
from dataclasses import dataclass

from job.errors import ExitCode, JobError
from job.variants import Pack


@dataclass(frozen=True)
class Shard:
    """The place of a process among those that share a run.

    Its packs are those whose index is `index` modulo `count`. It takes free ones of others when it has done its own.
    """

    index: int  # from 0
    count: int | None = None  # of processes; None: as many as there are packs

    def owns(self, pack: Pack, packs: Sequence[Pack]) -> bool:
        """Whether the pack is this process's to train."""
        return self._distance(pack, packs) == 0

    def in_turn(self, packs: Sequence[Pack]) -> tuple[Pack, ...]:
        """The packs in the order in which the process tries them: each starts elsewhere, so that few meet."""
        return tuple(sorted(packs, key=lambda pack: self._distance(pack, packs)))

    def _distance(self, pack: Pack, packs: Sequence[Pack]) -> int:
        count = self.count or len(packs)
        return (pack.index - self.index) % count


def parse_shard(text: str, origin: str) -> Shard:
    """Read `i/n`: the process's place, from 0, and how many there are.

    Raises:
        JobError: 2 when it is not that.
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise JobError(
            ExitCode.USAGE,
            f"{origin} is {text!r}.",
            "Say which process this is, from 0, and how many there are: 0/4, 1/4, 2/4, 3/4.",
        )
    return Shard(int(index), int(count))
