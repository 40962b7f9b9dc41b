"""What is brought to this machine: names of a bucket's objects are made safe, and nothing is waited for without end."""

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from job.errors import JobError, code_of
from job.layout import SUCCESS, UNVERIFIED
from job.run.context import Attempt
from job.run.dataset import list_source, source_fingerprint
from job.run.unverified import Unverified, note_unverified, unverified_notes, write_unverified
from job.stages.fetch import fetch_dataset
from job.stages.models import fetch_weights
from job.storage import Storage, StorageSettings, open_storage
from lora_engine import miniature
from lora_engine.config.models import CaptionerConfig
from tests.http_fault_proxy import HttpFaultProxy, Request, Throttle, always, matching
from tests.hub_server import HubServer
from tests.job.small_run import PLAIN, attempt_of
from tests.lora_job import ROOT, lora_job
from tests.moments import all_the_time
from tests.s3_server import S3Server


def storage_of(url: str) -> Storage:
    return open_storage("s3://any", StorageSettings(endpoint_url=url, region="us-east-1", addressing_style="path"))


def at(url: str) -> str:
    return f"storage={{endpoint_url: '{url}', region: us-east-1, addressing_style: path}}"


def contents(attempt: Attempt) -> dict[str, bytes]:
    return {file.key: Path(file.path).read_bytes() for file in fetch_dataset(attempt)}


@pytest.fixture
def put(s3_admin: S3Server, s3_bucket: str, tmp_path: Path) -> Callable[[str, bytes], str]:
    """Store an object in a folder of the test's own; gives its URI."""
    storage = storage_of(s3_admin.endpoint_url)

    def put_object(key: str, data: bytes) -> str:
        uri = f"s3://{s3_bucket}/{tmp_path.name}/{key}"
        storage.write(uri, data)
        return uri

    return put_object


ODD = ["a", "a/b.png", "x/../y.png", "x/./y.png", "line\nbreak.png", "\x1b[31mred.png"]
ODD += [f"{'long' * 60}.png", "/".join(["deep" * 10] * 20), "C:/windows.png", "ü.png", "u\u0308.png"]


def test_objects_of_any_name_lie_within_the_scratch_folder(tmp_path: Path, s3_admin: S3Server, s3_bucket: str) -> None:
    prefix = f"s3://{s3_bucket}/odd-names"
    storage = storage_of(s3_admin.endpoint_url)
    stored = {}
    for number, key in enumerate(ODD):
        try:
            storage.write(f"{prefix}/{key}", f"{number}".encode())
        except JobError:
            continue  # the store does not take such a name
        stored[key] = f"{number}"
    attempt, _ = attempt_of(tmp_path, f"dataset.source={prefix}", at(s3_admin.endpoint_url))
    files = fetch_dataset(attempt)
    assert {file.key: Path(file.path).read_text() for file in files} == stored
    for file in files:
        assert Path(file.path).resolve().is_relative_to(tmp_path / "dataset")
    assert len({file.path for file in files}) == len(stored) >= 6


def test_two_datasets_of_equal_names_in_one_scratch_folder(
    tmp_path: Path, s3_admin: S3Server, put: Callable[[str, bytes], str]
) -> None:
    sources = [put(f"{name}/a.png", name.encode()).removesuffix("/a.png") for name in ("ds1", "ds2")]
    attempts = [attempt_of(tmp_path, f"dataset.source={source}", at(s3_admin.endpoint_url))[0] for source in sources]
    assert [contents(attempts[index]) for index in (0, 1, 0)] == [
        {"a.png": b"ds1"},
        {"a.png": b"ds2"},
        {"a.png": b"ds1"},
    ]


@pytest.mark.parametrize("remote", [True, False])
def test_two_archives_in_one_scratch_folder_leave_each_other_s_members(
    tmp_path: Path, s3_admin: S3Server, put: Callable[[str, bytes], str], remote: bool
) -> None:
    attempts = []
    for name in ("one", "two"):
        path = tmp_path / name / "images.zip"
        path.parent.mkdir()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.png", name)
        source = put(f"{name}/images.zip", path.read_bytes()) if remote else str(path)
        attempts.append(attempt_of(tmp_path, f"dataset.source={source}", at(s3_admin.endpoint_url))[0])
    fetched = [fetch_dataset(attempt) for attempt in attempts]
    assert [[Path(file.path).read_text() for file in files] for files in fetched] == [["one"], ["two"]]


