"""The settings of an S3 store, and the variables of the environment that hold them."""

from collections.abc import Mapping
from dataclasses import dataclass

from job.storage.base import StorageSettings


@dataclass(frozen=True)
class S3Settings(StorageSettings):
    """The manifest's settings, and limits that suit real stores. Without an endpoint it is AWS, or AWS_ENDPOINT_URL."""

    connect_timeout_seconds: float = 10
    read_timeout_seconds: float = 60  # without a single byte
    attempts: int = 5  # how often a request is sent, or a download continued that brings no further byte
    part_bytes: int = 8 * 2**20  # larger files are uploaded in parts of this size


def with_limits(settings: StorageSettings) -> S3Settings:
    """The settings with limits: their own if they have any, else the usual ones."""
    if isinstance(settings, S3Settings):
        return settings
    return S3Settings(settings.endpoint_url, settings.region, settings.addressing_style)


def from_environment(environ: Mapping[str, str]) -> S3Settings:
    """Settings from AWS's own variables. Few other stores give buckets host names, so there they stand in the path."""
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    return S3Settings(endpoint_url=endpoint, addressing_style="path" if endpoint else "auto")


def to_environment(settings: StorageSettings) -> dict[str, str]:
    """The variables from which the AWS chain and `from_environment` read the endpoint and the region."""
    found = {"AWS_ENDPOINT_URL_S3": settings.endpoint_url, "AWS_REGION": settings.region}
    return {name: value for name, value in found.items() if value is not None}
