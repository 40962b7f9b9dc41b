"""What no retry can help is told at once, with what helps."""

import pytest

from job.errors import ExitCode, JobError
from job.storage import S3Settings, join, open_storage
from tests.http_fault_proxy import Answer, always
from tests.s3_server import Keys

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
def refusal(tmp_path):
    """The 42 that an operation ends with."""

    def end(name, storage, uri) -> JobError:
        (tmp_path / "file").write_bytes(b"before")
        with pytest.raises(JobError) as caught:
            OPERATIONS[name](storage, uri, tmp_path / "file")
        assert caught.value.code == ExitCode.STORAGE_ACCESS
        assert uri in caught.value.cause
        assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"before")]
        return caught.value

    return end


@pytest.mark.parametrize("name", OPERATIONS)
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
def test_what_a_store_names_has_its_remedy(direct, through, refusal, name, answer, remedy):
    faulty = through(always(answer))
    error = refusal(name, faulty.storage, join(direct.root, "object"))
    assert remedy in error.remedy
    assert answer.code in error.cause
    assert len(faulty.proxy.requests) <= 3  # a HEAD that names no reason, and boto3's own search for the region


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "delete"])  # what is not there may be deleted
def test_a_missing_bucket(s3_admin, refusal, name):
    uri = "s3://bucket-that-is-not-there/object"
    storage = open_storage(uri, S3Settings(endpoint_url=s3_admin.endpoint_url))
    assert "Create the bucket" in refusal(name, storage, uri).remedy


@pytest.mark.parametrize("name", WRITING)
def test_credentials_that_may_only_read(s3_server, s3_folder, use_keys, refusal, name):
    use_keys(s3_server.read_only)
    storage = open_storage(s3_folder, S3Settings(endpoint_url=s3_server.endpoint_url))
    assert "s3:PutObject" in refusal(name, storage, join(s3_folder, "object")).remedy


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(
    ("keys", "remedy"),
    [(Keys("nobody", "S"), "AWS_ACCESS_KEY_ID"), (Keys("A", "wrong"), "AWS_SECRET_ACCESS_KEY")],
    ids=["unknown key", "wrong secret"],
)
def test_wrong_keys(s3_server, s3_folder, use_keys, refusal, name, keys, remedy):
    use_keys(keys)
    storage = open_storage(s3_folder, S3Settings(endpoint_url=s3_server.endpoint_url))
    error = refusal(name, storage, join(s3_folder, "object"))
    assert remedy in error.remedy
    assert keys.secret_key not in error.cause.split()