def test_an_object_that_is_put_back_is_fetched_again_and_one_that_stays_is_not(
    tmp_path: Path, s3_admin: S3Server, put: Callable[[str, bytes], str]
) -> None:
    with HttpFaultProxy(s3_admin.port) as proxy:
        for version in (b"v1", b"v2", b"v1"):
            source = put("ds/a.png", version).removesuffix("/a.png")
            attempt, _ = attempt_of(tmp_path, f"dataset.source={source}", at(proxy.url))
            assert contents(attempt) == contents(attempt) == {"a.png": version}
    get = matching("GET", ".*/a.png")
    assert sum(get(request) for request, _ in proxy.requests) == 3


def test_a_file_that_a_crash_cut_off_is_fetched_again(
    tmp_path: Path, s3_admin: S3Server, put: Callable[[str, bytes], str]
) -> None:
    source = put("ds/a.png", b"whole").removesuffix("/a.png")
    attempt, _ = attempt_of(tmp_path, f"dataset.source={source}", at(s3_admin.endpoint_url))
    os.truncate(fetch_dataset(attempt)[0].path, 0)
    assert contents(attempt) == {"a.png": b"whole"}


def test_a_copy_whose_bytes_rotted_is_fetched_again(
    tmp_path: Path, s3_admin: S3Server, put: Callable[[str, bytes], str]
) -> None:
    source = put("ds/a.png", b"whole").removesuffix("/a.png")
    attempt, _ = attempt_of(tmp_path, f"dataset.source={source}", at(s3_admin.endpoint_url))
    path = Path(fetch_dataset(attempt)[0].path)
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.write(b"W")
    os.utime(path, ns=times)  # so that it looks as it did
    assert contents(attempt) == {"a.png": b"whole"}


def test_an_object_that_changes_after_the_source_was_looked_at_is_named(
    tmp_path: Path, s3_admin: S3Server, put: Callable[[str, bytes], str]
) -> None:
    source = put("ds/a.png", b"before").removesuffix("/a.png")
    attempt, _ = attempt_of(tmp_path, f"dataset.source={source}", at(s3_admin.endpoint_url))
    listed = list_source(attempt)
    put("ds/a.png", b"after!")  # as long as it was
    with pytest.raises(JobError, match=r"/ds/a\.png was changed after it was listed") as caught:
        fetch_dataset(attempt, listed)
    assert code_of(caught.value) == 50


def test_what_nothing_could_verify_is_recorded_and_said_also_of_copies(
    tmp_path: Path, s3_admin: S3Server, put: Callable[[str, bytes], str]
) -> None:
    source = put("ds/a.png", b"verified").removesuffix("/a.png")
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    client, place = s3_admin.client(), {"Bucket": bucket, "Key": f"{prefix}/b.png"}
    upload = {**place, "UploadId": client.create_multipart_upload(**place)["UploadId"]}
    part = {"PartNumber": 1, "ETag": client.upload_part(**upload, PartNumber=1, Body=b"in parts")["ETag"]}
    client.complete_multipart_upload(**upload, MultipartUpload={"Parts": [part]})
    for _ in range(2):  # the second finds the copies of the first
        attempt, shown = attempt_of(tmp_path, f"dataset.source={source}", at(s3_admin.endpoint_url))
        assert contents(attempt) == {"a.png": b"verified", "b.png": b"in parts"}
        assert attempt.unverified == {source: {f"{source}/b.png"}}
        assert "1 files came without a checksum" in shown.getvalue()
    write_unverified(attempt.run, attempt.unverified)
    attempt.run.write(SUCCESS, b"")
    write_unverified(attempt.run, attempt.unverified)
    assert attempt.run.exists(SUCCESS)
    write_unverified(attempt.run, {"hf://a/b": ["model.safetensors", "config.json"]})
    assert not attempt.run.exists(SUCCESS)  # its report does not say it
    notes = unverified_notes(attempt.run)
    assert [note.partition(" files are unverified")[0] for note in notes] == ["Of hf://a/b, 2", f"Of {source}, 1"]


