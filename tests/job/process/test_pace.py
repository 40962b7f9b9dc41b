"""Updates that become slow, by a clock of the tests' own."""

import random
from collections.abc import Iterable

import pytest

from job.process.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.seconds, self.cpu_seconds = 5.0, 1.0

    def __call__(self) -> tuple[float, float]:
        return self.seconds, self.cpu_seconds

    def work(self, seconds: float, cores: float = 2.0) -> None:
        self.seconds += seconds
        self.cpu_seconds += cores * seconds


def said(updates: Iterable[tuple[float, float]], *, on_cpu: bool = True) -> list[tuple[int, str]]:
    """What is said, after which update; of each the seconds, and the cores' worth of time that this process had."""
    clock = Clock()
    pace = Pace(on_cpu=on_cpu, clock=clock)
    told = []
    for at, (seconds, cores) in enumerate(updates, 1):
        clock.work(seconds, cores)
        if sentence := pace.update():
            told.append((at, sentence))
    return told


FIRST = [(2.0, 2.0)] + [(1.0, 2.0)] * 39


def test_others_on_the_cores_are_named_once() -> None:
    ((at, sentence),) = said(FIRST + [(4.0, 1.2)] * 200)
    assert 40 < at <= 60
    assert sentence == (
        "updates take 4 s now, 4 times as long as the first ones: other programs use the cores (this process has the "
        "time of 1.2 cores, and had that of 2.0); stopped and started again, it shares them better"
    )


def test_a_hundred_times_slower_is_said_after_a_few_updates() -> None:
    ((at, sentence),) = said(FIRST + [(100.0, 0.7)] * 5)
    assert at == 42
    assert "100 times as long" in sentence


def test_what_is_not_others_doing_is_not_put_on_them() -> None:
    ((_, sentence),) = said(FIRST + [(5.0, 1.9)] * 30)
    assert "though not for other programs" in sentence
    assert "(this process has the time of 1.9 cores, and had that of 2.0)" in sentence
    ((_, sentence),) = said(FIRST + [(5.0, 0.2)] * 30, on_cpu=False)
    assert sentence.endswith(
        "5 times as long as the first ones: nvidia-smi shows whether others use the GPU, or it is too hot"
    )


@pytest.mark.parametrize(
    "later",
    [
        [(2.9, 1.0)] * 200,
        [(400.0, 0.1), *[(1.0, 2.0)] * 30] * 3,  # held up for once, again and again
        [],
    ],
)
def test_nothing_is_said_of_updates_that_are_not_slow_for_long(later: list[tuple[float, float]]) -> None:
    assert said(FIRST + later) == []


def test_nobody_minds_a_slow_second() -> None:
    assert said([(0.001, 2.0)] * 40 + [(0.1, 1.0)] * 90) == []
    assert said([(0.001, 2.0)] * 40 + [(0.1, 1.0)] * 200)


def test_whatever_is_done_between_updates_does_not_count() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng, clock = random.Random(seed), Clock()
    pace = Pace(on_cpu=True, clock=clock)
    for _ in range(40):
        clock.work(rng.uniform(0, 1000), 0.1)  # an evaluation
        pace.resume()
        for _ in range(rng.randint(1, 25)):
            clock.work(rng.uniform(0.9, 1.1))
            assert pace.update() is None


def test_updates_that_are_slow_from_the_start_are_the_first_ones() -> None:
    assert said([(4.0, 1.0)] * 300) == []
