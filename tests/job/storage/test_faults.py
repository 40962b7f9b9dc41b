"""A network and a store that fail in passing or for ever, in front of a real store."""

import random
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from job.errors import ExitCode, JobError
from job.storage import Storage, join, open_storage
from job.storage.files import DamagedObjectError, digest_of
from job.storage.s3.settings import S3Settings
from tests.fault_proxy import Fault, FaultProxy
from tests.http_fault_proxy import Answer, Break, Delay, Drop, Flip, Throttle, Truncate, always, at_first, in_turn

PASSING = [
    Answer(503, "SlowDown"),
    Answer(500, "InternalError", applied=True),
    Drop("reset"),
    Drop("close", applied=True),
]
LOST_BYTES = 16 * 1024  # at most, of what a connection has brought when it breaks off
Operations = dict[str, Callable[[Storage], Any]]


def _operations(root: str, folder: Path) -> tuple[Operations, dict[str, Any]]:
    """Each on an object of its own that `_arrange` has stored, and what each gives."""
    (folder / "up").write_bytes(b"upload")
    uris = {name: join(root, name) for name in ("read", "head", "gone", "write", "created", "replaced", "up", "down")}
    operations: Operations = {
        "read": lambda storage: storage.read(uris["read"]),
        "head": lambda storage: storage.head(uris["head"]).size,
        "list": lambda storage: [info.uri for info in storage.list(join(root, "listed"))],
        "delete": lambda storage: storage.delete(uris["gone"]),
        "write": lambda storage: storage.write(uris["write"], b"written").size,
        "create": lambda storage: storage.write_if(uris["created"], b"created", None) is not None,
        "upload": lambda storage: storage.upload(folder / "up", uris["up"]).size,
        "download": lambda storage: storage.download(uris["down"], folder / "down").size,
    }
    listed = [join(root, "listed", name) for name in "abc"]
    expected = {"read": b"1", "head": 1, "list": listed, "delete": None, "write": 7, "create": True, "upload": 6}
    return operations, {**expected, "download": 1}


def _arrange(storage: Storage, root: str) -> None:
    for name in ("read", "head", "gone", "down", "listed/a", "listed/b", "listed/c"):
        storage.write(join(root, name), b"1")


def _outcome(operation: Callable[[Storage], Any], storage: Storage) -> Any:
    try:
        return operation(storage)
    except JobError as error:
        return error


def _outcomes(operations: Operations, storage: Storage) -> dict[str, Any]:
    """All at once, since most of the time goes by in pauses."""
    with ThreadPoolExecutor(len(operations)) as pool:
        running = {name: pool.submit(_outcome, operation, storage) for name, operation in operations.items()}
        return {name: future.result() for name, future in running.items()}


@pytest.mark.parametrize("fault", PASSING, ids=str)
def test_a_burst_is_survived(direct, through, tmp_path, fault):
    _arrange(direct.storage, direct.root)
    operations, expected = _operations(direct.root, tmp_path)
    faulty = through(at_first(2, fault))
    assert _outcomes(operations, faulty.storage) == expected
    assert faulty.proxy.injected()[type(fault).__name__] >= 2 * len(operations)
    assert direct.storage.read(join(direct.root, "write")) == b"written"
    assert direct.storage.read(join(direct.root, "created")) == b"created"
    assert direct.storage.read(join(direct.root, "up")) == b"upload"
    assert direct.storage.head(join(direct.root, "gone")) is None


@pytest.mark.parametrize("fault", [Answer(500, "InternalError"), Drop("close")], ids=str)
def test_what_never_ends_is_told(direct, through, tmp_path, fault):
    operations, _ = _operations(direct.root, tmp_path)
    errors = _outcomes(operations, through(always(fault), attempts=2).storage)
    assert {name: error.code for name, error in errors.items()} == dict.fromkeys(operations, ExitCode.STORAGE_RETRIES)
    assert all(direct.root in error.cause for error in errors.values())
    assert list(direct.storage.list(direct.root)) == []
    assert not (tmp_path / "down").exists()


