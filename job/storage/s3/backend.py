"""S3 as a kind of storage: how it is opened and tried out. Imports no cloud library until a store is opened."""

import os
from collections.abc import Mapping

from job.errors import ExitCode, JobError
from job.storage.base import Moved, Storage, StorageSettings, UnsupportedError
from job.storage.s3 import settings as s3
from job.storage.s3.environment import check_settings
from job.storage.uris import probe_uri


class S3Backend:
    """AWS S3 and the stores that speak its protocol, some of which ignore the conditions of a request."""

    form = "s3://bucket/prefix"

    def check(self, settings: StorageSettings, environ: Mapping[str, str]) -> None:
        """See whether the endpoint is one, and whether the variables of credentials and files make sense."""
        check_settings(settings, environ)

    def open(self, settings: StorageSettings, moved: Moved) -> Storage:
        """A client of the store. boto3 is imported here, since it takes a while and local runs do without it."""
        check_settings(settings, os.environ)
        from job.storage.s3.store import S3Storage

        return S3Storage(s3.with_limits(settings), moved)

    def settings_in(self, environ: Mapping[str, str]) -> StorageSettings:
        """Settings from AWS's own variables."""
        return s3.from_environment(environ)

    def variables(self, settings: StorageSettings) -> dict[str, str]:
        """AWS's own variables."""
        return s3.to_environment(settings)

    def probe_source(self, storage: Storage, uri: str, key: str, absent: ExitCode) -> None:  # noqa: ARG002 - the port's
        """Look for the object, then for one below it as a folder. 42 where there is none or it may not be read."""
        name = uri.rstrip("/")
        if storage.head(name) is None and next(storage.list(name), None) is None:
            raise JobError(
                ExitCode.STORAGE_ACCESS,
                f"There is nothing at {uri}.",
                "Correct the name, storage.region and storage.endpoint_url, or store the files there.",
            )

    def probe_conditions(self, storage: Storage, folder_uri: str) -> bool:
        """Make writes that the store must refuse and writes that it must not: some stores write in any case."""
        uri = probe_uri(folder_uri)
        try:
            first = storage.write_if(uri, b"first", None)
            if first is None or storage.write_if(uri, b"create again", None) is not None:
                return False
            second = storage.write_if(uri, b"second", first)
            return second is not None and storage.write_if(uri, b"on the first", first) is None
        except UnsupportedError:
            return False
        finally:
            storage.delete(uri)
