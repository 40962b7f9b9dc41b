"""Several processes share one run: each trains packs of its own, and the last one reports."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from job.env import Shard, shard
from job.errors import JobError
from job.manifest.packs import packs_of
from job.process.stop import StopFlag
from job.run.lease import LeaseTimes, held
from job.storage.folder import RunFolder
from tests.job.manifest.test_manifest import SMALL, load
from tests.job.small_run import BLIP, VANILLA, arguments, folder_of, outcome
from tests.lora_job import Started, lora_job, start
from tests.s3_server import S3Server

PACKS = ("evaluation.samples=null", "limits.lease_seconds=4", f"variants=[{VANILLA}, {BLIP}]")
TWO_PACKS = (*PACKS, "seeds=[0]", "split_packs_by=[variant]")
FOUR_PACKS = (*PACKS, "seeds=[0, 1]", "split_packs_by=[variant, seed]")
# How each process is told its place: by an option, or by a platform.
OF_TWO: list[tuple[list[str], dict[str, str]]] = [(["--shard", "0/2"], {}), ([], {"JOB_COMPLETION_INDEX": "1"})]
OF_FOUR: list[tuple[list[str], dict[str, str]]] = [
    (["--shard", "0/4"], {}),
    ([], {"JOB_COMPLETION_INDEX": "1"}),
    ([], {"AWS_BATCH_JOB_ARRAY_INDEX": "2", "AWS_BATCH_JOB_ARRAY_SIZE": "4"}),
    ([], {"BATCH_TASK_INDEX": "3", "BATCH_TASK_COUNT": "4"}),
]
# Of a report: how fast it went, and files that hold when the run began.
ATTEMPTS = ("timing", "images_per_second", "files", "sha256")


def on_s3(server: S3Server, bucket: str) -> tuple[str, str]:
    return (
        f"output.destination=s3://{bucket}/runs",
        f"storage={{endpoint_url: '{server.endpoint_url}', region: us-east-1, addressing_style: path}}",
    )


def without(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {key: without(item, names) for key, item in value.items() if key not in names}
    return [without(item, names) for item in value] if isinstance(value, list) else value


def findings(run: RunFolder) -> Any:
    """The report but for times."""
    return without(run.read_json("report/comparison.json"), ATTEMPTS)


def wait_for(run: RunFolder, key: str, started: Started) -> None:
    deadline = time.monotonic() + 300
    while not run.exists(key):
        assert started.poll() is None, started.stderr
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("lines", "places", "killed"),
    [(TWO_PACKS, OF_TWO, 1), pytest.param(FOUR_PACKS, OF_FOUR, 2, marks=pytest.mark.slow)],
    ids=["two", "four"],
)
def test_processes_of_which_one_is_killed_leave_what_one_process_leaves(
    miniature: Path,
    tmp_path: Path,
    s3_admin: S3Server,
    lines: tuple[str, ...],
    places: list[tuple[list[str], dict[str, str]]],
    killed: int,
) -> None:
    alone, shared = s3_admin.make_bucket(), s3_admin.make_bucket()
    done = lora_job(
        *("run", *arguments(miniature, tmp_path, *lines, *on_s3(s3_admin, alone))), "--workdir", tmp_path / "alone"
    )
    assert done.returncode == 0, done.stderr

    command = ["run", *arguments(miniature, tmp_path, *lines, *on_s3(s3_admin, shared))]

    def begin(number: int) -> Started:
        options, env = places[number]
        return start(*command, *options, "--workdir", tmp_path / f"machine-{number}", env=env)

    processes = [begin(number) for number in range(len(places))]
    run = folder_of(f"s3://{shared}/runs/small", s3_admin.endpoint_url)
    wait_for(run, "variants/blip/seed-0/checkpoints/step-000002/COMMIT.json", processes[killed])
    processes[killed].send_signal(signal.SIGKILL)
    assert processes[killed].wait() == -signal.SIGKILL
    processes[killed] = begin(killed)  # as a platform does
    ends = [(process.wait(), process.stderr) for process in processes]
    assert [code for code, _ in ends] == [0] * len(places), ends
    reported = [number for number, (_, log) in enumerate(ends) if '"event": "done"' in log or "already done" in log]
    assert reported, ends

    single = folder_of(f"s3://{alone}/runs/small", s3_admin.endpoint_url)
    assert outcome(run) == outcome(single)
    assert findings(run) == findings(single)
    trained = [number for number, (_, log) in enumerate(ends) if '"event": "stage ended", "stage": "train"' in log]
    assert len(trained) >= len(places) // 2, ends  # of two, one may train what the killed one began


@pytest.mark.slow
def test_one_bad_pack_does_not_keep_the_others_from_being_trained(miniature: Path, tmp_path: Path) -> None:
    command = ["run", *arguments(miniature, tmp_path, "split_packs_by=[variant]"), "--workdir", tmp_path / "work"]
    assert lora_job(*command).returncode == 0
    root = tmp_path / "runs" / "small"
    (root / "_SUCCESS").unlink()
    for name in ("vanilla", "blip"):
        (root / "variants" / name / "seed-1337" / "final.json").unlink()
    for path in (root / "variants" / "blip").rglob("state.safetensors"):
        path.write_bytes(b"\0" * path.stat().st_size)

    for _ in range(2):  # the second time it knows before it tries
        first = lora_job(*command, "--shard", "0/2")
        assert first.returncode == 0, first.stderr
        assert "pack-1 failed" in first.stderr
        assert "left to its own process" in first.stderr
        assert '"event": "this shard is done; the rest is with other processes"' in first.stderr
        assert (root / "variants" / "vanilla" / "seed-1337" / "final.json").exists()
    assert not (root / "_SUCCESS").exists()
    second = lora_job(*command, "--shard", "1/2")
    assert second.returncode == 46, second.stderr
    unsharded = lora_job(*command)
    assert unsharded.returncode == 46, unsharded.stderr


@pytest.mark.slow
def test_a_pack_of_which_all_diverged_is_done_and_whoever_is_last_reports(miniature: Path, tmp_path: Path) -> None:
    hot = "{name: blip, captions: {strategy: blip}, lora: {alpha: 1.0e+30}}"
    lines = ("training.max_skipped_steps=0", "training.steps=20", f"variants=[{VANILLA}, {hot}]")
    command = ["run", *arguments(miniature, tmp_path, *lines), "--workdir", tmp_path / "work"]
    root = tmp_path / "runs" / "small"
    trained_it = lora_job(*command, "--shard", "1/2")  # both: nobody else takes the first
    assert trained_it.returncode == 45, trained_it.stderr
    reported = lora_job(*command, "--shard", "0/2")
    assert reported.returncode == 45, reported.stderr
    for ended in (trained_it, reported):
        assert "blip, seed 1337 at step 10" in ended.stderr.splitlines()[-1]
    report = json.loads((root / "report" / "comparison.json").read_text())
    found = [(m["variant"], m["diverged_at"], m["skipped_steps"]) for m in report["members"]]
    assert found == [("vanilla", None, 0), ("blip", 10, 10)]
    assert [m["final_loss"] is None for m in report["members"]] == [False, True]
    assert '"stage": "train"' not in reported.stderr


def test_what_another_process_holds_is_waited_for_or_left_to_it(miniature: Path, tmp_path: Path) -> None:
    lines = ("split_packs_by=[variant]", "limits.lease_wait=0.02", "limits.lease_seconds=10")
    command = ["run", *arguments(miniature, tmp_path, *lines), "--workdir", tmp_path / "work"]
    root = tmp_path / "runs" / "small"
    with held(folder_of(str(root)), "pack-1", LeaseTimes(10, 0), StopFlag(), lambda _: None):
        done = lora_job(*command)  # it knows of no other, so it may not say that all is well
        assert done.returncode == 52, done.stderr
        assert "pack-1" in done.stderr.splitlines()[-1]
        assert (root / "variants" / "vanilla" / "seed-1337" / "final.json").exists()
        done = lora_job(*command, "--shard", "0/2")
        assert done.returncode == 0, done.stderr
        assert "the rest is with other processes" in done.stderr
        owner = start(*command, "--shard", "1/2")
        assert owner.wait_until_it_says("waiting for another process")
        time.sleep(3)  # longer than limits.lease_wait
        assert owner.poll() is None
        assert not (root / "_SUCCESS").exists()
    assert owner.wait() == 0, owner.stderr
    assert (root / "_SUCCESS").exists()


@pytest.mark.parametrize(
    ("environ", "chosen", "expected"),
    [
        ({}, None, None),
        ({}, "0/4", Shard(0, 4)),
        ({"JOB_COMPLETION_INDEX": "2"}, None, Shard(2)),
        ({"JOB_COMPLETION_INDEX": "2"}, "1/3", Shard(1, 3)),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": "2", "AWS_BATCH_JOB_ARRAY_SIZE": "3"}, None, Shard(2, 3)),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": "2"}, None, Shard(2)),
        ({"BATCH_TASK_INDEX": "0", "BATCH_TASK_COUNT": "1"}, None, None),
        ({"BATCH_TASK_INDEX": "1", "BATCH_TASK_COUNT": "2"}, None, Shard(1, 2)),
    ],
)
def test_where_a_process_learns_its_place(environ: dict[str, str], chosen: str | None, expected: Shard | None) -> None:
    assert shard(environ, chosen) == expected


@pytest.mark.parametrize(
    ("environ", "chosen"),
    [
        *(({}, text) for text in ("4/4", "-1/4", "1", "1/", "/2", "one/two", "1/2/3", "")),
        ({"JOB_COMPLETION_INDEX": "first"}, None),
        ({"BATCH_TASK_INDEX": "2", "BATCH_TASK_COUNT": "2"}, None),
    ],
)
def test_a_place_that_makes_no_sense_is_refused(environ: dict[str, str], chosen: str | None) -> None:
    with pytest.raises(JobError) as caught:
        shard(environ, chosen)
    assert caught.value.code == 2


def test_each_shard_begins_elsewhere_and_owns_what_no_other_does() -> None:
    packs = packs_of(load(SMALL, "seeds=[0, 7, 9]", "split_packs_by=[seed, variant]"))
    turns = [[pack.index for pack in Shard(at, 4).in_turn(packs)] for at in range(4)]
    assert turns == [[0, 4, 1, 5, 2, 3], [1, 5, 2, 3, 0, 4], [2, 3, 0, 4, 1, 5], [3, 0, 4, 1, 5, 2]]
    for count in (1, 4, None, 9):
        owners = [[at for at in range(count or 6) if Shard(at, count).owns(pack, packs)] for pack in packs]
        assert all(len(found) == 1 for found in owners), json.dumps(owners)
