"""The parts of an `s3://` URI. Pure."""

from job.errors import ExitCode, JobError


def bucket_and_key(uri: str) -> tuple[str, str]:
    """The parts of `s3://bucket/key`; the key is empty for the bucket itself. 40 when there is no bucket."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise JobError(ExitCode.MANIFEST, f"{uri!r} names no bucket.", "Write s3://bucket/prefix.")
    return bucket, key
