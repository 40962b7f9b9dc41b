"""kill -9 at any moment: the next start continues, and all ends as if nothing had happened."""

import random
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.http_fault_proxy import Drop, Fault, HttpFaultProxy, Request
from tests.job.small_run import arguments, folder_of, outcome
from tests.lora_job import Started, lora_job, start
from tests.s3_server import S3Server

# The first write of each of these is a boundary: a stage ends with it, or a checkpoint begins to be or is one.
BOUNDARIES = (
    *("units/prepare/lease.json", "data/thumbnails/.*", "data/images.jsonl", "data/source.json", "resolved.json"),
    *("data/captions/.*", r"\.cache/captions/.*", r"\.cache/latents/.*", r"\.cache/embeddings/.*"),
    *("data/small.safetensors", "data/line_art.jsonl", "data/likeness.jsonl", "units/pack-0/lease.json"),
    *("variants/.*/validation/step-000000.*", "variants/.*/samples/step-000000/.*png"),
    *("variants/.*/validation.jsonl", "variants/.*/metrics.jsonl", "variants/blip/.*/step-000002/blip.safetensors"),
    *("variants/vanilla/.*/step-000002/COMMIT.json", "variants/blip/.*/step-000002/COMMIT.json"),
    *("variants/blip/.*/step-000004/COMMIT.json", "variants/.*/best.json", "variants/blip/.*/final.json"),
    *("variants/blip/.*/samples/step-000004/samples.json", "report/comparison.json"),
    *("adapters/diffusers/.*", "adapters/index.json", "_SUCCESS"),
)


class Killer:
    """Kills the command under way at the first request that reaches each of some boundaries.

    As a proxy's plan it keeps that request from the store; as its `applied` hook it comes when the store has the bytes.
    """

    def __init__(self, boundaries: Sequence[str], prefix: str) -> None:
        self._left = [re.compile(f"/{prefix}/(runs/small/)?{boundary}") for boundary in boundaries]
        self._left += [re.compile(f"/{prefix}/runs/{boundary}") for boundary in boundaries if boundary[0] == "\\"]
        self.command: Started | None = None
        self.kills: list[str] = []

    def __call__(self, request: Request) -> Fault | None:
        reached = [boundary for boundary in self._left if boundary.fullmatch(request.path)]
        if request.method != "PUT" or not reached or self.command is None:
            return None
        self._left.remove(reached[0])
        self.kills.append(request.path)
        self.command.send_signal(signal.SIGKILL)
        self.command = None
        return Drop("close")


@pytest.fixture(scope="module")
def straight(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], float]:
    """The outcome of an uninterrupted run, and how many seconds it takes."""
    folder = tmp_path_factory.mktemp("straight")
    lora_job("--help")  # starts the server
    began = time.monotonic()
    done = lora_job("run", *arguments(miniature, folder), "--workdir", folder / "work")
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    return outcome(folder_of(str(folder / "runs" / "small"))), seconds


def assert_same(found: dict[str, object], expected: dict[str, object]) -> None:
    """An interrupted run has all that an uninterrupted one has, and it is the same."""
    assert {key: found.get(key) for key in expected} == expected


def kill_at_boundaries(
    miniature: Path, folder: Path, server: S3Server, before: Sequence[str], after: Sequence[str]
) -> dict[str, object]:
    """Kill a run at boundaries, before or after the store has the bytes; what it leaves in the end."""
    bucket = server.make_bucket()
    killers = Killer(before, bucket), Killer(after, bucket)
    with HttpFaultProxy(server.port, plan=killers[0], applied=killers[1]) as proxy:
        lines = (
            f"output.destination=s3://{bucket}/runs",
            f"storage={{endpoint_url: '{proxy.url}', region: us-east-1, addressing_style: path}}",
        )
        command = ["run", *arguments(miniature, folder, *lines), "--workdir", folder / "work"]
        for _ in range(2 * len(BOUNDARIES) + 1):
            started = start(*command)
            for killer in killers:
                killer.command = started
            if started.wait() == 0:
                break
            assert started.returncode == -signal.SIGKILL, started.stderr
    assert started.returncode == 0
    kills = [kill for killer in killers for kill in killer.kills]
    print(len(kills), "kills:", kills)
    assert len(kills) == len(before) + len(after)
    return outcome(folder_of(f"s3://{bucket}/runs/small", server.endpoint_url))


