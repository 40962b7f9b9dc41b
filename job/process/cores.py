"""Settles, before torch is imported, how many threads compute, and how they wait for each other."""

import re
from collections.abc import MutableMapping
from dataclasses import dataclass

from lora_engine.system.cores import Load, usable_cores, usable_threads

COUNT, POLICY, SPINS = "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
_COUNTS = re.compile(r"\s*0*[1-9][0-9]*\s*(,\s*0*[1-9][0-9]*\s*)*", re.ASCII)  # what OpenMP takes for numbers
_OTHERS = 0.5  # cores that others use at least, before it counts: a system at rest uses some hundredths


@dataclass(frozen=True)
class Waiting:
    """How OpenMP's threads wait for each other."""

    passive: bool  # they sleep, and do not keep a core busy
    others: float | None = None  # cores that other programs used at the start; None where that was not measured


def settle_threads(environ: MutableMapping[str, str], load: Load) -> Waiting:
    """Set OpenMP's variables that are not set yet, or to no number. It reads them once, as torch is imported.

    Where a value is no number of threads, OpenMP would start one for each core of the machine, whatever the quota is.

    Threads that wait actively are faster where each has a core of its own; where they have not, they wait for a thread
    that cannot run since they keep its core busy. Which way they wait changes no result.

    Args:
        load: since a moment ago.
    """
    if not _COUNTS.fullmatch(environ.get(COUNT, "")):
        environ[COUNT] = str(usable_threads())
    count = environ[COUNT].strip()
    if POLICY in environ or SPINS in environ:
        return Waiting(passive=environ.get(POLICY, "").strip().lower() == "passive")
    if not count.isdecimal() or int(count) < 2:  # one thread waits for none; a list is for those who nest threads
        return Waiting(passive=False)
    others = load.others()
    passive = others >= _OTHERS and others + int(count) > usable_cores()
    if passive:
        environ[POLICY] = "passive"
    return Waiting(passive, others)
