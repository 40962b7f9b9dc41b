"""A PUT that takes place only if the object is still what the writer has seen."""

import secrets
from typing import Any, BinaryIO

import urllib3.exceptions
from botocore.client import BaseClient
from botocore.exceptions import BotoCoreError, ClientError

from job.storage.s3.codes import CHANGED, NO_OBJECT
from job.storage.s3.errors import code_of, no_store, status_of
from job.storage.s3.uris import bucket_and_key

# Keys of an object's metadata.
SHA256_KEY = "sha256"
_WRITE_KEY = "write"  # a random number of the call that stored the object


def put_if(client: BaseClient, uri: str, body: bytes | BinaryIO, sha256: str, etag: str | None) -> str | None:
    """Store the bytes if the object is still at `etag`, or if that is None and there is none; the new etag or None.

    The answer to a PUT can be lost, and the same PUT, sent again, is then refused because of what it has itself
    written. So the object's metadata names the call that wrote it, and a call that was refused or broke off looks
    whether the object is its own.
    """
    write = secrets.token_hex(16)
    try:
        return _put(client, uri, body, {SHA256_KEY: sha256, _WRITE_KEY: write}, etag)
    except (BotoCoreError, urllib3.exceptions.HTTPError, ClientError) as error:
        refused = _is_refusal(error, etag)
        if not refused and isinstance(error, ClientError) and 400 <= status_of(error) < 500:
            raise
        own = _written_by(client, uri, write)
        if own is None and not refused:
            raise
        return own


def etag_in(answer: dict[str, Any]) -> str:
    """The etag that a request's answer or an entry of a listing names."""
    etag: str | None = answer.get("ETag")
    if etag is None:
        raise no_store("its answer has no ETag")
    return etag.strip('"')


def _put(client: BaseClient, uri: str, body: bytes | BinaryIO, metadata: dict[str, str], etag: str | None) -> str:
    """Send the PUT with its condition; the etag that the store gives the object."""
    bucket, key = bucket_and_key(uri)
    condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": f'"{etag}"'}
    return etag_in(client.put_object(Bucket=bucket, Key=key, Body=body, Metadata=metadata, **condition))


def _is_refusal(error: Exception, etag: str | None) -> bool:
    """Whether the PUT met another object than it was for, or none where it was for one."""
    if not isinstance(error, ClientError):
        return False
    return code_of(error) in CHANGED or (etag is not None and code_of(error) in NO_OBJECT)


def _written_by(client: BaseClient, uri: str, write: str) -> str | None:
    """The etag of the object if that call stored it."""
    bucket, key = bucket_and_key(uri)
    try:
        answer = client.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if code_of(error) not in NO_OBJECT:
            raise
        return None
    return etag_in(answer) if answer["Metadata"].get(_WRITE_KEY) == write else None
