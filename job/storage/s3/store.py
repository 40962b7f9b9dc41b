"""Storage in a bucket of AWS S3 or of a store that speaks its protocol."""

import hashlib
import io
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import urllib3.exceptions
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError

from job.storage.base import Digest, ObjectInfo, Stored
from job.storage.files import (
    ChangedObjectError,
    DamagedObjectError,
    HashingWriter,
    MissingObjectError,
    atomic_file,
    digest_of,
    local_errors,
    require_digest,
)
from job.storage.s3.checksums import Promise, promise_of
from job.storage.s3.client import make_client
from job.storage.s3.codes import CHANGED, NO_OBJECT
from job.storage.s3.conditions import SHA256_KEY, etag_in, put_if
from job.storage.s3.errors import code_of, public_endpoint, s3_errors, status_of
from job.storage.s3.listing import entries_of
from job.storage.s3.pulse import Pulse
from job.storage.s3.settings import S3Settings
from job.storage.s3.uris import bucket_and_key
from job.storage.uris import as_folder

_READ_BYTES = 16 * 1024  # taken from a body at once; a connection that breaks off loses at most these
_PART_UPLOADS = 4  # parts of one file that are on their way at once

Answer = dict[str, Any]  # what boto3 gives for a request


class S3Storage:
    """Objects named `s3://bucket/key`. Several threads may use one instance.

    What it stores carries its SHA-256 as metadata, and what it fetches is compared with that.
    """

    def __init__(self, settings: S3Settings, moved: Callable[[], None]) -> None:
        with s3_errors("the store", public_endpoint(settings.endpoint_url or "https://s3.amazonaws.com")):
            self._client = make_client(settings, moved)
        self._settings, self._moved = settings, moved
        self._endpoint = public_endpoint(self._client.meta.endpoint_url)
        self._transfer = TransferConfig(
            multipart_threshold=settings.part_bytes,
            multipart_chunksize=settings.part_bytes,
            max_concurrency=_PART_UPLOADS,
            preferred_transfer_client="classic",
        )
        self._buckets_seen: set[str] = set()

    def read(self, uri: str) -> bytes | None:
        """The bytes of a small object; None where there is none."""
        stored = self.fetch(uri)
        return None if stored is None else stored.data

    def fetch(self, uri: str) -> Stored | None:
        """The bytes of a small object and its etag; what arrives damaged is fetched once more."""
        try:
            return self._read(uri)
        except DamagedObjectError:
            return self._read(uri)

    def write(self, uri: str, data: bytes) -> Digest:
        """Store the bytes in one request, with their SHA-256 as metadata."""
        bucket, key = bucket_and_key(uri)
        digest = Digest(len(data), hashlib.sha256(data).hexdigest())
        with self._errors(uri):
            etag_in(self._client.put_object(Bucket=bucket, Key=key, Body=data, Metadata={SHA256_KEY: digest.sha256}))
        return digest

    def write_if(self, uri: str, data: bytes, etag: str | None) -> str | None:
        """Store the bytes in one request that the store refuses if the object has changed, as `put_if` does."""
        with self._errors(uri):
            return put_if(self._client, uri, data, hashlib.sha256(data).hexdigest(), etag)

    def upload_if(self, path: Path, uri: str, etag: str | None) -> Digest | None:
        """Stream a file in one request, of at most 5 GB, under the condition of `write_if`."""
        with local_errors(path):
            digest = digest_of(path)
            with path.open("rb") as file, self._errors(uri):
                return None if put_if(self._client, uri, file, digest.sha256, etag) is None else digest

    def download(self, uri: str, path: Path, expect: Digest | None = None, etag: str | None = None) -> Digest:
        """Stream the object to a file. A body that breaks off is continued; a damaged one is fetched once more."""
        try:
            return self._download(uri, path, expect, etag)
        except DamagedObjectError:
            return self._download(uri, path, expect, etag)

    def upload(self, path: Path, uri: str) -> Digest:
        """Store a file, in parts if it is large, and ask the store what it then has."""
        bucket, key = bucket_and_key(uri)
        with local_errors(path):
            digest = digest_of(path)
            with path.open("rb") as file, self._errors(uri):
                extra = {"Metadata": {SHA256_KEY: digest.sha256}}
                try:
                    self._client.upload_fileobj(file, bucket, key, ExtraArgs=extra, Config=self._transfer)
                except ClientError as error:
                    # Where the answer to the last request of an upload in parts is lost, boto3 sends the request again,
                    # and the store no longer knows the upload, which it has completed.
                    if code_of(error) != "NoSuchUpload":
                        raise
        return self._require_stored(uri, digest)

    def head(self, uri: str) -> ObjectInfo | None:
        """The object's size and etag; None where there is none."""
        answer = self._head(uri)
        return None if answer is None else ObjectInfo(uri, answer["ContentLength"], etag_in(answer))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object below the prefix, sorted, since stores differ in their order.

        Names that end in a slash, which consoles store for empty folders, are left out.
        """
        yield from sorted(self._pages(prefix), key=lambda info: info.uri)

    def delete(self, uri: str) -> None:
        """Remove the object; it may be absent."""
        bucket, key = bucket_and_key(uri)
        with self._errors(uri):
            try:
                self._client.delete_object(Bucket=bucket, Key=key)
            except ClientError as error:
                if code_of(error) not in NO_OBJECT:
                    raise

    def _errors(self, uri: str) -> AbstractContextManager[None]:
        return s3_errors(uri, self._endpoint)

    def _head(self, uri: str) -> Answer | None:
        bucket, key = bucket_and_key(uri)
        if not key:
            return None
        with self._errors(uri):
            try:
                answer: Answer = self._client.head_object(Bucket=bucket, Key=key)
            except ClientError as error:
                if code_of(error) in NO_OBJECT:
                    self._require_bucket(bucket)
                    return None
                if 300 <= status_of(error) < 500:
                    self._require_readable(uri)
                raise
        return answer

    def _require_readable(self, uri: str) -> None:
        """Raise what a GET is refused for: the answer to HEAD has no body that could name the reason."""
        answer = self._get(uri, Range="bytes=0-0")
        if answer is not None:
            answer["Body"].close()

    def _require_stored(self, uri: str, digest: Digest) -> Digest:
        """The digest of what was sent, if the store has an object of that size and hash."""
        answer = self._head(uri)
        if answer is None:
            raise DamagedObjectError(f"{uri} is not there although it was stored.")
        etag_in(answer)  # as only a store's answer has
        return require_digest(uri, Digest(answer["ContentLength"], _stored_sha256(answer) or digest.sha256), digest)

    def _require_bucket(self, bucket: str) -> None:
        """Raise what a missing bucket is refused with: the 404 of a HEAD request is that of a missing object too."""
        if bucket in self._buckets_seen:
            return
        try:
            self._client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if code_of(error) in NO_OBJECT:
                error.response["Error"]["Code"] = "NoSuchBucket"
            raise
        self._buckets_seen.add(bucket)

    def _pages(self, prefix: str) -> Iterator[ObjectInfo]:
        bucket, key = bucket_and_key(prefix)
        with self._errors(prefix):
            folder = as_folder(key) if key else ""
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder):
                for item in entries_of(page, folder):
                    if not item["Key"].endswith("/"):
                        yield ObjectInfo(f"s3://{bucket}/{item['Key']}", item["Size"], etag_in(item))

    def _read(self, uri: str) -> Stored | None:
        buffer = io.BytesIO()
        found = self._fetch(uri, HashingWriter(buffer))
        return None if found is None else Stored(buffer.getvalue(), found[1])

    def _download(self, uri: str, path: Path, expect: Digest | None, etag: str | None) -> Digest:
        with atomic_file(path, durable=False) as writer:
            found = self._fetch(uri, writer, expect, etag)
            if found is None:
                raise MissingObjectError(uri)
        return found[0]

    def _fetch(
        self, uri: str, writer: HashingWriter, expect: Digest | None = None, listed: str | None = None
    ) -> tuple[Digest, str] | None:
        """Write the object's bytes and check them; their digest and etag, or None when there is no object."""
        with self._errors(uri):
            answer = self._get(uri, ChecksumMode="ENABLED")
            if answer is None:
                return None
            if listed not in (None, etag_in(answer)) and not self._is_still_listed(uri, listed):
                answer["Body"].close()
                raise ChangedObjectError(uri)
            stored = _stored_sha256(answer)
            promise = None if stored else promise_of(answer, bucket_and_key(uri)[0])
            self._write_body(uri, answer, writer, promise)
        if promise is not None and not promise.is_kept():
            raise DamagedObjectError(f"{uri} arrived with another {promise.name} than the store's.")
        digest = writer.digest()
        require_digest(uri, digest, Digest(answer["ContentLength"], stored or digest.sha256))
        require_digest(uri, digest, expect)
        verified_by = "SHA-256" if stored or expect else (promise.name if promise else None)
        return replace(digest, verified_by=verified_by), etag_in(answer)

    def _is_still_listed(self, uri: str, etag: str) -> bool:
        """Whether a listing shows that etag, as that of some stores does where a GET shows another."""
        bucket, key = bucket_and_key(uri)
        try:
            found = self._client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1).get("Contents", ())
        except ClientError:  # who may read an object need not be allowed to list
            return False
        return any(item["Key"] == key and etag_in(item) == etag for item in found)

    def _get(self, uri: str, **conditions: str) -> Answer | None:
        bucket, key = bucket_and_key(uri)
        try:
            return self._client.get_object(Bucket=bucket, Key=key, **conditions) if key else None
        except ClientError as error:
            if code_of(error) in CHANGED:
                raise DamagedObjectError(f"{uri} was replaced while it was read.") from error
            if code_of(error) not in NO_OBJECT:
                raise
            return None

    def _write_body(self, uri: str, answer: Answer, writer: HashingWriter, promise: Promise | None) -> None:
        """Copy the body of a GET; where it breaks off, ask for the rest. boto3 retries requests but not bodies."""
        size, body, drops = answer["ContentLength"], answer["Body"], 0
        pulse = Pulse(self._moved)
        while True:
            start = writer.size
            try:
                for chunk in body.iter_chunks(_READ_BYTES):
                    writer.write(chunk)
                    if promise is not None:
                        promise.hash.update(chunk)
                    pulse.count(len(chunk))
                return
            except FlexibleChecksumError as error:
                raise DamagedObjectError(f"{uri} arrived with another checksum than the store's.") from error
            except (BotoCoreError, urllib3.exceptions.HTTPError):
                drops = 1 if writer.size > start else drops + 1
                if writer.size >= size:
                    return
                if drops >= self._settings.attempts:
                    raise
            finally:
                body.close()
            time.sleep(0.1 * 2**drops)
            rest = self._get(uri, Range=f"bytes={writer.size}-", IfMatch=answer["ETag"])
            if rest is None:
                raise DamagedObjectError(f"{uri} was removed while it was read.")
            body = rest["Body"]


def _stored_sha256(answer: Answer) -> str | None:
    """The digest that an object's metadata holds; other programs may keep something else under that name."""
    value = answer["Metadata"].get(SHA256_KEY, "")
    return value if re.fullmatch(r"[0-9a-f]{64}", value) else None
