"""One attempt at a run, from the manifest to the exit code's cause."""

import os
import sys
from pathlib import Path

from job import settings
from job.checks import check_access, check_device
from job.context import Job, open_cache, open_run
from job.errors import ExitCode, JobError
from job.manifest import Manifest
from job.preemption import StopFlag
from job.progress import open_progress, watch_for_stalls
from job.shard import Shard
from job.status import spent_seconds


def attempt(manifest: Manifest, workdir: Path | None, shard: Shard | None, stop: StopFlag) -> None:
    """Run all that is left, showing progress on standard error, until `stop` is set.

    Args:
        shard: which of several processes this is; None if it knows of no other.

    Raises:
        JobError, EngineError: the attempt ended early; the code says whether to start again.
    """
    if manifest.limits.attempt_hours is not None:
        stop.limit_attempt(manifest.limits.attempt_hours)
    scratch = settings.workdir(os.environ, workdir, manifest.name)
    with open_progress(sys.stderr) as progress:
        if manifest.limits.stall_minutes is not None:
            watch_for_stalls(progress, manifest.limits.stall_minutes)
        fenced = check_access(manifest)
        if shard is not None and not fenced:
            raise JobError(
                ExitCode.STORAGE_ACCESS,
                "Several processes cannot share a run on a store that ignores conditional writes (output.unfenced).",
                "Use another store, or run it as one process.",
            )
        with stop.at_once():
            from job import pipeline, resolved  # torch and the model libraries take seconds to import
            from lora_engine.quiet import quiet_libraries

            quiet_libraries()
        stop.check()
        check_device(manifest)
        job = Job(manifest, open_run(manifest), open_cache(manifest), scratch, progress, stop, fenced)
        if resolved.is_done(job):
            progress.say("already done", run=job.run.root)
            return
        if manifest.limits.max_hours is not None:
            stop.limit_run(manifest.limits.max_hours, spent_seconds(job.run))
        if pipeline.run(job, shard):
            progress.say("done", run=job.run.root, report=job.run.uri("report/comparison.json"))