def test_a_store_that_is_down_is_told(s3_admin, s3_folder):
    with FaultProxy(s3_admin.port, [Fault("refuse")] * 9) as proxy:
        storage = open_storage(s3_folder, S3Settings(endpoint_url=proxy.url, attempts=2))
        with pytest.raises(JobError) as caught:
            storage.read(join(s3_folder, "object"))
    assert caught.value.code == ExitCode.STORAGE_RETRIES
    assert proxy.connections == 2


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_download_goes_on_where_it_broke_off(direct, through, tmp_path, how):
    seed, size = 11, 3 * 2**20
    chance = random.Random(seed)
    print(f"seed {seed}")
    (tmp_path / "data").write_bytes(chance.randbytes(size))
    uri = join(direct.root, "object")
    digest = direct.storage.upload(tmp_path / "data", uri)
    breaks = [0, 1, *(chance.randrange(2**16, size // 8) for _ in range(4))]  # more than there are attempts
    faulty = through(in_turn([Break(after, how) for after in breaks], "GET"))
    assert faulty.storage.download(uri, tmp_path / "back", expect=digest) == digest
    assert digest_of(tmp_path / "back") == digest
    starts = [int(request.range.removeprefix("bytes=").rstrip("-") or 0) for request, _ in faulty.proxy.requests]
    assert len(starts) == len(breaks) + 1
    kept = [later - start for start, later in pairwise(starts)]
    assert all(after - LOST_BYTES <= size <= after for size, after in zip(kept, breaks, strict=True))


def test_a_download_that_gets_nowhere_ends(direct, through, tmp_path):
    uri = join(direct.root, "object")
    direct.storage.write(uri, b"0123456789")
    (tmp_path / "file").write_bytes(b"before")
    faulty = through(always(Break(0)))
    with pytest.raises(JobError) as caught:
        faulty.storage.download(uri, tmp_path / "file")
    assert caught.value.code == ExitCode.STORAGE_RETRIES
    assert len(faulty.proxy.requests) == 3
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"before")]


def test_an_object_that_is_replaced_while_it_is_read_is_read_anew(direct, through):
    uri = join(direct.root, "object")
    direct.storage.write(uri, b"old" * 1000)
    faulty = through(in_turn([Break(1000, "close")], "GET"))
    faulty.proxy.plan = _after(faulty.proxy.plan, lambda: direct.storage.write(uri, b"new" * 1000))
    assert faulty.storage.read(uri) == b"new" * 1000


def _after(plan, act):
    """Call `act` before the second request passes."""
    requests = []

    def changed(request):
        requests.append(request)
        if len(requests) == 2:
            act()
        return plan(request)

    return changed


@pytest.mark.parametrize("fault", [Truncate(700), Truncate(0), Flip("answer", 500)], ids=str)
def test_damage_on_the_way_is_fetched_once_more(direct, through, tmp_path, fault):
    uri = join(direct.root, "object")
    data = bytes(range(250)) * 4
    direct.storage.write(uri, data)
    faulty = through(in_turn([fault, None, fault], "GET"))
    assert faulty.storage.read(uri) == data
    faulty.storage.download(uri, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == data
    assert len(faulty.proxy.requests) == 4


@pytest.mark.parametrize("fault", [Truncate(700), Truncate(0), Flip("answer", 500)], ids=str)
def test_damage_that_stays_is_told(direct, through, tmp_path, fault):
    uri = join(direct.root, "object")
    direct.storage.write(uri, bytes(range(250)) * 4)
    (tmp_path / "file").write_bytes(b"before")
    faulty = through(always(fault, "GET"))
    for fetch in (faulty.storage.read, lambda uri: faulty.storage.download(uri, tmp_path / "file")):
        with pytest.raises(DamagedObjectError, match=uri) as caught:
            fetch(uri)
        assert caught.value.code == ExitCode.STORAGE_RETRIES
    assert len(faulty.proxy.requests) == 4
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"before")]


