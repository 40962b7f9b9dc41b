"""How far a run is, as it is counted."""

import random

import pytest

from job.process.stage import WholeRun, duration


def test_a_run_is_done_when_its_parts_are_whatever_was_counted() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    parts = {f"pack-{at}": rng.uniform(1, 1000) for at in range(rng.randint(1, 5))}
    run, before = WholeRun(parts), 0.0
    for name, size in parts.items():
        run.begin(name)
        run.skip(rng.random() * 0.5)
        run.start_clock()
        for _ in range(rng.randint(0, 20)):
            run.advance(rng.uniform(0, size / 5))
            assert before <= run.fraction <= 1
            before = run.fraction
        run.end()
        before = run.fraction
    assert run.fraction == pytest.approx(1)
    assert run.facts()["run_done"] == 1


def test_what_an_earlier_attempt_did_sets_no_pace() -> None:
    run = WholeRun({"pack-0": 100.0, "pack-1": 300.0})
    run.begin("pack-0")
    run.skip(0.5)
    assert (run.fraction, run.eta_seconds) == (0.125, None)
    run.start_clock()
    run.advance(10)
    assert run.fraction == 0.15
    assert run.eta_seconds is not None


def test_work_outside_of_the_parts_is_not_counted() -> None:
    run = WholeRun({"pack-0": 10.0})
    run.advance(5)
    run.begin("pack-7")  # another process's
    run.start_clock()
    run.advance(5)
    run.end()
    assert run.fraction == 0
    assert WholeRun({}).facts() == {}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (130, "2 min 10 s"), (3599.9, "1 h 00 min"), (11100, "3 h 05 min")],
)
def test_times_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said
