"""The storages that the conformance tests run against."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from job.storage import Storage, StorageSettings, open_storage
from job.storage.s3.settings import S3Settings
from tests.http_fault_proxy import HttpFaultProxy, Plan
from tests.s3_server import S3Server


@dataclass(frozen=True)
class Place:
    """An empty folder in a storage."""

    storage: Storage
    root: str  # URI


@pytest.fixture
def s3_folder(s3_bucket: str) -> str:
    return f"s3://{s3_bucket}/{uuid.uuid4().hex}"


def _disk(root: Callable[[Path], str]) -> Callable[[pytest.FixtureRequest], Place]:
    """A place in a fresh folder, named by what `root` makes of the folder's path; tests run in that folder."""

    def prepare(request: pytest.FixtureRequest) -> Place:
        folder: Path = request.getfixturevalue("tmp_path")
        request.getfixturevalue("monkeypatch").chdir(folder)
        return Place(open_storage(root(folder), StorageSettings()), root(folder))

    return prepare


def _bucket(request: pytest.FixtureRequest) -> Place:
    server, root = request.getfixturevalue("s3_admin"), request.getfixturevalue("s3_folder")
    # Two parts are enough to try uploads in parts; S3 wants 5 MiB in all but the last.
    return Place(open_storage(root, S3Settings(endpoint_url=server.endpoint_url, part_bytes=5 * 2**20)), root)


# A row for each way to name a place in a storage. Every scheme of `job.storage.backends` has at least one.
PLACES: dict[str, Callable[[pytest.FixtureRequest], Place]] = {
    "path": _disk(lambda folder: f"{folder}/store"),
    "file": _disk(lambda folder: f"file://{folder}/store"),
    "relative": _disk(lambda _: "some/store"),
    "s3": _bucket,
}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    return PLACES[request.param](request)


@dataclass(frozen=True)
class Faulty:
    """The same folder behind a proxy that spoils what passes."""

    storage: Storage
    proxy: HttpFaultProxy


@pytest.fixture(scope="session")
def direct_storage(s3_server: S3Server) -> Storage:
    """One for all tests, since it takes a while to open."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.admin.environment().items():
            patch.setenv(name, value)
        return open_storage("s3://any", StorageSettings(endpoint_url=s3_server.endpoint_url))


@pytest.fixture
def direct(direct_storage: Storage, s3_folder: str) -> Place:
    """The store without faults, for what a test arranges and looks at."""
    return Place(direct_storage, s3_folder)


@pytest.fixture
def through(s3_admin: S3Server, s3_folder: str) -> Iterator[Callable[..., Faulty]]:
    """Open the store of `direct` behind a proxy with this plan, with the patience that a test has."""
    with ExitStack() as stack:

        def open_through(plan: Plan, moved: Callable[[], None] = lambda: None, **changes: Any) -> Faulty:
            proxy = stack.enter_context(HttpFaultProxy(s3_admin.port, plan))
            patience = {"attempts": 3, "connect_timeout_seconds": 1, "read_timeout_seconds": 2}
            settings = S3Settings(endpoint_url=proxy.url, **{"part_bytes": 5 * 2**20, **patience, **changes})
            storage = open_storage(s3_folder, settings, moved)
            return Faulty(storage, proxy)

        yield open_through
