"""Finds, without a request, what no store can be reached with: an endpoint that is none, variables that are damaged."""

import configparser
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed lacks it

from job.errors import ExitCode, JobError
from job.storage.base import StorageSettings
from lora_engine.text import printable

AN_ENDPOINT = "http:// or https://, a host, and where it needs one a port: https://host:port"
A_REGION = "letters, digits and hyphens, such as us-east-1"
_AWS_ENDPOINT = "https://s3.amazonaws.com"
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # the first goes before the second
_KEY_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_CONFIG_FILES = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")  # the first goes before the second
_PROFILES = ("AWS_DEFAULT_PROFILE", "AWS_PROFILE")  # the first goes before the second
_BUNDLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
_TOKEN_FILES = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")


def check_settings(settings: StorageSettings, environ: Mapping[str, str]) -> None:
    """Refuse settings and variables with which no request can ever succeed.

    Raises:
        JobError: 40 for a key of the manifest, 42 for a variable; the message names it and shows no secret.
    """
    variable = next((name for name in ENDPOINT_VARIABLES if environ.get(name)), None)
    endpoint = settings.endpoint_url or (environ[variable] if variable else None)
    from_variable = variable is not None and environ[variable] == endpoint
    if endpoint is not None and (problem := endpoint_problem(endpoint)) is not None:
        raise JobError(
            ExitCode.STORAGE_ACCESS if from_variable else ExitCode.MANIFEST,
            f"{variable if from_variable else 'storage.endpoint_url'} {problem}.",
            f"Write it as {AN_ENDPOINT}.",
        )
    _check_keys(environ)
    _check_region(settings, environ)
    _check_proxy(endpoint or _AWS_ENDPOINT, environ)
    _check_files(environ, bundles=not (endpoint or "").startswith("http:"))


def endpoint_problem(url: str) -> str | None:
    """Why the URL is no endpoint of a store, in words that follow its name; None where it is one."""
    if (problem := _address_problem(url)) is not None:
        return problem
    parts = urlsplit(url)
    if parts.path.strip("/"):
        return "has a path; a bucket stands in s3://bucket/..., and nothing else may follow the host"
    return "has a query or a fragment" if parts.query or parts.fragment or url[-1] in "?#" else None


def is_region(name: str) -> bool:
    """Whether a region may have that name, which becomes a part of the store's address."""
    return bool(re.fullmatch(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)", name)) and not name.isdigit()


def file_variable(path: object, environ: Mapping[str, str]) -> str | None:
    """The variable that names the file; None where none does, or an error names no file."""
    names = (*_TOKEN_FILES, *_BUNDLES, *_CONFIG_FILES)
    return next((name for name in names if path is not None and environ.get(name) == path), None)


def variable_of(value: object, environ: Mapping[str, str]) -> str | None:
    """The variable of AWS's, but no secret, that has the value which is refused; None where none has."""
    names = sorted(name for name in environ if name.startswith("AWS_") and name not in _KEY_VARIABLES)
    return next((name for name in names if value and environ[name] == value), None)


def region_in(environ: Mapping[str, str]) -> str | None:
    """The region that the variables name; None where they name none. boto3 itself reads only the second of them."""
    return next((environ[name] for name in _REGIONS if environ.get(name)), None)


def _address_problem(url: str) -> str | None:
    """Why the URL does not begin with http:// or https://, a host and a port that can be; None where it does."""
    try:
        parts = urlsplit(url)
        is_address = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # the port is no number, or a bracket is left open
        return "is not a URL"
    if parts.scheme not in ("http", "https") and "://" in url:
        return f"is of the scheme {parts.scheme}, which is not spoken here"
    return (
        None if parts.scheme in ("http", "https") and is_address and not re.search(r"[^!-~]", url) else "is not a URL"
    )


def _check_proxy(endpoint: str, environ: Mapping[str, str]) -> None:
    """Refuse the proxy for the endpoint where its address is none."""
    parts = urlsplit(endpoint)
    names = (f"{parts.scheme}_proxy", f"{parts.scheme.upper()}_PROXY")
    name = next((name for name in names if environ.get(name)), None)
    if name is None:
        return
    passed_by = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if proxy_bypass_environment(parts.hostname or "", {"no": passed_by}):
        return
    url = environ[name].rstrip("\r\n")
    if problem := _address_problem(url if "://" in url else f"http://{url}"):
        raise JobError(
            ExitCode.STORAGE_ACCESS,
            f"{name} {problem}.",
            f"Write it as http://host:port, or name the store's host in NO_PROXY, or unset {name}.",
        )


def _check_region(settings: StorageSettings, environ: Mapping[str, str]) -> None:
    """Refuse a region whose name cannot stand in a host's."""
    variable = next((name for name in _REGIONS if environ.get(name)), _REGIONS[1])
    region = environ.get(variable) if settings.region is None else settings.region
    if region is not None and not is_region(region):
        raise JobError(
            ExitCode.STORAGE_ACCESS if settings.region is None else ExitCode.MANIFEST,
            f"{variable if settings.region is None else 'storage.region'} is {printable(region)!r}, which is the name "
            "of no region.",
            f"Let it be {A_REGION}, or leave it out.",
        )


def _check_keys(environ: Mapping[str, str]) -> None:
    for name in _KEY_VARIABLES:
        if re.search(r"[^!-~]", environ.get(name, "")):
            raise JobError(
                ExitCode.STORAGE_ACCESS,
                f"{name} holds a line break, a blank, or another character that no key has.",
                "Set it anew; `echo -n`, or `tr -d '\\n'`, leaves out the line break at the end of a secret.",
            )


def _check_files(environ: Mapping[str, str], *, bundles: bool) -> None:
    names = [*_BUNDLES] if bundles else []
    if not environ.get("AWS_ACCESS_KEY_ID"):  # else nobody asks for credentials with a token
        names += _TOKEN_FILES
    for name in names:
        place = environ.get(name)
        if place and not Path(place).exists():
            raise JobError(
                ExitCode.STORAGE_ACCESS, f"{name}: there is nothing at {place}.", f"Correct or unset {name}."
            )
    paths = {name: Path(environ.get(name) or usual).expanduser() for name, usual in _CONFIG_FILES.items()}
    config, credentials = (_sections(path, name) for name, path in paths.items())
    profiles = {"default", *credentials, *(words[1] for words in map(_words, config) if words[:1] == ["profile"])}
    asking = next((name for name in _PROFILES if environ.get(name)), None)
    if asking and environ[asking] not in profiles:
        files = " nor ".join(map(str, paths.values()))
        raise JobError(
            ExitCode.STORAGE_ACCESS,
            f"{asking} names the profile {environ[asking]!r}, which neither {files} has.",
            f"Correct or unset {asking}, or bring the files to where the job runs.",
        )


def _sections(path: Path, name: str) -> list[str]:
    """The sections of one of AWS's files; none where it is not there, or this user may not read it.

    Args:
        name: the variable that can name the file.
    """
    parser = configparser.RawConfigParser()
    try:
        if path.is_file():
            parser.read(path)
    except (configparser.Error, UnicodeDecodeError) as error:
        raise JobError(
            ExitCode.STORAGE_ACCESS,
            f"{name}: {path} is no configuration of AWS ({type(error).__name__}).",
            "Correct the file: [sections] of lines like `key = value`.",
        ) from error
    except OSError:
        return []
    return parser.sections()


def _words(section: str) -> list[str]:
    """The kind of a section and its name, as in `[profile "my own"]`; none where it has no such two."""
    try:
        words = shlex.split(section)
    except ValueError:  # a quote is left open
        return []
    return words if len(words) == 2 else []