def test_a_flip_after_a_break_is_found(direct, through, tmp_path):
    """The rest of a body comes with no digest of its own."""
    uri = join(direct.root, "object")
    direct.storage.write(uri, bytes(range(250)) * 4)
    faulty = through(in_turn([Break(100, "close"), Flip("answer", 7)], "GET"))
    faulty.storage.download(uri, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == bytes(range(250)) * 4
    assert len(faulty.proxy.requests) == 3


@pytest.mark.parametrize("fault", [Break(60, "reset"), Break(60, "close"), Truncate(60)], ids=str)
def test_a_listing_that_breaks_off_is_asked_for_again(direct, through, fault):
    _arrange(direct.storage, direct.root)
    faulty = through(in_turn([fault]))
    assert list(faulty.storage.list(direct.root)) == list(direct.storage.list(direct.root))
    assert len(faulty.proxy.requests) == 2


@pytest.mark.parametrize("fault", [Drop("stall"), Drop("stall", applied=True)], ids=str)
def test_a_hung_connection_is_given_up(direct, through, tmp_path, fault):
    _arrange(direct.storage, direct.root)
    operations, expected = _operations(direct.root, tmp_path)
    assert _outcomes(operations, through(at_first(1, fault), read_timeout_seconds=0.5).storage) == expected


def test_a_store_that_hangs_is_told_in_time(direct, through, tmp_path):
    operations, _ = _operations(direct.root, tmp_path)
    storage = through(always(Drop("stall")), attempts=2, read_timeout_seconds=0.5).storage
    start = time.monotonic()
    errors = _outcomes(operations, storage)
    assert {name: error.code for name, error in errors.items()} == dict.fromkeys(operations, ExitCode.STORAGE_RETRIES)
    assert time.monotonic() - start < 100  # with patience of its own, boto3 takes two minutes for each operation


def test_a_body_that_hangs_goes_on_on_another_connection(direct, through, tmp_path):
    uri = join(direct.root, "object")
    direct.storage.write(uri, bytes(10 * LOST_BYTES))
    faulty = through(in_turn([Break(3 * LOST_BYTES, "stall"), Break(0, "stall")], "GET"), read_timeout_seconds=0.5)
    assert faulty.storage.download(uri, tmp_path / "file").size == 10 * LOST_BYTES
    rest = f"bytes={3 * LOST_BYTES}-"
    assert [request.range for request, _ in faulty.proxy.requests] == ["", rest, rest]


@pytest.mark.usefixtures("s3_admin")
def test_a_host_that_does_not_answer_is_given_up(s3_folder):
    """Its queue of connections is full, as behind a firewall that says nothing."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        settings = S3Settings(endpoint_url=f"http://127.0.0.1:{address[1]}", connect_timeout_seconds=0.5, attempts=2)
        start = time.monotonic()
        with pytest.raises(JobError, match="ConnectTimeout") as caught:
            open_storage(s3_folder, settings).read(join(s3_folder, "object"))
    assert caught.value.code == ExitCode.STORAGE_RETRIES
    assert time.monotonic() - start < 100  # with patience of its own, boto3 takes longer


def test_a_slow_link_works(direct, through, tmp_path):
    """The download takes longer than the time-out, which is of silence."""
    (tmp_path / "data").write_bytes(random.Random(3).randbytes(120_000))
    uri = join(direct.root, "object")
    faulty = through(always(Throttle(200_000), "PUT|HEAD"), read_timeout_seconds=2)
    digest = faulty.storage.upload(tmp_path / "data", uri)
    faulty.proxy.plan = always(Throttle(50_000))
    start = time.monotonic()
    assert faulty.storage.download(uri, tmp_path / "back", expect=digest) == digest
    assert time.monotonic() - start > 2.1
    assert {request.method for request, _ in faulty.proxy.requests} == {"PUT", "HEAD", "GET"}
    assert len(faulty.proxy.requests) == 3


def test_a_late_answer_works(direct, through):
    faulty = through(always(Delay(0.5)), read_timeout_seconds=1)
    uri = join(direct.root, "object")
    faulty.storage.write(uri, b"x")
    assert faulty.storage.read(uri) == b"x"
    assert len(faulty.proxy.requests) == 2
