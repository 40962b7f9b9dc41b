"""What is stored when a write is damaged, its answer lost, or its condition refused."""

import random

import pytest

from job.errors import ExitCode, JobError
from job.storage import Stored, join
from job.storage.files import digest_of
from job.storage.probe import probe_conditions
from tests.http_fault_proxy import Answer, Drop, Flip, always, in_turn

LOST = [
    Drop("reset", applied=True),
    Drop("close", applied=True),
    Drop("stall", applied=True),
    Answer(500, "InternalError", applied=True),
    Answer(503, "SlowDown", applied=True),
]


@pytest.fixture
def files(tmp_path):
    """One that goes in one request, and one that takes two parts."""
    chance = random.Random(17)
    sizes = {"small": 5000, "large": 5 * 2**20 + 100}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(chance.randbytes(size))
    return {name: tmp_path / name for name in sizes}


def _writes(storage, root, files):
    """Every way to store an object."""
    return {
        "write": lambda: storage.write(join(root, "write"), b"data"),
        "write_if": lambda: storage.write_if(join(root, "write_if"), b"data", None),
        "upload_if": lambda: storage.upload_if(files["large"], join(root, "upload_if"), None),
        "small": lambda: storage.upload(files["small"], join(root, "small")),
        "large": lambda: storage.upload(files["large"], join(root, "large")),
    }


@pytest.mark.parametrize("name", ["write", "write_if", "small", "large", "upload_if"])
def test_a_body_that_was_damaged_is_sent_again(direct, through, files, name):
    faulty = through(in_turn([Flip("request", 2), Flip("request", 3)], "PUT"))
    _writes(faulty.storage, direct.root, files)[name]()
    assert faulty.proxy.injected() == {"Flip": 2}
    expected = files.get("large" if name == "upload_if" else name)
    expected = b"data" if expected is None else expected.read_bytes()
    assert direct.storage.read(join(direct.root, name)) == expected


@pytest.mark.parametrize("name", ["write", "write_if", "small", "large", "upload_if"])
def test_a_body_that_is_always_damaged_is_not_stored(direct, through, files, name, s3_admin, s3_bucket):
    faulty = through(always(Flip("request", 2), "PUT"))
    with pytest.raises(JobError) as caught:
        _writes(faulty.storage, direct.root, files)[name]()
    assert caught.value.code == ExitCode.STORAGE_RETRIES
    assert direct.storage.head(join(direct.root, name)) is None
    # Parts that were not put together cost as much as objects, and no listing shows them.
    begun = s3_admin.client().list_multipart_uploads(Bucket=s3_bucket)
    assert begun.get("Uploads", []) == []


@pytest.mark.parametrize("lost", LOST, ids=str)
def test_a_conditional_write_knows_its_own_work(direct, through, lost):
    """The store refuses what is sent again, for what the first request has written."""
    uri = join(direct.root, "lease")
    faulty = through(in_turn([lost, None, lost], "PUT"), read_timeout_seconds=1)
    created = faulty.storage.write_if(uri, b"created", None)
    assert direct.storage.fetch(uri) == Stored(b"created", created)
    replaced = faulty.storage.write_if(uri, b"replaced", created)
    assert direct.storage.fetch(uri) == Stored(b"replaced", replaced)
    assert [request.method for request, _ in faulty.proxy.requests] == ["PUT", "PUT", "HEAD"] * 2


def test_a_conditional_write_whose_every_answer_is_lost(direct, through):
    uri = join(direct.root, "lease")
    faulty = through(always(Drop("reset", applied=True), "PUT"))
    created = faulty.storage.write_if(uri, b"created", None)
    assert direct.storage.fetch(uri) == Stored(b"created", created)
    replaced = faulty.storage.write_if(uri, b"replaced", created)
    assert direct.storage.fetch(uri) == Stored(b"replaced", replaced)
    with pytest.raises(JobError) as caught:  # it cannot tell "refused" from "on its way"
        faulty.storage.write_if(uri, b"another", None)
    assert caught.value.code == ExitCode.STORAGE_RETRIES


def test_equal_bytes_of_another_are_not_its_own_work(direct, through):
    uri = join(direct.root, "lease")
    etag = direct.storage.write_if(uri, b"same", None)
    faulty = through(in_turn([Drop("reset"), None], "PUT"))
    assert faulty.storage.write_if(uri, b"same", None) is None
    assert direct.storage.head(uri).etag == etag


def test_a_conditional_write_that_never_arrives_is_told(direct, through):
    uri = join(direct.root, "lease")
    direct.storage.write(uri, b"another's")
    with pytest.raises(JobError) as caught:
        through(always(Drop("reset"), "PUT")).storage.write_if(uri, b"mine", direct.storage.head(uri).etag)
    assert caught.value.code == ExitCode.STORAGE_RETRIES
    assert direct.storage.read(uri) == b"another's"


def test_a_conflict_is_tried_again(direct, through):
    uri = join(direct.root, "lease")
    conflict = Answer(409, "ConditionalRequestConflict")
    assert through(in_turn([conflict, conflict])).storage.write_if(uri, b"x", None) is not None
    with pytest.raises(JobError, match="ConditionalRequestConflict") as caught:
        through(always(conflict)).storage.write_if(uri, b"x", None)
    assert caught.value.code == ExitCode.STORAGE_RETRIES


def test_a_store_without_conditions_is_found_out(direct, through):
    storage = through(always(Answer(501, "NotImplemented"), "PUT")).storage
    assert not probe_conditions(storage, direct.root)
    with pytest.raises(JobError, match="NotImplemented") as caught:
        storage.write_if(join(direct.root, "lease"), b"x", None)
    assert caught.value.code == ExitCode.STORAGE_ACCESS


@pytest.mark.parametrize("second", [None, Answer(404, "NoSuchUpload")], ids=str)
def test_the_lost_answer_to_the_end_of_an_upload_in_parts(direct, through, files, second):
    """Some stores do the same once more, others have forgotten the upload."""
    faulty = through(in_turn([None, Drop("reset", applied=True), second], "POST"))
    digest = faulty.storage.upload(files["large"], join(direct.root, "large"))
    assert digest == digest_of(files["large"])
    assert direct.storage.read(join(direct.root, "large")) == files["large"].read_bytes()


def test_an_upload_in_parts_that_the_store_forgot_is_told(direct, through, files):
    """The older object of that name does not pass for it, though it has the same size."""
    uri = join(direct.root, "large")
    direct.storage.write(uri, bytes(files["large"].stat().st_size))
    faulty = through(in_turn([None, Answer(404, "NoSuchUpload")], "POST"))
    with pytest.raises(JobError, match="SHA-256") as caught:
        faulty.storage.upload(files["large"], uri)
    assert caught.value.code == ExitCode.STORAGE_RETRIES
