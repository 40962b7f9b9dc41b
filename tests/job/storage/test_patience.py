"""A store that is down for a while is waited for, and said to be; a lease that lapsed meanwhile is asked for."""

import io
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from job.errors import ExitCode, JobError
from job.process.progress import Progress
from job.process.stop import StopFlag
from job.run.lease import LeaseTimes, held
from job.storage import UnreachableError, join
from job.storage.folder import RunFolder
from job.storage.patience import Wait
from tests.http_fault_proxy import Answer, Drop, always, in_turn
from tests.job.storage.waiting import Waiting

DOWN = Answer(503, "SlowDown")


def test_a_store_that_comes_back_is_waited_for(direct, through):
    uri = join(direct.root, "object")
    waiting, faulty = Waiting(10), through(always(DOWN), attempts=1)
    storage = waiting.around(faulty.storage)
    threading.Thread(target=lambda: (waiting.down.wait(), setattr(faulty.proxy, "plan", lambda _: None))).start()
    storage.write(uri, b"x")
    assert direct.storage.read(uri) == b"x"
    assert waiting.said == ["waiting for the store", "the store is back"]
    assert waiting.excused <= time.monotonic()  # from now on a stall is one


def test_a_store_that_stays_away_is_told(direct, through):
    waiting = Waiting(0.02)
    storage = waiting.around(through(always(DOWN), attempts=1).storage)
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(JobError, match="SlowDown") as caught:
            storage.read(join(direct.root, "object"))
        assert caught.value.code == ExitCode.STORAGE_RETRIES
        assert time.monotonic() - began >= 0.02 * 60
    assert waiting.said == ["waiting for the store"]  # once: the second call finds that the time is over


def test_what_no_wait_helps_against_is_told_at_once(direct, through):
    waiting = Waiting(10)
    storage = waiting.around(through(always(Answer(403, "AccessDenied"))).storage)
    with pytest.raises(JobError, match="AccessDenied"):
        storage.read(join(direct.root, "object"))
    assert waiting.said == []


@pytest.mark.parametrize(
    ("work", "code"),
    [
        (lambda storage, uri: storage.read(uri), ExitCode.PREEMPTED),
        (lambda storage, uri: storage.write(uri, b"x"), ExitCode.STORAGE_RETRIES),  # "all is saved" would be a lie
    ],
    ids=["reading", "writing"],
)
def test_a_stop_ends_the_wait(direct, through, work, code):
    stop = StopFlag()
    waiting = Waiting(10, stop.check)
    stopped = JobError(ExitCode.PREEMPTED, "Stopped.", "Start again.")
    threading.Thread(target=lambda: (waiting.down.wait(), stop.abort(stopped))).start()
    with pytest.raises(JobError) as caught:
        work(waiting.around(through(always(DOWN), attempts=1).storage), join(direct.root, "object"))
    assert caught.value.code == code


@pytest.mark.parametrize("rival", [False, True])
def test_a_conditional_write_whose_answer_is_lost_is_known_again(direct, through, rival):
    """The first try writes, its answer is lost, and the store is down for the look at what was written."""
    uri = join(direct.root, "object")
    etag = direct.storage.write_if(uri, b"before", None)
    faulty = through(lambda _: None, attempts=1)
    plan = in_turn([Drop("reset", applied=True), DOWN, None])

    def faults(request):
        if rival and len(faulty.proxy.requests) == 2:
            direct.storage.write(uri, b"rival")
        return plan(request)

    faulty.proxy.plan = faults
    written = Waiting(10).around(faulty.storage).write_if(uri, b"after", etag)
    assert (written is None) == rival
    assert direct.storage.read(uri) == (b"rival" if rival else b"after")


@contextmanager
def holding(folder: RunFolder, stop: StopFlag) -> Iterator[RunFolder]:
    with held(folder, "pack-0", LeaseTimes(1.0, 60), stop, lambda _: None) as (run, _):
        yield run


@pytest.mark.parametrize("taken", [False, True], ids=["still free", "taken"])
def test_a_lease_that_lapsed_meanwhile_is_taken_again_or_52(direct, through, taken):
    faulty, stop = through(lambda _: None, attempts=1), StopFlag()
    waiting = Waiting(10, stop.check)
    folder = RunFolder(waiting.around(faulty.storage), direct.root)
    other = RunFolder(direct.storage, direct.root)

    def return_later() -> None:
        waiting.down.wait()
        if taken:
            with holding(other, StopFlag()) as run:
                run.write("file", b"other")
        else:
            time.sleep(1.5)  # longer than the lease
        faulty.proxy.plan = lambda _: None

    returning = threading.Thread(target=return_later)
    returning.start()
    with holding(folder, stop) as run:
        run.write("file", b"first")
        faulty.proxy.plan = always(DOWN)
        if taken:
            with pytest.raises(JobError) as caught:
                run.write("file", b"second")
            assert caught.value.code == ExitCode.LEASE_HELD
        else:
            run.write("file", b"second")
    returning.join()
    assert other.read("file") == (b"other" if taken else b"second")


def test_a_wait_is_no_stall():
    chance = random.Random(5)
    progress = Progress(io.StringIO())
    seconds = chance.uniform(100, 200)
    print("seed 5")
    progress.excuse(time.monotonic() + seconds)
    assert -seconds <= progress.idle_seconds < 0
    progress.excuse(time.monotonic())
    assert progress.idle_seconds >= 0


def test_a_store_that_answers_now_and_then_is_told_once():
    waiting = Waiting(10)
    wait = Wait(waiting.patience)
    for _ in range(3):
        answers = iter([UnreachableError(ExitCode.STORAGE_RETRIES, "It is busy.", "Wait."), None])

        def work(answers: Iterator[Exception | None] = answers) -> None:
            if (error := next(answers)) is not None:
                raise error

        wait.until_it_works(work)
    assert waiting.said == ["waiting for the store", "the store is back"]
