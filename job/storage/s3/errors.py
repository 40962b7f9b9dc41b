"""Says to a person what an S3 store refuses, and why others cannot be asked. Only names are shown, no other's text."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import urllib3.exceptions
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from job.errors import ExitCode, JobError
from job.storage.base import UnreachableError, UnsupportedError
from job.storage.s3.codes import PROXY_USER, is_passing, refusal_of
from job.storage.s3.credentials import is_busy, provider_of
from job.storage.s3.environment import ENDPOINT_VARIABLES, file_variable, variable_of
from lora_engine.system.limits import limit_hit

_RETRY = "Check the network, storage.endpoint_url and the store, then start the job again: it goes on where it was."
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.LoginError,
)
# A request was not sent, not answered, or its answer not understood, as may be otherwise the next time. All other
# exceptions of botocore's own are about settings.
_PASSING = (
    boto.ConnectionError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
    boto.MetadataRetrievalError,
    boto.CapacityNotAvailableError,
    boto.ChecksumError,
    boto.FlexibleChecksumError,
    ResponseParserError,
    urllib3.exceptions.HTTPError,
)
_BAD_NAME = (
    boto.BaseEndpointResolverError,
    boto.EndpointProviderError,
    boto.InvalidDNSNameError,
    boto.InvalidHostLabelError,
    boto.ParamValidationError,
    boto.UnsupportedS3ArnError,
    boto.UnsupportedS3ConfigurationError,
    boto.ValidationError,
)
# What OpenSSL says where the other side speaks no TLS.
_NO_TLS = re.compile("WRONG_VERSION_NUMBER|HTTP_REQUEST|PACKET_LENGTH_TOO_LONG|RECORD_LAYER_FAILURE|UNKNOWN_PROTOCOL")
_BAD_BUNDLE = re.compile(r"NO_CERTIFICATE|No such file|PEM lib|X509")


@contextmanager
def s3_errors(uri: str, endpoint: str) -> Iterator[None]:
    """Turn what boto3 raises about `uri` at `endpoint` into a JobError, an UnreachableError where it may soon pass."""
    where = f"{uri} at {endpoint}"
    try:
        yield
    except boto.ClientError as error:
        raise _refused(error, where) from error
    except (boto.BotoCoreError, urllib3.exceptions.HTTPError, ResponseParserError) as error:
        raise _failed(error, where) from error
    except OSError as error:
        name = file_variable(error.filename, os.environ)
        if name is None:  # it is about a local file
            raise
        raise _unset(f"The file {error.filename} cannot be read: {error.strerror}", name) from error


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


def no_store(where: str) -> JobError:
    """The error for an answer that no S3 store gives."""
    name = endpoint_name()
    return JobError(
        ExitCode.STORAGE_ACCESS,
        f"What answers is no S3 store: {where}.",
        f"Correct {name}; it may be a store's console, or another server.",
    )


def endpoint_name() -> str:
    """Where the endpoint may be said: the manifest's key, and the variable that is set."""
    names = [name for name in ENDPOINT_VARIABLES if os.environ.get(name)]
    return " or ".join(["storage.endpoint_url", *names[:1]])


def _refused(error: boto.ClientError, where: str) -> JobError:
    """The error for a request that a service has answered, but not granted."""
    status, operation = status_of(error), error.operation_name
    code = code_of(error) or str(status)  # a web page has none
    refusal = refusal_of(operation, code, status, str(error.response.get("Error", {}).get("Message", "")))
    wanted = f", which wants {refusal.wanted}" if refusal.wanted else ""
    cause = f"{refusal.service} refused {operation} of {where}: {code}{wanted}."
    if refusal.passes:
        return UnreachableError(ExitCode.STORAGE_RETRIES, cause, _RETRY)
    if code == "NotImplemented":
        return UnsupportedError(ExitCode.STORAGE_ACCESS, cause, "Use a store that knows this request of S3's.")
    remedy = refusal.remedy or "Correct the URI, the storage settings or the credentials."
    return JobError(ExitCode.STORAGE_ACCESS, cause, remedy)


