"""What every storage does, a folder and a bucket alike."""

import hashlib
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from job.errors import ExitCode, JobError
from job.storage import Digest, ObjectInfo, StorageSettings, Stored, join, open_storage
from job.storage.backends import BACKENDS, backend_of
from job.storage.folder import RunFolder
from job.storage.probe import probe_conditions, probe_write
from job.storage.transfer import download_all, write_all
from job.storage.uris import is_remote
from tests.job.storage.conftest import PLACES

SOURCE = "dataset.source", ExitCode.DATA
ODD_NAMES = ["a b.txt", "Ünï-日本/🐍.txt", "1+1=2.txt", "100%25.txt", "what?.txt", "#1&a;b,'\"()[]!~.txt", ".hidden"]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_what_is_written_can_be_read(place):
    uri = join(place.root, "deep/folder", "object")
    assert place.storage.read(uri) is None
    assert place.storage.write(uri, b"first") == Digest(5, _sha256(b"first"))
    assert place.storage.read(uri) == b"first"
    place.storage.write(uri, b"")
    assert place.storage.read(uri) == b""


def test_head_shows_size_and_change(place):
    uri = join(place.root, "object")
    assert place.storage.head(uri) is None
    place.storage.write(uri, b"one")
    first = place.storage.head(uri)
    assert (first.uri, first.size) == (uri, 3)
    assert place.storage.head(uri) == first
    place.storage.write(uri, b"two")
    assert place.storage.head(uri).etag != first.etag


def test_create_happens_once(place):
    uri = join(place.root, "leases/one")
    first = place.storage.write_if(uri, b"mine", None)
    assert first is not None
    assert place.storage.write_if(uri, b"yours", None) is None
    assert place.storage.write_if(uri, b"mine", None) is None  # equal bytes are still another's
    assert place.storage.fetch(uri) == Stored(b"mine", first)
    place.storage.delete(uri)
    assert place.storage.write_if(uri, b"yours", None) is not None
    assert place.storage.read(uri) == b"yours"


def test_replace_wants_the_etag_that_is_there(place):
    uri = join(place.root, "object")
    first = place.storage.write_if(uri, b"1", None)
    second = place.storage.write_if(uri, b"2", first)
    assert second not in {None, first}
    assert place.storage.write_if(uri, b"3", first) is None
    assert place.storage.fetch(uri) == Stored(b"2", second)
    place.storage.write(uri, b"4")
    assert place.storage.write_if(uri, b"5", second) is None
    assert place.storage.read(uri) == b"4"
    assert place.storage.write_if(uri, b"6", place.storage.head(uri).etag) is not None
    assert place.storage.read(uri) == b"6"


def test_a_file_is_uploaded_on_the_same_condition(place, tmp_path):
    uri, file = join(place.root, "object"), tmp_path / "file"
    file.write_bytes(b"of the file")
    assert place.storage.upload_if(file, uri, None) == Digest(11, _sha256(b"of the file"))
    assert place.storage.upload_if(file, uri, None) is None
    etag = place.storage.head(uri).etag
    file.write_bytes(b"changed")
    assert place.storage.upload_if(file, uri, etag) == Digest(7, _sha256(b"changed"))
    assert place.storage.upload_if(file, uri, etag) is None
    assert place.storage.read(uri) == b"changed"


def test_nothing_is_replaced_where_nothing_is(place):
    uri = join(place.root, "object")
    etag = place.storage.write_if(uri, b"1", None)
    place.storage.delete(uri)
    assert place.storage.write_if(uri, b"2", etag) is None
    assert place.storage.head(uri) is None
    assert place.storage.write_if(join(place.root, "never/was"), b"2", etag) is None
    assert list(place.storage.list(place.root)) == []


