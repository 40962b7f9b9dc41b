"""A thousand faults of the store and the machine over one run after the other: nothing is lost, and nothing is made up.

`scripts/test-slow tests/job/test_thousand_faults.py` takes some minutes; it prints its seed, what happened, and how
long that took. `LORA_JOB_FAULTS` is the number of faults, `LORA_JOB_FAULTS_SEED` a seed that was printed before.
"""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from job.errors import ExitCode
from job.storage import StorageSettings, open_storage
from tests.http_fault_proxy import Answer, Break, Delay, Drop, Fault, Flip, HttpFaultProxy, Request, Truncate
from tests.job.small_run import arguments, drawings, folder_of, outcome
from tests.lora_job import Started, lora_job, start
from tests.s3_server import S3Server

SHARE = 0.12  # of the requests that a fault befalls
KILLS = 0.03  # of the faults that are kills of the process, not the store's
# What an attempt may end with: whoever starts it again when it says so gets on.
PASSING = {ExitCode.PREEMPTED, ExitCode.STORAGE_RETRIES, -signal.SIGKILL}


class Misfortune:
    """Gives requests faults by chance, and now and then kills the command under way."""

    def __init__(self, chance: random.Random, most: int) -> None:
        self._chance, self._left = chance, most
        self.command: Started | None = None
        self.met: Counter[str] = Counter()

    @property
    def faults(self) -> int:
        """How many there have been."""
        return self.met.total()

    def __call__(self, request: Request) -> Fault | None:
        if self.command is None or self.faults >= self._left or self._chance.random() >= SHARE:
            return None
        if self._chance.random() < KILLS:
            number = self._chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
            self.met[number.name] += 1
            self.command.send_signal(number)
            self.command = None if number == signal.SIGKILL else self.command
            return Drop("close") if number == signal.SIGKILL else None
        fault = self._fault(request)
        self.met[f"{request.method} {type(fault).__name__}"] += 1
        print(self.faults, f"{request.method} {request.path} {fault}", flush=True)
        return fault

    def _fault(self, request: Request) -> Fault:
        applied, at = self._chance.random() < 0.5, self._chance.randrange(4096)
        # A listing has no checksum: a name in it of which a bit is turned over is another name. TLS is what keeps it
        # whole, and here is none. What no listing can say is told in tests/job/storage.
        is_listing = request.method == "GET" and "list-type" in request.query
        return self._chance.choice(
            (
                Answer(503, "SlowDown", applied),
                Answer(500, "InternalError", applied),
                # The answer to a HEAD has no body, so nobody could tell it from a request that is wrong.
                Answer(400, "RequestTimeout") if request.method != "HEAD" else Answer(502, "BadGateway"),
                Drop("reset", applied),
                Drop("close", applied),
                Break(at),
                Truncate(at),
                Flip("request", at),
                Flip("answer", at) if not is_listing else Truncate(at),
                Delay(0.2),
            )
        )


@pytest.mark.slow
def test_a_thousand_faults(miniature: Path, tmp_path: Path, s3_admin: S3Server) -> None:
    seed = int(os.environ.get("LORA_JOB_FAULTS_SEED") or random.randrange(2**32))
    most, began = int(os.environ.get("LORA_JOB_FAULTS", "1000")), time.monotonic()
    print("seed", seed)
    bucket = s3_admin.make_bucket()
    store = open_storage(f"s3://{bucket}", StorageSettings(s3_admin.endpoint_url, "us-east-1", "path"))
    for path in sorted(drawings(tmp_path / "drawings").iterdir()):
        store.upload(path, f"s3://{bucket}/images/{path.name}")
    for path in sorted(each for each in miniature.rglob("*") if each.is_file()):
        store.upload(path, f"s3://{bucket}/models/{path.relative_to(miniature)}")
    misfortune, ends, expected, number = Misfortune(random.Random(seed), most), Counter[int](), None, -1
    with HttpFaultProxy(s3_admin.port, plan=misfortune) as proxy:
        while misfortune.faults < most:
            number += 1
            lines = (
                f"dataset.source=s3://{bucket}/images",
                f"base_model.source=s3://{bucket}/models/sd",
                f"captioner.source=s3://{bucket}/models/blip",
                f"output.destination=s3://{bucket}/runs-{number}",  # with a cache of its own
                f"storage={{endpoint_url: '{proxy.url}', region: us-east-1, addressing_style: path}}",
            )
            command = ["run", *arguments(miniature, tmp_path, *lines), "--workdir", tmp_path / f"work-{number}"]
            if expected is None:
                assert (done := lora_job(*command)).returncode == 0, done.stderr
                expected = outcome(folder_of(f"s3://{bucket}/runs-0/small", s3_admin.endpoint_url))
                continue
            while True:
                misfortune.command = started = start(*command)
                code = started.wait()
                ends[code] += 1
                if code == 0:
                    break
                assert code in PASSING, started.stderr
            found = outcome(folder_of(f"s3://{bucket}/runs-{number}/small", s3_admin.endpoint_url))
            assert {key: found.get(key) for key in expected} == expected
    print(misfortune.faults, "faults:", dict(sorted(misfortune.met.items())))
    print(number, "runs, ends:", dict(ends), f"in {time.monotonic() - began:.0f} s")
