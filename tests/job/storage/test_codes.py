"""Whether to try again is said by the error's code, and the message says who refused, and what would help."""

import errno
import json
import socket
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from job.errors import ExitCode, JobError
from job.storage import Storage, StorageSettings, UnreachableError, open_storage
from job.storage.s3.client import make_client
from job.storage.s3.codes import is_passing, refusal_of
from job.storage.s3.environment import check_settings, endpoint_problem
from job.storage.s3.errors import s3_errors
from job.storage.s3.settings import S3Settings
from tests.error_server import ErrorServer, s3_error, sts_error

PASSING = {
    307: ["TemporaryRedirect"],
    400: ["RequestTimeout", "ThrottlingException", "Throttling", "IDPCommunicationError", "KMS.ThrottlingException"],
    403: ["RequestThrottled", "RequestThrottledException"],
    409: ["OperationAborted", "ConditionalRequestConflict"],
    429: ["TooManyRequests", "Whatever"],
    500: ["InternalError", "KMS.KMSInternalException", "Whatever"],
    503: ["SlowDown", "SlowDownWrite", "ServiceUnavailable", "503"],
}
NEVER = {
    301: ["PermanentRedirect", "301"],
    307: ["307"],
    308: ["308"],
    400: ["ExpiredToken", "InvalidIdentityToken", "KMS.DisabledException", "UserProjectMissing", "Whatever"],
    403: ["AccessDenied", "AccessDeniedException", "InvalidAccessKeyId", "InvalidObjectState", "403"],
    503: ["AccessDenied"],  # the code says what is wrong, whatever the status
    507: ["XMinioStorageFull", "InsufficientStorage"],
}
DENIED_KMS = "User: arn:aws:iam::1:user/x is not authorized to perform: kms:GenerateDataKey on resource: arn:aws:kms:y"
DENIED_STS = "Not authorized to perform sts:AssumeRoleWithWebIdentity"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """The environment of a process that has no credentials yet."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL")
    names += ("AWS_REGION", "AWS_DEFAULT_REGION", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


@pytest.fixture
def keys(no_keys: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    no_keys.setenv("AWS_ACCESS_KEY_ID", "A")
    no_keys.setenv("AWS_SECRET_ACCESS_KEY", "S")
    return no_keys


def opened(url: str | None, region: str | None = "us-east-1") -> Storage:
    settings = S3Settings(url, region=region, attempts=1, connect_timeout_seconds=1, read_timeout_seconds=5)
    return open_storage("s3://bucket", settings)


def read(storage: Storage) -> object:
    return storage.read("s3://bucket/key")


def head(storage: Storage) -> object:
    return storage.head("s3://bucket/key")


def listing(storage: Storage) -> object:
    return [*storage.list("s3://bucket/run")]


def error_of(work: Callable[[], object]) -> JobError:
    """What the work ends with."""
    with pytest.raises(JobError) as caught:
        work()
    assert (caught.value.code == ExitCode.STORAGE_RETRIES) == isinstance(caught.value, UnreachableError)
    return caught.value


def refused(url: str | None, region: str | None = "us-east-1") -> JobError:
    """What a read ends with."""
    return error_of(lambda: read(opened(url, region)))


def test_the_code_says_whether_a_request_may_soon_succeed() -> None:
    for expected, table in ((True, PASSING), (False, NEVER)):
        found = {(code, status): is_passing(code, status) for status, codes in table.items() for code in codes}
        assert found == dict.fromkeys(found, expected)


@pytest.mark.parametrize(
    ("code", "message", "service", "wanted", "remedy"),
    [
        ("AccessDenied", DENIED_KMS, "AWS KMS", "kms:GenerateDataKey", "policy of the bucket's KMS key"),
        ("AccessDenied", "this is a Requester Pays bucket", "The store", "requester pays", "copy the data"),
        ("KMS.DisabledException", "", "AWS KMS", None, "Enable the KMS key"),
        ("AccessDenied", "<script>perform: x:y", "The store", None, "s3:GetObject"),
    ],
    ids=["kms", "requester pays", "disabled", "nonsense"],
)
def test_who_refused_and_what_it_wanted(code: str, message: str, service: str, wanted: str | None, remedy: str) -> None:
    found = refusal_of("GetObject", code, 403, message)
    assert (found.service, found.wanted, found.passes) == (service, wanted, False)
    assert remedy in (found.remedy or "")


@pytest.mark.usefixtures("keys")
def test_a_store_says_so_itself() -> None:
    with ErrorServer(400, s3_error("RequestTimeout")) as server:
        assert "RequestTimeout" in refused(server.url).cause
        server.answer = 403, s3_error("AccessDenied", DENIED_KMS)
        error = refused(server.url)
        assert error.code == ExitCode.STORAGE_ACCESS
        assert error.cause.startswith("AWS KMS refused GetObject of s3://bucket/key")
        server.answer = 200, b"<html>a console</html>"
        error = refused(server.url)
        assert (error.code, "no S3 store" in error.cause) == (ExitCode.STORAGE_ACCESS, True)
        storage = opened(server.url)
        for status, work in ((301, read), (301, head), (302, listing), (307, head), (308, read)):
            server.answer = status, b"<html>It is elsewhere.</html>"  # as a server says that wants https
            error = error_of(partial(work, storage))
            assert (error.code, "https://" in error.remedy) == (ExitCode.STORAGE_ACCESS, True)
        server.answer = 307, s3_error("TemporaryRedirect")
        assert error_of(partial(head, storage)).code == ExitCode.STORAGE_RETRIES
        error = refused(server.url.replace("http:", "https:"))
        assert (error.code, "speaks no TLS" in error.cause) == (ExitCode.STORAGE_ACCESS, True)


LISTING = (
    "<ListBucketResult><IsTruncated>{more}</IsTruncated><Contents><Key>a</Key><LastModified>{when}</LastModified>"
    "<ETag>x</ETag><Size>{size}</Size></Contents></ListBucketResult>"
)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(("when", "size"), [("2026-11-30T17:58:02[", "1"), ("2026-11-30T17:58:02Z", "1q")])
def test_an_answer_that_a_bad_line_changed_passes(when: str, size: str) -> None:
    with ErrorServer(200, LISTING.format(more="false", when=when, size=size).encode()) as server:
        error = error_of(partial(listing, opened(server.url)))
        assert (error.code, "cannot be reached or broke off" in error.cause) == (ExitCode.STORAGE_RETRIES, True)


def test_a_role_that_sts_gives(no_keys: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("token")
    no_keys.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/x")
    no_keys.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    with ErrorServer(400, sts_error("IDPCommunicationError")) as sts:
        no_keys.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        error = refused("http://127.0.0.1:9")
        assert error.code == ExitCode.STORAGE_RETRIES
        assert error.cause.startswith("AWS STS refused AssumeRoleWithWebIdentity")
        sts.answer = 403, sts_error("AccessDenied", DENIED_STS)
        error = refused("http://127.0.0.1:9")
        assert (error.code, "sts:AssumeRoleWithWebIdentity" in error.cause) == (ExitCode.STORAGE_ACCESS, True)
        assert "AWS_WEB_IDENTITY_TOKEN_FILE" in error.remedy
    error = refused("http://127.0.0.1:9")
    assert (error.code, sts.url in error.cause) == (ExitCode.STORAGE_RETRIES, True)
    (tmp_path / "token").unlink()
    assert "AWS_WEB_IDENTITY_TOKEN_FILE" in refused("http://127.0.0.1:9").cause


@pytest.mark.parametrize("status", [500, 429, 403])
def test_an_agent_that_is_busy_is_asked_again(no_keys: pytest.MonkeyPatch, status: int) -> None:
    expected = ExitCode.STORAGE_ACCESS if status == 403 else ExitCode.STORAGE_RETRIES
    with ErrorServer(status, b"{}") as agent:
        no_keys.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
        no_keys.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{agent.url}/role")
        error = refused("http://127.0.0.1:9")
    assert (error.code, "AWS_CONTAINER_CREDENTIALS_FULL_URI" in error.cause) == (expected, True)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ({}, "KeyError"),
        ([], "TypeError"),
        ({"AccessKeyId": "A", "SecretAccessKey": "S", "Token": "t", "Expiration": "soon"}, "ParserError"),
        ({"AccessKeyId": "A", "SecretAccessKey": "S", "Token": "t", "Expiration": "2001-01-01T00:00:00Z"}, "expired"),
    ],
)
def test_an_agent_that_gives_no_credentials(no_keys: pytest.MonkeyPatch, answer: object, word: str) -> None:
    with ErrorServer(200, json.dumps(answer).encode()) as agent:
        no_keys.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{agent.url}/role")
        error = refused("http://127.0.0.1:9")
    assert (error.code, word in error.cause) == (ExitCode.STORAGE_ACCESS, True)
    assert "AWS_CONTAINER_CREDENTIALS_FULL_URI" in error.cause


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"AWS_ROLE_ARN": "x", "AWS_WEB_IDENTITY_TOKEN_FILE": "{token}"}, "AWS_ROLE_ARN"),
        ({"AWS_ROLE_ARN": "{role}", "AWS_WEB_IDENTITY_TOKEN_FILE": "{empty}"}, "AWS_WEB_IDENTITY_TOKEN_FILE"),
        ({"AWS_ROLE_ARN": "{role}", "AWS_WEB_IDENTITY_TOKEN_FILE": "{binary}"}, "AWS_WEB_IDENTITY_TOKEN_FILE"),
        (
            {"AWS_ROLE_ARN": "{role}", "AWS_WEB_IDENTITY_TOKEN_FILE": "{token}", "AWS_ENDPOINT_URL_STS": "nonsense"},
            "AWS_ENDPOINT_URL_STS",
        ),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:99999"}, "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        ({"AWS_METADATA_SERVICE_TIMEOUT": "soon"}, "AWS_METADATA_SERVICE_TIMEOUT"),
        ({"AWS_EC2_METADATA_SERVICE_ENDPOINT": "nonsense"}, "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
    ],
)
def test_a_variable_of_a_provider_that_cannot_be_right_is_named(
    no_keys: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], name: str
) -> None:
    for file, data in (("token", b"a token"), ("empty", b""), ("binary", b"\xff\xfe")):
        (tmp_path / file).write_bytes(data)
    paths = {file: str(tmp_path / file) for file in ("token", "empty", "binary")}
    for variable, value in variables.items():
        no_keys.setenv(variable, value.format(role="arn:aws:iam::123456789012:role/x", **paths))
    no_keys.setenv("AWS_EC2_METADATA_DISABLED", "false")
    error = refused("http://127.0.0.1:9")
    assert (error.code, name in error.cause) == (ExitCode.STORAGE_ACCESS, True)


@pytest.mark.parametrize(
    "lines",
    [
        "credential_process = /no/such/program",
        "credential_process = /bin/echo []",
        "credential_process = {folder}",
        "endpoint_url = http://127.0.0.1:9/bucket",
        "s3 = nonsense",
    ],
)
def test_a_configuration_that_cannot_be_right_is_named(no_keys: pytest.MonkeyPatch, tmp_path: Path, lines: str) -> None:
    path = tmp_path / "config"
    path.write_text(f"[default]\n{lines.format(folder=tmp_path)}\n")
    no_keys.setenv("AWS_CONFIG_FILE", str(path))
    error = refused(None if "endpoint" in lines else "http://127.0.0.1:9")
    assert (error.code, "AWS_CONFIG_FILE" in error.cause) == (ExitCode.STORAGE_ACCESS, True)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("page", [b"", b"<html><body>Log in.</body></html>"])
def test_an_answer_that_says_nothing_is_none(tmp_path: Path, page: bytes) -> None:
    """A listing that was taken for empty would hide every checkpoint of a run."""
    (tmp_path / "file").write_bytes(page)
    with ErrorServer(200, page) as server:
        storage = opened(server.url)
        for work in (
            partial(listing, storage),
            partial(storage.write, "s3://bucket/key", b"x"),
            partial(storage.upload, tmp_path / "file", "s3://bucket/key"),
        ):
            error = error_of(work)
            assert (error.code, "no S3 store" in error.cause) == (ExitCode.STORAGE_ACCESS, True)


@pytest.mark.usefixtures("keys")
def test_a_listing_that_cannot_be_whole_is_refused() -> None:
    entry = "<Contents><Key>run/a</Key><Size>1</Size><ETag>x</ETag></Contents>"
    goes_on = "<IsTruncated>true</IsTruncated>"
    with ErrorServer(200, b"") as server:
        storage = opened(server.url)
        for inside in (
            goes_on + entry,  # without saying how
            f"{goes_on}<NextMarker>run/a</NextMarker>{entry}",  # as before the second version of listings
            f"{goes_on}<NextContinuationToken>t</NextContinuationToken>{entry}",  # for ever
            entry.replace("<Size>1</Size>", ""),
            entry.replace(">1<", ">-1<"),
            entry.replace("run/a", "another/a"),
            entry.replace("<Key>run/a</Key>", ""),
        ):
            page = f"<?xml version='1.0'?><ListBucketResult><Name>bucket</Name>{inside}</ListBucketResult>"
            server.answer = 200, page.encode()
            error = error_of(partial(listing, storage))
            assert (error.code, "no S3 store" in error.cause) == (ExitCode.STORAGE_ACCESS, True)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(("status", "word"), [(407, "user:password"), (403, "NO_PROXY"), (502, None)])
def test_a_proxy_that_does_not_let_through(keys: pytest.MonkeyPatch, status: int, word: str | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode())

        thread = threading.Thread(target=refuse)
        thread.start()
        keys.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.getsockname()[1]}")
        error = refused("https://store.invalid")
        thread.join()
    assert error.code == (ExitCode.STORAGE_ACCESS if word else ExitCode.STORAGE_RETRIES)
    assert (word or "HTTPS_PROXY") in error.remedy


def test_a_local_error_names_no_variable(keys: pytest.MonkeyPatch) -> None:
    """An error of the system need not name a file, as few variables of AWS are set."""
    keys.delenv("AWS_CONFIG_FILE")
    with pytest.raises(OSError, match="No space"), s3_errors("s3://bucket/key", "http://store"):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("status", [500, 404])
def test_a_metadata_service_that_is_busy_is_asked_again(no_keys: pytest.MonkeyPatch, status: int) -> None:
    with ErrorServer(status, b"") as service:
        no_keys.setenv("AWS_EC2_METADATA_DISABLED", "false")
        no_keys.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url)
        error = refused("http://127.0.0.1:9")
    assert error.code == (ExitCode.STORAGE_RETRIES if status == 500 else ExitCode.STORAGE_ACCESS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ACCESS_KEY_ID", "A\n"),
        ("AWS_SECRET_ACCESS_KEY", "secret-S\r\n"),
        ("AWS_SESSION_TOKEN", "a b"),
        ("AWS_CONFIG_FILE", "{bad}"),
        ("AWS_SHARED_CREDENTIALS_FILE", "{bad}"),
        ("AWS_CA_BUNDLE", "{folder}/none.pem"),
        ("REQUESTS_CA_BUNDLE", "{folder}/none.pem"),
        ("AWS_CA_BUNDLE", "{bad}"),
        ("AWS_PROFILE", "nobody"),
        ("AWS_ENDPOINT_URL", "ftp://host"),
        ("AWS_ENDPOINT_URL_S3", "https://host/bucket"),
        ("AWS_RESPONSE_CHECKSUM_VALIDATION", "perhaps"),
        ("AWS_DEFAULTS_MODE", "perhaps"),
        ("AWS_REGION", "us east"),
        ("AWS_DEFAULT_REGION", "us-east-1\n"),
        ("AWS_DEFAULT_REGION", ""),
        ("HTTPS_PROXY", "socks5://127.0.0.1:9"),
        ("https_proxy", "http://["),
    ],
)
def test_a_variable_that_cannot_be_right_is_named(
    keys: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str
) -> None:
    (tmp_path / "bad").write_text("no section\n")
    keys.setenv(name, value.format(bad=tmp_path / "bad", folder=tmp_path))
    with ErrorServer(200, b"") as server:
        url = None if "ENDPOINT" in name else server.url.replace("http:", "https:")
        error = refused(url, None if "REGION" in name else "us-east-1")
    assert (error.code, name in f"{error.cause} {error.remedy}") == (ExitCode.STORAGE_ACCESS, True)
    assert "secret-S" not in str(error)


def test_a_profile_a_region_and_a_proxy_are_looked_at_without_a_request(tmp_path: Path) -> None:
    (tmp_path / "config").write_text('[default]\n[profile "my own"]\n[sso-session other]\n')
    (tmp_path / "credentials").write_text("[keys]\n")
    files = {"AWS_CONFIG_FILE": f"{tmp_path}/config", "AWS_SHARED_CREDENTIALS_FILE": f"{tmp_path}/credentials"}
    for profile in ("default", "my own", "keys"):
        check_settings(StorageSettings(), {**files, "AWS_PROFILE": profile, "AWS_REGION": "eu-west-3"})
    check_settings(StorageSettings(region="eu-west-3"), {**files, "AWS_DEFAULT_REGION": "not used"})
    check_settings(StorageSettings(), {**files, "HTTPS_PROXY": "socks5://127.0.0.1:9", "NO_PROXY": "amazonaws.com"})
    wrong = {"AWS_PROFILE": "other", "AWS_DEFAULT_PROFILE": "my", "AWS_REGION": "us east", "AWS_DEFAULT_REGION": "eu-"}
    for name, value in wrong.items():
        with pytest.raises(JobError, match=f"{name} .*'{value}'") as caught:
            check_settings(StorageSettings(), {**files, name: value})
        assert (caught.value.code, bool(caught.value.remedy)) == (ExitCode.STORAGE_ACCESS, True)
    with pytest.raises(JobError, match=r"storage\.region is 'us/east'") as caught:
        check_settings(StorageSettings(region="us/east"), files)
    assert caught.value.code == ExitCode.MANIFEST


def test_the_region_of_the_environment_is_heard_under_both_its_names(keys: pytest.MonkeyPatch) -> None:
    keys.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    keys.setenv("AWS_REGION", "eu-west-3")
    assert make_client(S3Settings(), lambda: None).meta.region_name == "eu-west-3"
    assert make_client(S3Settings(region="eu-west-2"), lambda: None).meta.region_name == "eu-west-2"
    keys.delenv("AWS_REGION")
    assert make_client(S3Settings(), lambda: None).meta.region_name == "eu-west-1"


def test_an_endpoint_is_a_scheme_and_a_host() -> None:
    for url in ("https://s3.example.com", "http://minio:9000", "http://[::1]:9000/", "https://10.0.0.1/"):
        assert endpoint_problem(url) is None
    wrong = ["ftp://host", "s3://host", "host:9000", "http://", "http://ho st", "http://host:99999", "http://[::1"]
    wrong += ["https://host/bucket", "https://host?x=1", "https://host/#x", "https://host?", "http://h\n"]
    assert [url for url in wrong if endpoint_problem(url) is None] == []