def test_etags_agree(place, tmp_path):
    uri = join(place.root, "object")
    assert place.storage.fetch(uri) is None
    etag = place.storage.write_if(uri, b"one", None)
    info = ObjectInfo(uri, 3, etag)
    assert place.storage.fetch(uri) == Stored(b"one", etag)
    assert place.storage.head(uri) == info
    assert list(place.storage.list(place.root)) == [info]
    (tmp_path / "file").write_bytes(b"two")
    place.storage.upload(tmp_path / "file", uri)
    assert place.storage.fetch(uri) == Stored(b"two", place.storage.head(uri).etag)
    assert place.storage.fetch(uri).etag != etag


def test_eight_writers_at_once_and_one_wins(place):
    """A create and then replaces, in rounds: every round has one winner, whose bytes are there."""
    uri = join(place.root, "contended")
    writers, rounds, etag = 8, 5, None
    start = threading.Barrier(writers)

    def contend(nonce: bytes, etag: str | None) -> str | None:
        start.wait()
        return place.storage.write_if(uri, nonce, etag)

    with ThreadPoolExecutor(writers) as pool:
        for number in range(rounds):
            nonces = [b"%d of round %d" % (writer, number) for writer in range(writers)]
            etags = list(pool.map(contend, nonces, [etag] * writers))
            winners = [(nonce, new) for nonce, new in zip(nonces, etags, strict=True) if new is not None]
            assert len(winners) == 1
            nonce, etag = winners[0]
            assert place.storage.fetch(uri) == Stored(nonce, etag)
    assert [info.uri for info in place.storage.list(place.root)] == [uri]


def test_probe_of_conditions_leaves_nothing(place):
    assert probe_conditions(place.storage, join(place.root, "runs"))
    assert list(place.storage.list(place.root)) == []


def test_a_folder_is_no_object(place):
    place.storage.write(join(place.root, "folder/object"), b"x")
    folder = join(place.root, "folder")
    assert place.storage.head(folder) is None
    assert place.storage.read(folder) is None
    assert place.storage.head(place.root) is None


def test_delete_removes_and_may_be_repeated(place):
    uri = join(place.root, "object")
    place.storage.write(uri, b"x")
    place.storage.delete(uri)
    assert place.storage.head(uri) is None
    place.storage.delete(uri)


def test_list_is_in_the_order_of_uris(place):
    names = ["Z", "a-b", "a.txt", "a/b", "a/b.c/d", "a/b/c/d", "ab", "é", "￿", "🐍"]
    for name in random.Random(5).sample([n for n in names if n != "a/b"], len(names) - 1):
        place.storage.write(join(place.root, "in", name), name.encode())
    place.storage.write(join(place.root, "in-side"), b"not below the prefix")
    expected = [join(place.root, "in", name) for name in names if name != "a/b"]
    assert expected == sorted(expected)
    for prefix in (join(place.root, "in"), join(place.root, "in") + "/"):
        assert [info.uri for info in place.storage.list(prefix)] == expected
    heads = [place.storage.head(uri) for uri in expected]
    assert list(place.storage.list(join(place.root, "in"))) == heads


