"""Two processes train each pack together, as torchrun starts them; rank 0 writes, and all is as if there were one."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from job.env import processes
from job.errors import JobError
from lora_engine.system.distributed import ALONE, Processes
from tests.job.small_run import arguments, folder_of, outcome
from tests.job.test_shared_run import on_s3, wait_for
from tests.lora_job import FOUND, ROOT, Started, lora_job, server_address, start
from tests.s3_server import S3Server

LINES = ("training.precision=fp32", "evaluation.samples=null")
CHECKPOINT = "variants/blip/seed-1337/checkpoints/step-000002/COMMIT.json"


@pytest.fixture(scope="module")
def launched(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that torchrun started as two processes."""
    folder = tmp_path_factory.mktemp("launched")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", str(FOUND)]
    command = ["run", *arguments(miniature, folder, *LINES), "--workdir", folder / "work"]
    done = subprocess.run(
        [*torchrun, *map(str, command)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "LORA_JOB_SERVER": server_address()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count('"event": "done"') == 1
    return folder / "runs" / "small"


def place(rank: int, port: int) -> dict[str, str]:
    """The variables that tell one of two processes its place."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return address | {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def together(*command: str | Path, second: tuple[str, ...] = (), env: dict[str, str] | None = None) -> list[Started]:
    """Start two processes that train together. `second` and `env` are for the one that is not to write."""
    port = free_port()
    return [start(*command, env=place(0, port)), start(*command, *second, env=place(1, port) | (env or {}))]


def ends(pair: list[Started]) -> list[int]:
    codes = [process.wait() for process in pair]
    print(*(process.stderr for process in pair), sep="\n----\n")
    return codes


def test_two_processes_leave_what_one_leaves_that_takes_the_images_in_two_passes(
    miniature: Path, tmp_path: Path, launched: Path
) -> None:
    """Bit for bit: an image here and one there, or one after the other."""
    passes = ("training.batch_size=1", "training.gradient_accumulation=2")
    done = lora_job("run", *arguments(miniature, tmp_path, *LINES, *passes), "--workdir", tmp_path / "work")
    assert done.returncode == 0, done.stderr
    alone, two = folder_of(str(tmp_path / "runs" / "small")), folder_of(str(launched))
    assert outcome(two) == outcome(alone)
    assert {key for key, _ in two.list()} == {key for key, _ in alone.list()}
    for run, count in ((two, 2), (alone, 1)):
        committed = [run.read_json(key) or {} for key, _ in run.list("variants") if key.endswith("COMMIT.json")]
        assert [found["processes"] for found in committed] == [count] * 4


def test_interrupted_in_every_way_two_processes_end_as_if_nothing_had_happened(
    miniature: Path, tmp_path: Path, s3_admin: S3Server, launched: Path
) -> None:
    """The second process may not write: its credentials only read."""
    bucket = s3_admin.make_bucket()
    command = ["run", *arguments(miniature, tmp_path, *LINES, *on_s3(s3_admin, bucket)), "--workdir", tmp_path / "work"]
    run = folder_of(f"s3://{bucket}/runs/small", s3_admin.endpoint_url)
    read_only = s3_admin.read_only.environment()

    pair = together(*command, env=read_only)
    wait_for(run, CHECKPOINT, pair[0])
    for process in pair:
        process.send_signal(signal.SIGTERM)
    assert ends(pair) == [51, 51]
    assert "Stopped by SIGTERM" in pair[1].stderr

    alone = start(*command)
    assert alone.wait_until_it_says("processes at a time were 2 and are 1 now")
    alone.send_signal(signal.SIGTERM)
    assert alone.wait() == 51

    pair = together(*command, env=read_only)
    assert pair[0].wait_until_it_says('"event": "resumed"')
    pair[1].send_signal(signal.SIGTERM)
    assert ends(pair) == [51, 51]
    assert "Another process of this training was told to stop" in pair[0].stderr

    pair = together(*command, second=("--set", "limits.lease_wait=3"), env=read_only)
    assert ends(pair) == [50, 46]
    assert "is gone" in pair[0].stderr.splitlines()[-1]
    assert (run.read_json("units/pack-0/status.json") or {})["exit_code"] == 50

    pair = together(*command, "--shard", "0/1", env=read_only)  # a shard may be several processes
    assert ends(pair) == [0, 0]
    assert outcome(run) == outcome(folder_of(str(launched)))
    assert {key for key, _ in run.list("variants")} == {key for key, _ in folder_of(str(launched)).list("variants")}


def test_what_ends_the_first_process_early_ends_the_others(miniature: Path, tmp_path: Path) -> None:
    command = ["run", *arguments(miniature, tmp_path, "training.batch_size=1"), "--workdir", tmp_path / "work"]
    pair = together(*command)
    assert ends(pair) == [44, 44]
    for process in pair:
        assert "Of 2 processes some would have none" in process.stderr.splitlines()[-1]
    assert not (tmp_path / "runs" / "small").exists()


def test_a_process_that_waits_for_the_others_to_come_hears_a_signal(miniature: Path, tmp_path: Path) -> None:
    command = ["run", *arguments(miniature, tmp_path), "--workdir", tmp_path / "work"]
    port = free_port()
    first = start(*command, env=place(0, port))
    while not listens(port):
        assert first.poll() is None, first.stderr
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=30) == 51, first.stderr
    with socket.create_server(("127.0.0.1", 0)) as silent:
        second = start(*command, env=place(1, silent.getsockname()[1]))
        with silent.accept()[0]:
            second.send_signal(signal.SIGTERM)
            assert second.wait(timeout=30) == 51, second.stderr


def listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def test_a_limit_ends_a_process_that_waits_for_the_others_to_come(miniature: Path, tmp_path: Path) -> None:
    command = ["run", *arguments(miniature, tmp_path, "limits.attempt_hours=0.0001"), "--workdir", tmp_path / "work"]
    assert start(*command, env=place(0, free_port())).wait(timeout=60) == 55


def test_a_process_that_waits_while_the_first_prepares_hears_a_signal(miniature: Path, tmp_path: Path) -> None:
    command = ["run", *arguments(miniature, tmp_path), "--workdir", tmp_path / "work"]
    first, second = together(*command)
    assert first.wait_until_it_says('"event": "stage started"'), first.stderr
    first.send_signal(signal.SIGSTOP)  # stands for hours of captions
    second.send_signal(signal.SIGTERM)
    try:
        assert second.wait(timeout=30) == 51, second.stderr
    finally:
        first.send_signal(signal.SIGTERM)
        first.send_signal(signal.SIGCONT)
    assert first.wait() == 51, first.stderr


def test_where_a_process_learns_with_whom_it_trains() -> None:
    told = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}
    assert processes(told, "study.yaml") == Processes(3, 4, 1)
    assert processes({key: told[key] for key in told if key != "LOCAL_RANK"}, "study.yaml") == Processes(3, 4, 0)
    assert processes({}, "-") == processes({"WORLD_SIZE": "1", "RANK": "0"}, "-") == ALONE
    for missing in ({"MASTER_ADDR": ""}, {"RANK": "first"}, {"WORLD_SIZE": "all"}):
        with pytest.raises(JobError, match="torchrun"):
            processes(told | missing, "study.yaml")
    with pytest.raises(JobError, match="standard input"):
        processes(told, "-")
