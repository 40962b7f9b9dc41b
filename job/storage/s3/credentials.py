"""Tells a provider of credentials that is busy from one that has none. Providers are asked by boto3, in its order."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import urllib3
from botocore import exceptions as boto

from job.errors import ExitCode, JobError
from job.storage.s3.environment import file_variable
from lora_engine.system.limits import limit_hit

_IMDS = "http://169.254.169.254"
_IMDS_SECONDS = 1.0  # to wait for an answer: elsewhere than on EC2 nobody has that address
_INSTANCE = "the instance's metadata service"
# What says where credentials come from, beside the keys themselves.
_ASKED = (
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ENDPOINT_URL_STS",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_METADATA_SERVICE_TIMEOUT",
    "AWS_METADATA_SERVICE_NUM_ATTEMPTS",
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
)
_PROVIDERS = {
    "container-role": "the agent at AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "iam-role": _INSTANCE,
    "assume-role": "AWS STS",
    "assume-role-with-web-identity": "AWS STS",
    "custom-process": "the credential_process of AWS_CONFIG_FILE",
    "env": "the environment",
    "sso": "AWS IAM Identity Center",
}


def provider_of(error: Exception, environ: Mapping[str, str]) -> str:
    """The provider that boto3's exception is about, for a sentence; empty where all were asked and none has any."""
    name = str(getattr(error, "kwargs", {}).get("provider", ""))
    if name == "container-role" and "AWS_CONTAINER_CREDENTIALS_FULL_URI" not in environ:
        return "the agent at AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
    if isinstance(error, boto.NoCredentialsError) and _is_imds_busy(environ):  # boto3 only logs what that one answers
        return _INSTANCE
    return _PROVIDERS.get(name, name)


@contextmanager
def readable_settings() -> Iterator[None]:
    """Say which settings cannot be used where boto3 fails on what they name or give, in whatever way it does.

    An agent whose answer lacks the keys is a KeyError, a program that is not there an OSError, and a role whose name
    is too short is said to be no parameter of a request.

    Raises:
        JobError: 42.
    """
    try:
        yield
    except boto.ParamValidationError as error:
        raise _unusable(error) from error
    except boto.HTTPClientError as error:
        if isinstance(error.kwargs.get("error"), (ValueError, TypeError)):  # the address is none
            raise _unusable(error) from error
        raise
    except boto.BotoCoreError:  # some are ValueErrors, too
        raise
    except OSError as error:
        if limit_hit(error) is not None or file_variable(error.filename, os.environ) is not None:
            raise
        raise _unusable(error) from error
    except (AttributeError, EOFError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if limit_hit(error) is not None:
            raise
        raise _unusable(error) from error


def _unusable(error: Exception) -> JobError:
    names = " and ".join(name for name in _ASKED if os.environ.get(name)) or "~/.aws/config"
    if isinstance(error, RuntimeError) and "expired" in str(error):
        return JobError(
            ExitCode.STORAGE_ACCESS,
            f"The credentials have expired already that come by {names}.",
            "Set this machine's clock, and see that they are renewed.",
        )
    return JobError(
        ExitCode.STORAGE_ACCESS,
        f"What stands in {names}, or is given where that leads, cannot be used: {type(error).__name__}.",
        "Correct it, or unset what is not needed.",
    )


def is_busy(error: Exception, environ: Mapping[str, str]) -> bool:
    """Whether a provider is there and may answer the next time it is asked."""
    if isinstance(error, boto.NoCredentialsError):
        return provider_of(error, environ) == _INSTANCE
    if not isinstance(error, boto.CredentialRetrievalError) or error.kwargs.get("provider") == "custom-process":
        return False
    said = str(error.kwargs.get("error_msg", ""))
    status = re.search(r"non 200 response (\d{3})", said)
    if status is not None:
        return status[1] in {"408", "429"} or status[1].startswith("5")
    return "Received error when attempting to retrieve" in said or "refresh failed" in said


def _is_imds_busy(environ: Mapping[str, str]) -> bool:
    """Whether the metadata service of the instance answers, but with an error of its own."""
    if environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return False
    url = environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or _IMDS
    try:
        answer = urllib3.PoolManager().request(
            "PUT",
            f"{url.rstrip('/')}/latest/api/token",
            headers={"x-aws-ec2-metadata-token-ttl-seconds": "60"},
            timeout=_IMDS_SECONDS,
            retries=False,
        )
    except (urllib3.exceptions.HTTPError, ValueError):
        return False
    return answer.status == 429 or answer.status >= 500
