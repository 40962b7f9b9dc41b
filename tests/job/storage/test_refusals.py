"""What no retry can help is told at once, with what helps."""

import pytest

from job.errors import ExitCode, JobError
from job.storage import StorageSettings, join, open_storage
from tests.http_fault_proxy import Answer, always
from tests.s3_server import ADMIN, Keys

OPERATIONS = {
    "read": lambda storage, uri, _: storage.read(uri),
    "head": lambda storage, uri, _: storage.head(uri),
    "list": lambda storage, uri, _: list(storage.list(uri)),
    "write": lambda storage, uri, _: storage.write(uri, b"x"),
    "write_if": lambda storage, uri, _: storage.write_if(uri, b"x", None),
    "delete": lambda storage, uri, _: storage.delete(uri),
    "upload": lambda storage, uri, file: storage.upload(file, uri),
    "download": lambda storage, uri, file: storage.download(uri, file),
}
WRITING = ["write", "write_if", "delete", "upload"]


@pytest.fixture
def refusals(tmp_path):
    """The 42 that each of these operations ends with, by its name."""

    def end(names, storage, uri) -> dict[str, JobError]:
        (tmp_path / "file").write_bytes(b"before")
        errors = {}
        for name in names:
            with pytest.raises(JobError) as caught:
                OPERATIONS[name](storage, uri, tmp_path / "file")
            errors[name] = caught.value
        assert {name: error.code for name, error in errors.items()} == dict.fromkeys(names, ExitCode.STORAGE_ACCESS)
        assert all(uri in error.cause for error in errors.values())
        assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"before")]
        return errors

    return end


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        (Answer(400, "ExpiredToken"), "Renew the credentials"),
        (Answer(403, "RequestTimeTooSkewed"), "clock"),
        (Answer(403, "AccessDenied"), "Allow these credentials"),
        (Answer(400, "AuthorizationHeaderMalformed"), "storage.region"),
    ],
    ids=lambda value: getattr(value, "code", ""),
)
def test_what_a_store_names_has_its_remedy(direct, through, refusals, answer, remedy):
    faulty = through(always(answer))
    errors = refusals(OPERATIONS, faulty.storage, join(direct.root, "object"))
    assert {name: (answer.code in error.cause, remedy in error.remedy) for name, error in errors.items()} == (
        dict.fromkeys(OPERATIONS, (True, True))
    )
    # One each; two for a HEAD, which names no reason; and boto3's own search for the region.
    assert len(faulty.proxy.requests) <= 3 * len(OPERATIONS)


def test_a_missing_bucket(s3_admin, refusals):
    uri = "s3://bucket-that-is-not-there/object"
    storage = open_storage(uri, StorageSettings(endpoint_url=s3_admin.endpoint_url))
    names = [name for name in OPERATIONS if name != "delete"]  # what is not there may be deleted
    assert all("Create the bucket" in error.remedy for error in refusals(names, storage, uri).values())


def test_credentials_that_may_only_read(s3_server, s3_folder, use_keys, refusals):
    use_keys(s3_server.read_only)
    storage = open_storage(s3_folder, StorageSettings(endpoint_url=s3_server.endpoint_url))
    errors = refusals(WRITING, storage, join(s3_folder, "object"))
    assert all("s3:PutObject" in error.remedy for error in errors.values())


@pytest.mark.parametrize(
    ("keys", "remedy"),
    [(Keys("nobody", "S"), "AWS_ACCESS_KEY_ID"), (Keys(ADMIN.access_key, "wrong"), "AWS_SECRET_ACCESS_KEY")],
    ids=["unknown key", "wrong secret"],
)
def test_wrong_keys(s3_server, s3_folder, use_keys, refusals, keys, remedy):
    use_keys(keys)
    storage = open_storage(s3_folder, StorageSettings(endpoint_url=s3_server.endpoint_url))
    errors = refusals(OPERATIONS, storage, join(s3_folder, "object"))
    assert all(remedy in error.remedy for error in errors.values())
    assert not any("wrong" in error.cause for error in errors.values())