def test_killed_at_some_boundaries(
    miniature: Path, tmp_path: Path, s3_admin: S3Server, straight: tuple[dict[str, object], float]
) -> None:
    """At a quarter of them, other ones each time: at one before the store has the bytes, at the next one after."""
    seed = random.randrange(2**32)
    print("seed", seed)
    some = random.Random(seed).sample(BOUNDARIES, len(BOUNDARIES) // 4)
    assert_same(kill_at_boundaries(miniature, tmp_path, s3_admin, some[::2], some[1::2]), straight[0])


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_every_boundary_on_the_same_side_of_it(
    miniature: Path, tmp_path: Path, s3_admin: S3Server, straight: tuple[dict[str, object], float], moment: str
) -> None:
    sides = (BOUNDARIES, ()) if moment == "before" else ((), BOUNDARIES)
    assert_same(kill_at_boundaries(miniature, tmp_path, s3_admin, *sides), straight[0])


@pytest.mark.slow
def test_what_was_prepared_before_a_kill_is_not_taken_for_other_settings(
    miniature: Path, tmp_path: Path, s3_admin: S3Server
) -> None:
    """Killed before `resolved.json` says what the run is, so that the settings may still change."""
    bucket = s3_admin.make_bucket()
    killer = Killer(("resolved.json",), bucket)
    with HttpFaultProxy(s3_admin.port, plan=killer) as proxy:
        lines = (
            "evaluation.samples=null",
            f"output.destination=s3://{bucket}/runs",
            f"storage={{endpoint_url: '{proxy.url}', region: us-east-1, addressing_style: path}}",
        )
        command = ["run", *arguments(miniature, tmp_path, *lines), "--workdir", tmp_path / "work"]
        killer.command = started = start(*command)
        assert started.wait() == -signal.SIGKILL
        done = lora_job(*command, "--set", "dataset.validation_min=2")
        assert done.returncode == 0, done.stderr
    report = folder_of(f"s3://{bucket}/runs/small", s3_admin.endpoint_url).read_json("report/comparison.json")
    assert report is not None
    assert report["data"]["validation"] == 2


def kill_at_random(
    miniature: Path, folder: Path, straight: tuple[dict[str, object], float], seed: int, kills: int
) -> None:
    """Kill runs, one after the other, until so many kills have been survived.

    Half the time of a run reaches all of it, since every start goes on from the one before.
    """
    print("seed", seed)
    chance, done = random.Random(seed), 0
    no_samples = "evaluation.samples=null"  # they have boundaries of their own
    of_samples = ("data/line_art.jsonl", "data/small.safetensors", "data/likeness.jsonl")
    expected = {key: value for key, value in straight[0].items() if "/samples/" not in key and key not in of_samples}
    for number in range(kills):
        command = [
            "run",
            *arguments(miniature, folder, no_samples, name=f"run-{number}"),
            "--workdir",
            folder / f"work-{number}",
        ]
        while True:
            started = start(*command)
            if done < kills:
                deadline = time.monotonic() + chance.uniform(0, straight[1] / 2)
                while time.monotonic() < deadline and started.poll() is None:
                    time.sleep(0.01)
                started.send_signal(signal.SIGKILL)
            if started.wait() == 0:
                break
            assert started.returncode == -signal.SIGKILL, started.stderr
            done += 1
        assert_same(outcome(folder_of(str(folder / "runs" / f"run-{number}"))), expected)
        if done >= kills:
            print(done, "kills over", number + 1, "runs")
            return


@pytest.mark.slow
def test_killed_at_random_moments(miniature: Path, tmp_path: Path, straight: tuple[dict[str, object], float]) -> None:
    kill_at_random(miniature, tmp_path, straight, random.randrange(2**32), 5)


@pytest.mark.slow
def test_killed_at_many_random_moments(
    miniature: Path, tmp_path: Path, straight: tuple[dict[str, object], float]
) -> None:
    kill_at_random(miniature, tmp_path, straight, random.randrange(2**32), 200)
