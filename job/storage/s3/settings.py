"""How to reach an S3 store. Credentials never stand here: they come from the AWS chain."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class S3Settings:
    """What the manifest says, and limits that suit real stores."""

    endpoint_url: str | None = None  # None is AWS, or what AWS_ENDPOINT_URL names
    region: str | None = None  # None is what the AWS chain names
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    connect_timeout_seconds: float = 10
    read_timeout_seconds: float = 60  # of silence
    attempts: int = 5  # at a request, and at a download that breaks off without having moved on
    part_bytes: int = 8 * 2**20  # larger files are uploaded in parts of this size
