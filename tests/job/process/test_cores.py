"""Which of OpenMP's variables are set before torch is imported."""

import pytest

from job.process.cores import Waiting, settle_threads
from lora_engine.system.cores import Load, usable_cores, usable_threads


class Others(Load):
    """A load that is known."""

    def __init__(self, cores: float) -> None:
        super().__init__()
        self._cores = cores
        self.asked = 0

    def others(self) -> float:
        self.asked += 1
        return self._cores


def test_the_number_of_threads_is_set_where_it_is_not_yet() -> None:
    environ: dict[str, str] = {}
    settle_threads(environ, Others(0))
    assert environ == {"OMP_NUM_THREADS": str(usable_threads())}
    environ = {"OMP_NUM_THREADS": "64"}
    settle_threads(environ, Others(0))
    assert environ == {"OMP_NUM_THREADS": "64"}


@pytest.mark.parametrize("given", ["", "0", "abc", "-3", "1.5", "4,0", "\u0663"])
def test_what_openmp_takes_for_no_number_is_as_good_as_not_set(given: str) -> None:
    environ = {"OMP_NUM_THREADS": given}
    settle_threads(environ, Others(0))
    assert environ == {"OMP_NUM_THREADS": str(usable_threads())}


ALL = usable_cores()


@pytest.mark.parametrize(
    ("threads", "others", "passive"),
    [
        (max(2, ALL), 0.0, False),
        (max(2, ALL), 0.3, False),
        (max(2, ALL), 0.5, True),
        (max(2, ALL), 7.0, True),
        (2, max(0.0, ALL - 2.0), False),  # the others have cores of their own
        (2, max(0.6, ALL - 1.9), True),
    ],
)
def test_threads_wait_passively_where_others_need_their_cores(threads: int, others: float, passive: bool) -> None:
    environ = {"OMP_NUM_THREADS": str(threads)}
    assert settle_threads(environ, Others(others)) == Waiting(passive, others)
    assert environ.get("OMP_WAIT_POLICY") == ("passive" if passive else None)


@pytest.mark.parametrize(
    ("given", "passive"),
    [
        ({"OMP_WAIT_POLICY": "active"}, False),
        ({"OMP_WAIT_POLICY": " PASSIVE"}, True),
        ({"GOMP_SPINCOUNT": "7"}, False),
        ({"OMP_NUM_THREADS": "1"}, False),
        ({"OMP_NUM_THREADS": "4,2"}, False),
        ({"OMP_NUM_THREADS": " 1 "}, False),
    ],
)
def test_what_a_user_chose_stays_and_nothing_is_measured(given: dict[str, str], passive: bool) -> None:
    environ, load = {"OMP_NUM_THREADS": "8"} | given, Others(9.0)
    assert settle_threads(environ, load) == Waiting(passive)
    assert (environ, load.asked) == ({"OMP_NUM_THREADS": "8"} | given, 0)
