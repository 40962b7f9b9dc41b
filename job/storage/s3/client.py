"""A boto3 client that suits AWS and the stores that speak its protocol."""

import base64
import hashlib
import io
import os
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import boto3
import botocore.session
from botocore.awsrequest import AWSPreparedRequest
from botocore.client import BaseClient
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.parsers import ResponseParser, ResponseParserError, ResponseParserFactory

from job.errors import ExitCode, JobError
from job.storage.files import CHUNK_BYTES
from job.storage.s3.codes import is_passing
from job.storage.s3.credentials import readable_settings
from job.storage.s3.environment import AN_ENDPOINT, endpoint_problem, region_in
from job.storage.s3.errors import public_endpoint
from job.storage.s3.pulse import PULSE_BYTES, CountedBody, Pulse
from job.storage.s3.settings import S3Settings

_CONNECTIONS = 64  # kept open at most; more threads than that would wait for one another
_PUTS = ("PutObject", "UploadPart")  # the requests that have a body
_AWS = re.compile(r"\.amazonaws\.com(\.cn)?$")


class _Parsers(ResponseParserFactory):  # type: ignore[misc]
    """Makes parsers that say so where an answer cannot be read, whatever in it a bad line has changed.

    boto3's own say so of an answer that is no XML, and fail by other exceptions at a number or date that is none.
    """

    def create_parser(self, protocol_name: str) -> ResponseParser:
        """A parser of the protocol of that name, all of whose failures are ResponseParserErrors."""
        parser = super().create_parser(protocol_name)
        parser.parse = partial(_parse, parser.parse)
        return parser


def _parse(parse: Callable[[Any, Any], Any], response: Any, shape: Any) -> Any:
    try:
        return parse(response, shape)
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise ResponseParserError(f"an answer cannot be read: {error}") from error


def make_client(settings: S3Settings, moved: Callable[[], None]) -> BaseClient:
    """A client whose uploads are checked by the store.

    AWS gets boto3's own checksums; other stores get Content-MD5, which all of them know: some check neither newer
    checksums nor the body's SHA-256 in the signature.

    Args:
        moved: called while a large body is sent.

    Raises:
        JobError: 42, what says where credentials come from, or the configuration of AWS, cannot be used.
    """
    core = botocore.session.get_session()
    core.register_component("response_parser_factory", _Parsers())
    with readable_settings():
        session = boto3.Session(region_name=region_in(os.environ), botocore_session=core)
        client = _client(session, settings, moved)
        _check_endpoint(client.meta.endpoint_url)
        if not _AWS.search(public_endpoint(client.meta.endpoint_url)):
            client = _client(
                session,
                settings,
                moved,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
            for operation in _PUTS:
                client.meta.events.register(f"before-call.s3.{operation}", _add_md5)
        credentials = session.get_credentials()
    if credentials is not None:
        client.meta.events.register_first("before-call.s3", partial(_renew, credentials))
    return client


def _client(session: boto3.Session, settings: S3Settings, moved: Callable[[], None], **checksums: str) -> BaseClient:
    """A client with the settings' limits, which retries refusals that pass and counts the bodies that it sends."""
    config = Config(
        connect_timeout=settings.connect_timeout_seconds,
        read_timeout=settings.read_timeout_seconds,
        retries={"mode": "standard", "total_max_attempts": settings.attempts},
        max_pool_connections=_CONNECTIONS,
        tcp_keepalive=True,
        s3={"addressing_style": settings.addressing_style, "payload_signing_enabled": True},
        **checksums,
    )
    client = session.client("s3", endpoint_url=settings.endpoint_url, region_name=settings.region, config=config)
    client.meta.events.register("before-call.s3.HeadBucket", _keep_to_endpoint)
    client.meta.events.register("needs-retry.s3", partial(_retry_passing, settings.attempts))
    for operation in _PUTS:
        client.meta.events.register(f"before-send.s3.{operation}", partial(_count_body, moved))
    return client


def _check_endpoint(url: str) -> None:
    """Refuse an endpoint that a file of AWS's names: those of a manifest and of variables have been looked at."""
    if (problem := endpoint_problem(url)) is not None:
        raise JobError(
            ExitCode.STORAGE_ACCESS,
            f"The endpoint_url of AWS_CONFIG_FILE {problem}.",
            f"Write it as {AN_ENDPOINT}.",
        )


def _renew(credentials: Credentials, **_: Any) -> None:
    """Have the credentials renewed where that is due. boto3 calls this before each request, and would do it later."""
    with readable_settings():
        credentials.get_frozen_credentials()


def _keep_to_endpoint(context: dict[str, Any], **_: Any) -> None:
    """Let boto3 not follow a request for a bucket that is sent on: it asks by such a one where to follow others."""
    context.setdefault("s3_redirect", {})["redirected"] = True


def _retry_passing(most: int, attempts: int, response: tuple[Any, dict[str, Any]] | None, **_: Any) -> float | None:
    """The pause in seconds before a request is retried that boto3 would give up; None where it is right to do so."""
    if response is None or attempts >= most:
        return None
    code, status = response[1].get("Error", {}).get("Code"), response[0].status_code
    return 0.1 * 2**attempts if code and is_passing(code, status) else None


def _count_body(moved: Callable[[], None], request: AWSPreparedRequest, **_: Any) -> None:
    """Replace the body of a PUT by one that is counted.

    boto3 calls this when the request is signed: whatever reads the body from now on sends it.
    """
    body = request.body
    if isinstance(body, bytes):
        if len(body) < PULSE_BYTES:
            return
        body = io.BytesIO(body)
    request.body = CountedBody(body, Pulse(moved))


def _add_md5(params: dict[str, Any], **_: Any) -> None:
    """Give a PUT its Content-MD5. boto3 calls this before it signs the request, so that the header is signed too."""
    body = params["body"]
    md5 = hashlib.md5(usedforsecurity=False)
    if isinstance(body, bytes):
        md5.update(body)
    else:
        start = body.tell()
        while chunk := body.read(CHUNK_BYTES):
            md5.update(chunk)
        body.seek(start)
    params["headers"]["Content-MD5"] = base64.b64encode(md5.digest()).decode()