def test_list_of_nothing(place):
    assert list(place.storage.list(join(place.root, "none"))) == []


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names(place, tmp_path, name):
    uri = join(place.root, name)
    place.storage.write(uri, name.encode())
    assert place.storage.read(uri) == name.encode()
    assert [info.uri for info in place.storage.list(place.root)] == [uri]
    place.storage.download(uri, tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == name.encode()
    place.storage.delete(uri)
    assert list(place.storage.list(place.root)) == []


def test_a_large_file_there_and_back(place, tmp_path):
    data = random.Random(7).randbytes(8 * 2**20 + 1)
    (tmp_path / "large").write_bytes(data)
    uri = join(place.root, "large")
    digest = place.storage.upload(tmp_path / "large", uri)
    assert digest == Digest(len(data), _sha256(data))
    assert place.storage.download(uri, tmp_path / "new/folder/back", expect=digest) == digest
    assert (tmp_path / "new/folder/back").read_bytes() == data
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == ["back"]


def test_an_empty_file_there_and_back(place, tmp_path):
    (tmp_path / "empty").touch()
    uri = join(place.root, "empty")
    digest = place.storage.upload(tmp_path / "empty", uri)
    assert digest == place.storage.download(uri, tmp_path / "back") == Digest(0, _sha256(b""))
    assert (tmp_path / "back").read_bytes() == b""


@pytest.mark.parametrize(
    "wrong", [Digest(4, _sha256(b"data!")), Digest(4, _sha256(b"date")), Digest(3, _sha256(b"data"))]
)
def test_a_download_that_is_not_as_expected_leaves_what_was_there(place, tmp_path, wrong):
    uri = join(place.root, "object")
    place.storage.write(uri, b"data")
    target = tmp_path / "got/file"
    target.parent.mkdir()
    target.write_bytes(b"before")
    with pytest.raises(JobError, match="SHA-256") as caught:
        place.storage.download(uri, target, expect=wrong)
    assert caught.value.code == ExitCode.STORAGE_RETRIES
    assert uri in caught.value.cause
    assert [(path.name, path.read_bytes()) for path in target.parent.iterdir()] == [("file", b"before")]


def test_download_of_a_missing_object(place, tmp_path):
    uri = join(place.root, "none")
    with pytest.raises(JobError) as caught:
        place.storage.download(uri, tmp_path / "got/file")
    assert caught.value.code == ExitCode.STORAGE_ACCESS
    assert uri in caught.value.cause
    assert not (tmp_path / "got/file").exists()


def test_upload_of_a_missing_file(place, tmp_path):
    with pytest.raises(JobError, match="no-such-file") as caught:
        place.storage.upload(tmp_path / "no-such-file", join(place.root, "object"))
    assert caught.value.code == ExitCode.STORAGE_ACCESS
    assert place.storage.head(join(place.root, "object")) is None


def test_many_objects_there_and_back(place, tmp_path):
    """More than one page of a listing."""
    count = 1005
    uris = [join(place.root, "many", f"{index:05}") for index in range(count)]
    sent = dict(write_all(place.storage, ((uri, b"%d" % index) for index, uri in enumerate(uris)), workers=4))
    assert sorted(sent) == uris
    listed = list(place.storage.list(join(place.root, "many")))
    assert [info.uri for info in listed] == uris
    targets = ((info, tmp_path / "in" / info.uri[-5:]) for info in listed)
    got = {info.uri: digest for info, digest in download_all(place.storage, targets, workers=4)}
    assert got == sent
    assert (tmp_path / "in/01004").read_bytes() == b"1004"


def test_the_first_error_ends_a_transfer(place, tmp_path):
    uri = join(place.root, "object")
    place.storage.write(uri, b"x")
    info = place.storage.head(uri)
    missing = type(info)(join(place.root, "none"), 1, "")
    taken = []

    def items():
        for index in range(1000):
            taken.append(index)
            yield (missing if index == 20 else info), tmp_path / "got" / str(index)

    with pytest.raises(JobError, match="none") as caught:
        list(download_all(place.storage, items(), workers=2))
    assert caught.value.code == ExitCode.STORAGE_ACCESS
    assert len(taken) < 40  # 20 before it and a window of twice the workers after it, however fast the others are
    assert len(list((tmp_path / "got").iterdir())) < 40


def test_a_window_bounds_what_is_taken_ahead(place, tmp_path):
    uri = join(place.root, "object")
    place.storage.write(uri, b"x")
    info = place.storage.head(uri)
    taken = []

    def items():
        for index in range(100):
            taken.append(index)
            yield info, tmp_path / "got" / str(index)

    transfer = download_all(place.storage, items(), workers=2)
    for finished in range(1, 101):
        next(transfer)
        assert len(taken) <= finished + 2 * 2 * 2
    assert next(transfer, None) is None


def test_probe_write_leaves_nothing(place):
    probe_write(place.storage, join(place.root, "runs"))
    assert list(place.storage.list(place.root)) == []


def test_probe_source_takes_objects_and_folders(place):
    place.storage.write(join(place.root, "folder/object"), b"x")
    backend = backend_of(place.root)
    for name in ("folder/object", "folder", "folder/"):
        backend.probe_source(place.storage, f"{place.root}/{name}", *SOURCE)
    with pytest.raises(JobError, match="nothing at") as caught:
        backend.probe_source(place.storage, join(place.root, "fold"), *SOURCE)
    assert caught.value.code == (ExitCode.STORAGE_ACCESS if is_remote(place.root) else ExitCode.DATA)


def test_every_backend_has_a_place_here():
    assert set(PLACES) >= set(BACKENDS)


def test_another_scheme_is_refused_with_those_that_are_known():
    for uri in ("gs://bucket/runs", "hf://owner/name", "miniature://drawings"):
        with pytest.raises(JobError) as caught:
            open_storage(uri, StorageSettings())
        assert caught.value.code == ExitCode.MANIFEST
        assert repr(uri) in caught.value.cause
        assert caught.value.remedy == "Write a path, file:///path or s3://bucket/prefix."


def test_run_folder_keeps_keys_and_json(place, tmp_path):
    run = RunFolder(place.storage, place.root)
    assert run.read_json("a/b.json") is None
    assert run.read_rows("rows.jsonl", dict) is None
    first = run.write_json("a/b.json", {"z": 1.5, "a": ["ü", None]})
    assert run.write_json("a/c.json", {"a": ["ü", None], "z": 1.5}) == first
    assert run.read_json("a/b.json") == {"z": 1.5, "a": ["ü", None]}
    rows = [{"step": 1, "loss": 0.25, "text": "two\u2028lines\x85"}, {"step": 2, "loss": None, "text": "\n"}]
    run.write_jsonl("rows.jsonl", rows)
    assert run.read_rows("rows.jsonl", dict) == rows
    assert [key for key, _ in run.list()] == ["a/b.json", "a/c.json", "rows.jsonl"]
    assert [key for key, _ in run.list("a")] == ["a/b.json", "a/c.json"]
    digest = run.download("a/b.json", tmp_path / "file", expect=first)
    assert run.upload(tmp_path / "file", "copy") == digest
    assert run.exists("copy")
    run.delete("copy")
    assert not run.exists("copy")
    run.write("bytes", b"\x00")
    assert run.read("bytes") == b"\x00"


def test_run_folder_refuses_what_is_no_json(place):
    run = RunFolder(place.storage, place.root)
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_json("x.json", {"loss": float("nan")})
    assert not run.exists("x.json")
    for data in (b'{"a": 1', b"[1]", b"\xff", b'{"a": NaN}', b'{"a": 1e999}', b'{"a": "\\ud800"}'):
        run.write("damaged.json", data)
        with pytest.raises(JobError, match=r"damaged\.json") as caught:
            run.read_json("damaged.json")
        assert caught.value.code == ExitCode.CONFLICT


@pytest.mark.parametrize("key", ["../other", "a/../../other", "/etc/passwd", "a//b", ".", ""])
def test_run_folder_refuses_keys_that_lead_out(place, tmp_path, key):
    run = RunFolder(place.storage, place.root)
    (tmp_path / "file").touch()
    with pytest.raises(JobError) as caught:
        run.upload(tmp_path / "file", key)
    assert caught.value.code == ExitCode.UNSAFE


def test_upload_reads_the_path_it_is_given(place, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"old")
    uri = join(place.root, "object")
    place.storage.upload(tmp_path / "file", uri)
    (tmp_path / "file").write_bytes(b"newer")
    assert place.storage.upload(tmp_path / "file", uri) == Digest(5, _sha256(b"newer"))
    assert place.storage.read(uri) == b"newer"
