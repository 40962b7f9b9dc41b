"""One attempt at a run: check access and device, import the libraries, then do the run or follow the rank that does."""

import os
import sys
from functools import partial
from pathlib import Path

from job import env
from job.env import Shard
from job.errors import ExitCode, JobError
from job.manifest.schema import Manifest
from job.preflight import check_access, check_device
from job.process.cores import Waiting, settle_threads
from job.process.deadline import end_in_time
from job.process.progress import Progress, watch_for_stalls
from job.process.stop import StopFlag
from job.run.context import Attempt, new_attempt, patience_of
from job.run.status import spent_seconds
from job.run.verify import Depth, require_whole
from job.stages.train.followers import Followers, followers_of
from job.storage import UnreachableError, is_remote
from job.storage.files import sweep_parts
from job.storage.uris import local_path
from job.threads import wait_for
from lora_engine.system.cores import Load
from lora_engine.system.distributed import Processes
from lora_engine.system.garbage import lasting

_PROBE_SECONDS = 5.0  # that probes may still take after a signal, so that they can delete the objects that they wrote

_LEFT_SECONDS = 3600.0  # after which an unfinished file in the destination is one that a killed process left


def run_attempt(
    manifest: Manifest, workdir: Path | None, shard: Shard | None, stop: StopFlag, processes: Processes, load: Load
) -> None:
    """Do all of the run that is not done yet, showing progress on standard error, until `stop` is set.

    Args:
        workdir: the folder for scratch files; None for the environment's choice.
        shard: the place of this process among those that share the run; None if it was told of no other.
        processes: the place of this process among those that train each pack together. Rank 0 does all else too; the
            others are its followers and show nothing.
        load: of the cores, since the process began.

    Raises:
        JobError, EngineError: the attempt ended early; the code says whether to start again.
    """
    end_in_time(stop, manifest.limits.stop_seconds)
    scratch = env.workdir(os.environ, workdir, manifest.name)
    sweep_parts(scratch)
    waiting = settle_threads(os.environ, load)
    if processes.rank > 0:
        _follow(manifest, scratch, stop, processes)
        return
    if manifest.limits.attempt_hours is not None:
        stop.limit_attempt(manifest.limits.attempt_hours)
    with Progress(sys.stderr) as progress:
        if manifest.limits.stall_minutes is not None:
            watch_for_stalls(progress, manifest.limits.stall_minutes)
        joined = processes.joined(manifest.device, partial(wait_for, check=stop.check))
        with joined, followers_of(processes) as followers:
            _do_run(manifest, scratch, shard, stop, progress, followers, waiting)


def _do_run(
    manifest: Manifest,
    scratch: Path,
    shard: Shard | None,
    stop: StopFlag,
    progress: Progress,
    followers: Followers,
    waiting: Waiting,
) -> None:
    """Make the attempt of a process that is alone, or rank 0 of several."""
    with progress.doing("Trying the storage, and looking for the dataset and the models"):
        fenced = _check_access(manifest, stop, progress)
    if shard is not None and not fenced:
        raise JobError(
            ExitCode.STORAGE_ACCESS,
            "Several processes cannot share a run on a store that ignores conditional writes (output.unfenced).",
            "Use another store, or run it as one process.",
        )
    with progress.doing("Loading torch"):
        stop.at_once(_import_torch)
    from job.run import decisions
    from job.run.resolved import with_packs_as_begun

    stop.check()
    check_device(manifest, followers.processes)
    attempt = new_attempt(manifest, scratch, progress, stop, fenced=fenced, moved=progress.moved)
    attempt = with_packs_as_begun(attempt)
    if decisions.is_done(attempt):
        with progress.doing("Checking what the run left"):
            require_whole(attempt.run, Depth.RECORDS, stop.check, scratch=scratch)
        progress.say("already done", run=attempt.run.root)
        _conclude(attempt)
        return
    for folder in (attempt.run, attempt.cache):
        if not is_remote(folder.root):
            sweep_parts(local_path(folder.root), _LEFT_SECONDS)
    if manifest.limits.max_hours is not None:
        stop.limit_run(manifest.limits.max_hours, spent_seconds(attempt.run))
    _name_device(attempt, followers.processes, waiting)
    with progress.doing("Loading the model libraries"):
        stop.at_once(_import_libraries)
    from job import pipeline
    from job.trackers.trackers import tracked

    stop.check()
    with tracked(attempt) as watched:
        is_finished = pipeline.run(watched, shard, followers)
    if is_finished:
        _conclude(attempt)


def _check_access(manifest: Manifest, stop: StopFlag, progress: Progress) -> bool:
    """As `check_access` does, waiting for stores that are down; a stop ends that as one."""
    patience = patience_of(manifest.limits, progress, stop)
    try:
        return wait_for(lambda: check_access(manifest, patience), stop.check_after(_PROBE_SECONDS))
    except UnreachableError:
        stop.check()  # What was not written was only to try the store.
        raise


def _name_device(attempt: Attempt, processes: Processes, waiting: Waiting) -> None:
    """Say what is trained on, with how many threads and how they wait, before anything takes long.

    Raises:
        ResourceError: 44, the device is not there, or lacks the precision that the run began with.
    """
    from job.run.decisions import precisions
    from lora_engine.system.device import find_device, in_words, threads

    device = find_device(attempt.manifest.device)
    words, used = in_words(device), precisions(attempt, device)
    together = f", with {processes.count} processes" if processes.count > 1 else ""
    facts = {"device": words, "precisions": used, "processes": processes.count, "threads": threads()}
    attempt.progress.say("device", f"Training on {words}, {' and '.join(used)}{together}", **facts)
    if waiting.passive:
        beside = "" if waiting.others is None else f" beside other programs, which use {waiting.others:.1f} cores"
        facts = {"others_cores": waiting.others}
        text = f"Threads wait passively{beside}: this changes no result"
        attempt.progress.say("threads wait passively", text, **facts)


def _conclude(attempt: Attempt) -> None:
    """Show what came out of the finished run, and where it lies, as the last of all."""
    from job.report.closing import closing_of

    closing = closing_of(attempt.run, attempt.manifest.output_storage())
    attempt.progress.conclude(closing.shown(), closing.facts())


def _follow(manifest: Manifest, scratch: Path, stop: StopFlag, processes: Processes) -> None:
    """Make the attempt of another rank than 0. It watches no limits: it ends when rank 0, which does, says so."""
    joined = processes.joined(manifest.device, partial(wait_for, check=stop.check))
    with Path(os.devnull).open("w") as nowhere, Progress(nowhere) as progress, joined:
        stop.at_once(_import_libraries)
        from job import pipeline

        attempt = new_attempt(manifest, scratch, progress, stop)
        pipeline.follow(attempt, processes)


def _import_torch() -> None:
    """Import torch, which takes a second or two, and what knows the decisions of a run."""
    with lasting():
        import job.run.decisions  # noqa: F401


def _import_libraries() -> None:
    """Import the model libraries, which takes seconds, and let them be lasting."""
    with lasting():
        import job.pipeline  # noqa: F401
        from lora_engine.system.quiet import quiet_libraries

        quiet_libraries()