def _failed(error: Exception, where: str) -> JobError:
    """The error for a request that was not sent, or not answered."""
    kind = type(error).__name__
    if (limit := limit_hit(error)) is not None:
        return JobError(ExitCode.RESOURCES, *limit)
    if isinstance(error, _NO_CREDENTIALS):
        return _no_credentials(error, where)
    if isinstance(error, boto.SSLError) and (certain := _bad_tls(str(error), where)) is not None:
        return certain
    if isinstance(error, boto.PaginationError):
        return no_store("its listing comes back to where it was")
    if type(error) is boto.HTTPClientError and isinstance(
        getattr(error, "kwargs", {}).get("error"), (ValueError, TypeError)
    ):
        return JobError(
            ExitCode.STORAGE_ACCESS,
            f"The request for {where} cannot be sent: a key or token holds a character that no header may have.",
            "Set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the credentials' file, anew.",
        )
    if isinstance(error, boto.ProxyConnectionError):
        return _of_proxy(error, where)
    if isinstance(error, _PASSING):
        cause = f"The store cannot be reached or broke off: {where}: {kind}{_elsewhere(error, where)}."
        return UnreachableError(ExitCode.STORAGE_RETRIES, cause, _RETRY)
    if isinstance(error, _BAD_NAME):
        return JobError(
            ExitCode.MANIFEST,
            f"{where} cannot be an object: {kind}.",
            f"Correct the URI, storage.region and {endpoint_name()}.",
        )
    return _unset(f"The settings for {where} are wrong: {kind}", _setting_of(error))


def _of_proxy(error: Exception, where: str) -> JobError:
    """The error for a proxy that is not reached, or does not let through; by its status where it answers."""
    found = re.search(r"Tunnel connection failed: (\d{3})", str(getattr(error, "kwargs", {}).get("error")))
    if found and not is_passing(found[1], int(found[1])):
        cause = f"The proxy before {where} does not let through: {found[1]}."
        remedy = "Have it let through, or name the store's host in NO_PROXY."
        return JobError(ExitCode.STORAGE_ACCESS, cause, PROXY_USER if found[1] == "407" else remedy)
    remedy = "Check HTTP_PROXY, HTTPS_PROXY and NO_PROXY, then start the job again: it goes on where it was."
    cause = f"The proxy before {where} cannot be reached: {type(error).__name__}."
    return UnreachableError(ExitCode.STORAGE_RETRIES, cause, remedy)


def _elsewhere(error: Exception, where: str) -> str:
    """The address that did not answer, where that is not the store's own: STS gives credentials, for one."""
    url = getattr(error, "kwargs", {}).get("endpoint_url")
    asked = public_endpoint(url) if isinstance(url, str) else ""
    return f" of {asked}" if asked and not where.endswith(asked) else ""


def _no_credentials(error: Exception, where: str) -> JobError:
    kind, provider = type(error).__name__, provider_of(error, os.environ)
    if is_busy(error, os.environ):
        cause = f"There are no credentials for {where} just now: {provider} answers with an error of its own, or not."
        return UnreachableError(ExitCode.STORAGE_RETRIES, cause, "Start the job again, or see what that provider logs.")
    return JobError(
        ExitCode.STORAGE_ACCESS,
        f"There are no usable credentials for {where}: {kind}{f' of {provider}' if provider else ''}.",
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run under a role that may use the bucket.",
    )


def _bad_tls(text: str, where: str) -> JobError | None:
    """The error for a connection that can never be secured, by OpenSSL's words; None where it may only have broken."""
    if _NO_TLS.search(text):
        return JobError(
            ExitCode.STORAGE_ACCESS,
            f"The port of {where} speaks no TLS.",
            f"Write http:// in {endpoint_name()}, or the port that speaks https.",
        )
    if _BAD_BUNDLE.search(text):
        cause = f"The file of trusted certificates for {where} is missing or holds none"
        return _unset(cause, "AWS_CA_BUNDLE")
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return JobError(
            ExitCode.STORAGE_ACCESS,
            f"The certificate of the store is not trusted: {where}.",
            f"Name the authority's certificates in AWS_CA_BUNDLE, or correct {endpoint_name()}.",
        )
    return None


def _setting_of(error: Exception) -> str:
    """The variable that holds what botocore refuses, as far as its exception tells."""
    facts = getattr(error, "kwargs", {})
    if "config_key" in facts:
        return f"AWS_{str(facts['config_key']).upper()}"
    quoted = re.findall(r"""["']([^"']+)["']""", str(facts.get("error_msg", "")))
    named = (variable_of(value, os.environ) for value in (*facts.values(), *quoted))
    return next(filter(None, named), "the AWS_ variables and the files in ~/.aws")


def _unset(cause: str, name: str) -> JobError:
    return JobError(ExitCode.STORAGE_ACCESS, f"{cause}: {name}.", f"Correct or unset {name}.")
