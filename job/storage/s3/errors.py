"""Says an S3 store's refusals to a person. Only codes and names are shown, never the store's own text."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import urllib3.exceptions
from botocore import exceptions as boto

from job.errors import ExitCode, JobError
from job.storage.base import UnsupportedError
from lora_engine.system.limits import limit_hit

# Codes of a store's answer, by what they mean.
NO_OBJECT = {"NoSuchKey", "404"}
CHANGED = {"PreconditionFailed", "412"}  # the object is not the one that the request was for
PASSING = {  # the same request, sent again, may well succeed
    "BadDigest",  # the body arrived damaged
    "XAmzContentSHA256Mismatch",
    "IncompleteBody",
    "ConditionalRequestConflict",  # another writer changed the object at the same moment
    "OperationAborted",
}

_REMEDIES = {
    "NoSuchBucket": "Create the bucket or correct its name, storage.region and storage.endpoint_url.",
    "InvalidAccessKeyId": "Give this store's key in AWS_ACCESS_KEY_ID, and check storage.endpoint_url.",
    "SignatureDoesNotMatch": "Check AWS_SECRET_ACCESS_KEY, storage.region and storage.endpoint_url.",
    "ExpiredToken": "Renew the credentials; a role that the platform provides renews itself.",
    "InvalidToken": "Check AWS_SESSION_TOKEN; unset it where the key is a permanent one.",
    "RequestTimeTooSkewed": "Set this machine's clock.",
    "PermanentRedirect": "Set storage.region to the bucket's region.",
    "AuthorizationHeaderMalformed": "Set storage.region to the bucket's region.",
}
# Other names of the same refusals.
_SAME = {"ExpiredTokenException": "ExpiredToken", "TokenRefreshRequired": "ExpiredToken", "301": "PermanentRedirect"}
_DENIED = (
    "Allow these credentials {action} there; s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket are needed."
)
_RETRY = "Check the network, storage.endpoint_url and the store, then start the job again: it goes on where it was."
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
    boto.TokenRetrievalError,
    boto.SSOError,
)
_BAD_NAME = (boto.ParamValidationError, boto.InvalidRegionError)


@contextmanager
def s3_errors(uri: str, endpoint: str) -> Iterator[None]:
    """Turn what boto3 raises about `uri` at `endpoint` into a JobError."""
    try:
        yield
    except boto.ClientError as error:
        raise _refused(error, f"{uri} at {endpoint}") from error
    except (boto.BotoCoreError, urllib3.exceptions.HTTPError) as error:
        raise _failed(error, f"{uri} at {endpoint}") from error


def code_of(error: boto.ClientError) -> str:
    """The store's name for what went wrong, or the HTTP status where the answer has no body."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: boto.ClientError) -> int:
    """The HTTP status; 0 where there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def public_endpoint(url: str) -> str:
    """The endpoint without the user and password that a URL may hold."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _refused(error: boto.ClientError, where: str) -> JobError:
    """The error for a request that the store has answered, but not granted."""
    code = code_of(error)
    status = status_of(error)
    cause = f"The store refused {error.operation_name} of {where}: {code or status}."
    remedy = _REMEDIES.get(_SAME.get(code, code))
    if remedy is not None:
        return JobError(ExitCode.STORAGE_ACCESS, cause, remedy)
    if status in {401, 403}:
        return JobError(ExitCode.STORAGE_ACCESS, cause, _DENIED.format(action=error.operation_name))
    if code == "NotImplemented":
        return UnsupportedError(ExitCode.STORAGE_ACCESS, cause, "Use a store that knows this request of S3's.")
    if status in {408, 429} or code in PASSING or not 400 <= status < 500:
        return JobError(ExitCode.STORAGE_RETRIES, cause, _RETRY)
    return JobError(ExitCode.STORAGE_ACCESS, cause, "Correct the URI, the storage settings or the credentials.")


def _failed(error: Exception, where: str) -> JobError:
    """The error for a request that was not sent, or not answered."""
    kind = type(error).__name__
    if (limit := limit_hit(error)) is not None:
        return JobError(ExitCode.RESOURCES, *limit)
    if isinstance(error, _NO_CREDENTIALS):
        return JobError(
            ExitCode.STORAGE_ACCESS,
            f"There are no usable credentials for {where}: {kind}.",
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run under a role that may use the bucket.",
        )
    if isinstance(error, _BAD_NAME):
        return JobError(
            ExitCode.MANIFEST, f"{where} cannot be an object: {kind}.", "Correct the URI and storage.region."
        )
    if isinstance(error, boto.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return JobError(
            ExitCode.STORAGE_ACCESS,
            f"The certificate of the store is not trusted: {where}.",
            "Name the authority's certificates in AWS_CA_BUNDLE, or correct storage.endpoint_url.",
        )
    return JobError(ExitCode.STORAGE_RETRIES, f"The store cannot be reached or broke off: {where}: {kind}.", _RETRY)