def test_what_could_not_be_verified_is_counted_over_rounds_and_attempts(tmp_path: Path) -> None:
    attempt, shown = attempt_of(tmp_path)
    hub, rounds = "hf://a/b", (["config.json", "unet/config.json"], ["unet/config.json", "vae/config.json"], [])
    for names in rounds:
        note_unverified(attempt, hub, names)
    assert attempt.unverified == {hub: {"config.json", "unet/config.json", "vae/config.json"}}
    assert shown.getvalue().count("files came without a checksum") == 2
    # An earlier version wrote no names: what this attempt meets may be among its files, and what it met stays said.
    earlier = {"s3://a/b": {"files": 3, "example": "s3://a/b/c.png"}, "s3://of/models": {"files": 1, "example": "x"}}
    attempt.run.write(UNVERIFIED, json.dumps({"sources": earlier}).encode())
    met = (attempt.unverified, {}, {hub: ["unet/config.json"]}, {"s3://a/b": ["s3://a/b/d.png"]})
    for found in (*met, {"s3://a/b": [f"s3://a/b/{name}.png" for name in "cdef"]}):
        write_unverified(attempt.run, found)
    assert counts(attempt) == {hub: 3, "s3://a/b": 4, "s3://of/models": 1}
    write_unverified(attempt.run, {"s3://a/b": ["s3://a/b/d.png"]}, made_anew=["s3://a/b"])
    assert counts(attempt) == {hub: 3, "s3://a/b": 1, "s3://of/models": 1}


def counts(attempt: Attempt) -> dict[str, int]:
    stored = attempt.run.read_stored(UNVERIFIED, Unverified)
    assert stored is not None
    return {source: entry.files for source, entry in stored.sources.items()}


def test_an_object_that_grows_after_it_was_listed_is_not_taken_for_the_listed_one(
    tmp_path: Path, s3_admin: S3Server, put: Callable[[str, bytes], str]
) -> None:
    source = put("ds/a.png", b"listed").removesuffix("/a.png")
    get = matching("GET", ".*/a.png")

    def arrived(request: Request) -> None:
        if get(request):
            put("ds/a.png", b"and replaced")

    with HttpFaultProxy(s3_admin.port, arrived=arrived) as proxy:
        attempt, _ = attempt_of(tmp_path, f"dataset.source={source}", at(proxy.url))
        with pytest.raises(JobError, match=r"/ds/a\.png was changed after it was listed") as caught:
            fetch_dataset(attempt)
    assert code_of(caught.value) == 50
    assert contents(attempt_of(tmp_path, f"dataset.source={source}", at(s3_admin.endpoint_url))[0]) == {
        "a.png": b"and replaced"
    }


WRITE = """
import sys
from pathlib import Path

from job.storage.files import atomic_file

with atomic_file(Path(sys.argv[1]), durable=False) as writer:
    writer.write(b"whole")
    print("ready", flush=True)
    sys.stdin.readline()
"""


def test_a_start_removes_the_unfinished_files_of_dead_processes_only(tmp_path: Path) -> None:
    scratch = tmp_path / "small" / "dataset"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITE, scratch / name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for name in ("dead.zip", "alive.zip")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    writers[0].kill()
    writers[0].communicate()
    (scratch / f"older.zip.part-{'0a' * 8}").touch()
    (tmp_path / "m.yaml").write_text(PLAIN)
    assert len(list(scratch.iterdir())) == 3
    done = lora_job("run", tmp_path / "m.yaml", "--workdir", tmp_path, cwd=tmp_path)
    assert done.returncode == 41, done.stderr  # there are no images
    assert [path.name.partition(".part-")[0] for path in scratch.iterdir()] == ["alive.zip"]
    writers[1].communicate(b"\n")
    assert writers[1].returncode == 0
    assert [path.name for path in scratch.iterdir()] == ["alive.zip"]
    assert (scratch / "alive.zip").read_bytes() == b"whole"


SLOW_SECONDS = 4


def signs_of_life(attempt: Attempt, fetch: Callable[[], object]) -> list[float]:
    """The start of `fetch`, every moment at which `limits.stall_minutes` sees it move, and its end. In seconds."""
    began, seen = time.monotonic(), set()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(fetch)
        while not running.done():
            time.sleep(0.02)
            seen.add(attempt.progress.alive)
    running.result()
    return [began, *sorted(moment for moment in seen if moment > began), time.monotonic()]


