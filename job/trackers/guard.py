"""Leaves a process to do what it likes, and none of what it started when it, or the job, has ended."""

import contextlib
import ctypes
import os
import resource
import signal
import time

import psutil

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_POLL_SECONDS = 0.01  # between two looks at processes that were killed, and have not ended yet


def go_on_guarded(job: int) -> None:
    """Fork, and return in the new process. The old one stays, and ends with the new one, or with the job.

    Before that it ends all that the new one started. Those among them whose parent has ended, or that have a session of
    their own, are no exception: the system makes them children of the guard.

    Args:
        job: the process that started this one.
    """
    libc = ctypes.CDLL(None)
    heard = {signal.SIGTERM, signal.SIGCHLD}
    for number in heard:  # One that the job ignores would be ignored here.
        signal.signal(number, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, heard)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != job:
        os._exit(0)
    guard, guarded = os.getpid(), os.fork()
    if guarded == 0:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(0)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    _leave_standard_files()
    status = None
    while status is None and signal.sigwait(heard) != signal.SIGTERM:
        status = _reap().get(guarded)
    _end_all()
    _exit_as(0 if status is None else os.waitstatus_to_exitcode(status))


def _leave_standard_files() -> None:
    """The job learns from the end of an output that nobody is left to write to it."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)


def _reap() -> dict[int, int]:
    """How each child ended that has."""
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while (each := os.waitpid(-1, os.WNOHANG))[0]:
            ended[each[0]] = each[1]
    return ended


def _end_all() -> None:
    while started := psutil.Process().children(recursive=True):
        for process in started:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(_POLL_SECONDS)
        _reap()


def _exit_as(code: int) -> None:
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), -code)
    os._exit(code)
