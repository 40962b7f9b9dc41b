"""Work beside the main thread is done in order, is bounded, and fails where it is waited for."""

import threading
import time

import pytest

from job.errors import ExitCode, JobError
from job.threads import Background

SECONDS = 30.0


def test_pieces_are_done_in_order_and_the_end_waits_for_them() -> None:
    done: list[int] = []
    with Background("test") as background:
        for number in range(5):
            background.submit(lambda number=number: done.append(number))  # type: ignore[misc]
    assert done == [0, 1, 2, 3, 4]


def test_one_piece_at_work_and_one_waiting_are_all_there_can_be() -> None:
    go_on, third_is_in = threading.Event(), threading.Event()
    with Background("test") as background:
        background.submit(lambda: None if go_on.wait(SECONDS) else pytest.fail("nobody let it go on"))
        background.submit(lambda: None)

        def submit_another() -> None:
            background.submit(lambda: None)
            third_is_in.set()

        other = threading.Thread(target=submit_another)
        other.start()
        assert not third_is_in.wait(0.2)
        go_on.set()
        assert third_is_in.wait(SECONDS)
        other.join()


def test_after_a_failure_nothing_begins_and_whoever_waits_hears_of_it() -> None:
    done: list[str] = []
    another_waits = threading.Event()

    def fail() -> None:
        assert another_waits.wait(SECONDS)
        raise OSError("the store is gone")

    background = Background("test")
    background.submit(fail)
    background.submit(lambda: done.append("after it"))
    another_waits.set()
    with pytest.raises(OSError, match="the store is gone"), background:
        pass
    assert background.failed
    assert done == []


def test_who_brings_another_piece_after_a_failure_hears_of_it() -> None:
    """At once, though there would be room for it."""

    def fail() -> None:
        raise OSError("the store is gone")

    background = Background("test")
    background.submit(fail)
    while not background.failed:
        time.sleep(0.001)
    with pytest.raises(OSError, match="the store is gone"):
        background.submit(lambda: None)


def test_what_ended_the_block_is_told_rather_than_a_failure_beside_it() -> None:
    def fail() -> None:
        raise OSError("the store is gone")

    background = Background("test")
    background.submit(fail)
    with pytest.raises(KeyboardInterrupt), background:
        raise KeyboardInterrupt


@pytest.mark.parametrize("code", [ExitCode.PREEMPTED, ExitCode.ATTEMPT_HOURS, ExitCode.MAX_HOURS])
def test_a_stop_does_not_hide_that_a_piece_failed(code: ExitCode) -> None:
    def fail() -> None:
        raise OSError("the store is gone")

    background = Background("test")
    background.submit(fail)
    with pytest.raises(OSError, match="the store is gone"), background:
        raise JobError(code, "What was done is saved.", "Start again.")