def test_one_large_object_on_a_slow_link_is_no_stall(
    tmp_path: Path, s3_admin: S3Server, put: Callable[[str, bytes], str]
) -> None:
    source = put("ds/a.png", bytes(2**22)).removesuffix("/a.png")
    with HttpFaultProxy(s3_admin.port, always(Throttle(2**22 // SLOW_SECONDS), "GET", ".*/a.png")) as proxy:
        attempt, _ = attempt_of(tmp_path, f"dataset.source={source}", at(proxy.url))
        moments = signs_of_life(attempt, lambda: fetch_dataset(attempt))
    assert moments[-1] - moments[0] > SLOW_SECONDS / 2
    assert all_the_time(moments)


FROM_A_HUB = """
import sys
from pathlib import Path

from lora_engine.system.quiet import quiet_libraries
from job.stages.models import fetch_model
from job.storage import StorageSettings
from tests.job.small_run import attempt_of
from tests.job.stages.test_fetch import signs_of_life

quiet_libraries()
attempt, _ = attempt_of(Path(sys.argv[1]))
model = attempt, "base_model.source", "hf://someone/sd", None, ["*"], StorageSettings()
print(*signs_of_life(attempt, lambda: fetch_model(*model)))
"""


@pytest.mark.slow
def test_one_large_file_from_a_slow_hub_is_no_stall(tmp_path: Path) -> None:
    (tmp_path / "sd").mkdir()
    (tmp_path / "sd" / "model.safetensors").write_bytes(bytes(48 * 2**20))  # huggingface-hub reads 10 MiB at a time
    hub = HubServer({"someone/sd": tmp_path / "sd"})
    slow = always(Throttle(48 * 2**20 // SLOW_SECONDS), "GET", ".*/resolve/.*")
    with HttpFaultProxy(int(hub.url.rpartition(":")[2]), slow) as proxy:
        done = subprocess.run(  # of its own, since the address is read when the library is imported
            [sys.executable, "-c", FROM_A_HUB, str(tmp_path)],
            env=os.environ | {"HF_ENDPOINT": proxy.url, "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
        )
    hub.stop()
    moments = [float(moment) for moment in done.stdout.split()]
    assert done.stderr == ""
    assert moments[-1] - moments[0] > SLOW_SECONDS / 2
    assert all_the_time(moments)


@pytest.mark.parametrize("what", ["images", "images.zip"])
def test_a_pipe_in_the_place_of_a_dataset_is_not_waited_for(tmp_path: Path, what: str) -> None:
    os.mkfifo(tmp_path / what)
    attempt, _ = attempt_of(tmp_path, f"dataset.source={tmp_path / what}")
    with pytest.raises(JobError, match="no file or folder") as caught:
        fetch_dataset(attempt)
    assert code_of(caught.value) == 41


def test_pickles_that_will_be_read_are_warned_of(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"")
    for allow, expected in ((True, 1), (False, 0)):
        attempt, shown = attempt_of(tmp_path)
        config = CaptionerConfig(source=str(tmp_path / "model"), allow_pickle=allow)
        assert (
            fetch_weights(attempt, "captioner.source", config, ("*.safetensors",), StorageSettings()).path
            == tmp_path / "model"
        )
        assert shown.getvalue().count("pytorch_model.bin") == expected
        assert shown.getvalue().count("warning") == expected
    attempt, shown = attempt_of(tmp_path)
    safe = CaptionerConfig(source=str(miniature.folder("blip")), allow_pickle=True)
    fetch_weights(attempt, "captioner.source", safe, ("*.safetensors",), StorageSettings())
    assert not shown.getvalue()


def test_whether_links_are_followed_is_the_manifests_choice_and_part_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").symlink_to(tmp_path / "secret")
    (tmp_path / "secret").write_text("a key")
    source = f"dataset.source={tmp_path / 'data'}"
    manifests = [(source,), (source, "dataset.follow_links=false"), (source, "dataset.follow_links=true")]
    attempts = [attempt_of(tmp_path, *lines)[0] for lines in manifests]
    assert [fetch_dataset(attempt)[0].leads_out for attempt in attempts] == [True, True, False]
    default, refused, followed = map(source_fingerprint, attempts)
    assert default == refused != followed
