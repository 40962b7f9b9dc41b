"""The storages that the conformance tests run against."""

import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from job.storage import S3Settings, Storage, open_storage


@dataclass(frozen=True)
class Place:
    """An empty folder in a storage."""

    storage: Storage
    root: str  # URI


@pytest.fixture
def s3_folder(s3_bucket: str) -> str:
    return f"s3://{s3_bucket}/{uuid.uuid4().hex}"


@pytest.fixture(params=["path", "file", "relative", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    if request.param == "s3":
        server = request.getfixturevalue("s3_admin")
        root = request.getfixturevalue("s3_folder")
        # Two parts are as many as it takes; S3 wants 5 MiB in all but the last.
        return Place(open_storage(root, S3Settings(endpoint_url=server.endpoint_url, part_bytes=5 * 2**20)), root)
    monkeypatch.chdir(tmp_path)
    root = {"path": str(tmp_path / "store"), "file": f"file://{tmp_path}/store", "relative": "some/store"}[
        request.param
    ]
    return Place(open_storage(root, S3Settings()), root)
