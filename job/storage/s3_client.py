"""A boto3 client that suits AWS and the stores that speak its protocol."""

import re

import boto3
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import InvalidRegionError

from job.errors import ExitCode, JobError
from job.storage.s3_errors import public_endpoint
from job.storage.settings import S3Settings

_CONNECTIONS = 64
_AWS = re.compile(r"\.amazonaws\.com(\.cn)?$")


def make_client(settings: S3Settings) -> BaseClient:
    """AWS gets boto3's own checksums; other stores only those that the protocol requires, which all of them know."""
    session = boto3.Session()
    client = _client(session, settings)
    if _AWS.search(public_endpoint(client.meta.endpoint_url)):
        return client
    return _client(
        session, settings, request_checksum_calculation="when_required", response_checksum_validation="when_required"
    )


def _client(session: boto3.Session, settings: S3Settings, **checksums: str) -> BaseClient:
    config = Config(
        connect_timeout=settings.connect_timeout_seconds,
        read_timeout=settings.read_timeout_seconds,
        retries={"mode": "standard", "total_max_attempts": settings.attempts},
        max_pool_connections=_CONNECTIONS,
        tcp_keepalive=True,
        # The body's SHA-256 is part of the signature, so that every store checks what it receives.
        s3={"addressing_style": settings.addressing_style, "payload_signing_enabled": True},
        **checksums,
    )
    try:
        return session.client("s3", endpoint_url=settings.endpoint_url, region_name=settings.region, config=config)
    except InvalidRegionError:
        raise
    except ValueError as error:
        raise JobError(
            ExitCode.MANIFEST, "storage.endpoint_url is not a URL.", "Write it as https://host or https://host:port."
        ) from error
