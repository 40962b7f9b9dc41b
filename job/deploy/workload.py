"""The study as containers run it: how the manifest gets in, and whether it works there. Pure."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from job.errors import ExitCode, JobError
from job.manifest.packs import packs_of
from job.manifest.problems import ManifestError, Problem
from job.manifest.schema import Manifest
from job.manifest.yaml_reader import write_yaml
from job.storage.backends import backend_of
from job.storage.uris import is_remote, local_path, scheme_of

_GRACE_SLACK_SECONDS = 30  # for the process to be told, and to end once its own time is over
_DEADLINE_SLACK_SECONDS = 3600  # to wait for a machine and to pull the image; the job itself keeps to its limit


@dataclass(frozen=True)
class Workload:
    """A study and how containers get its manifest.

    Args:
        uri: where the containers read the manifest; None where it stands in the document itself.
        sets: the overrides that are in `manifest` but not in the file at `uri`.
    """

    manifest: Manifest
    uri: str | None = None
    sets: tuple[str, ...] = ()

    @property
    def machines(self) -> int:
        """Containers that share the run: one, or one a pack if the manifest splits packs."""
        return len(packs_of(self.manifest)) if self.manifest.split_packs_by else 1

    @property
    def deadline_seconds(self) -> int | None:
        """Seconds after which the platform ends a job that overran `limits.max_hours`; None where that is not set."""
        hours = self.manifest.limits.max_hours
        return None if hours is None else math.ceil(hours * 3600) + _DEADLINE_SLACK_SECONDS

    @property
    def grace_seconds(self) -> int:
        """Seconds that the platform waits after SIGTERM before it kills: more than `limits.stop_seconds`."""
        return math.ceil(self.manifest.limits.stop_seconds) + _GRACE_SLACK_SECONDS

    def arguments(self, place: str | None = None) -> list[str]:
        """The arguments of `lora-job` in a container.

        Args:
            place: the path of a manifest that has no URI; None where it is in `LORA_JOB_MANIFEST`.
        """
        if self.uri is None:
            return ["run"] if place is None else ["run", place]
        return ["run", self.uri, *(argument for option in self.sets for argument in ("--set", option))]

    def variables(self) -> dict[str, str]:
        """Variables of the environment that say how to reach the store in which a manifest with a URI lies."""
        return {} if self.uri is None else backend_of(self.uri).variables(self.manifest.model_storage())

    def yaml(self) -> str:
        """The manifest with its overrides as YAML, with only the keys that were set."""
        return write_yaml(_written(self.manifest))

    def json(self) -> str:
        """The same as JSON in one line, for variables of environments that keep no line breaks."""
        return json.dumps(_written(self.manifest), ensure_ascii=False)


def check_size(what: str, size: int, largest: int) -> None:
    """Make sure that a part of a document is not too large for the platform.

    Args:
        size: bytes that it has.
        largest: bytes that it may have.

    Raises:
        JobError: 40, it is larger.
    """
    if size > largest:
        cause = f"{what} would have {size} bytes with this manifest; at most {largest} are taken."
        raise JobError(
            ExitCode.MANIFEST, cause, "Upload the manifest, and render it from there: s3://bucket/name.yaml."
        )


def check_gpus(manifest: Manifest, gpus: int) -> None:
    """Make sure that containers have a GPU where the manifest asks for one, and none that it leaves alone.

    Raises:
        JobError: 2, `--gpus` and the manifest's `device` contradict each other.
    """
    if manifest.device == "cuda" and not gpus:
        raise JobError(ExitCode.USAGE, "device is cuda, but --gpus is 0.", "Give --gpus 1, or --set device=auto.")
    if manifest.device == "cpu" and gpus:
        cause = f"device is cpu, but --gpus is {gpus}, which would stand idle."
        raise JobError(ExitCode.USAGE, cause, "Give --gpus 0, or --set device=auto.")


def _written(manifest: Manifest) -> dict[str, object]:
    return manifest.model_dump(mode="json", exclude_unset=True)


def check_containable(workload: Workload, origin: str) -> None:
    """Make sure that containers find what the manifest names and keep what they make.

    Raises:
        ManifestError: 40, some keys cannot work there; the error names every one.
    """
    problems = [Problem(origin, None, key, found, allowed) for key, found, allowed in _uncontainable(workload.manifest)]
    if workload.machines > 1 and workload.manifest.output.unfenced:
        allowed = (
            "false, on a store with conditional writes, or one machine: no --per-variant, --per-seed, split_packs_by"
        )
        problems.append(Problem(origin, None, "output.unfenced", "true, for several machines", allowed))
    if problems:
        raise ManifestError(problems)


def _uncontainable(manifest: Manifest) -> Iterator[tuple[str, str, str]]:
    """Each key that cannot work in a container, with what was found and what is allowed."""
    for key, uri in _places(manifest):
        scheme = scheme_of(uri)
        if key == "output.destination" and not is_remote(uri):
            yield key, f"{uri!r}, which goes when the container goes", "s3://bucket/prefix"
        elif scheme == "file" and not local_path(uri).is_absolute():
            yield key, f"the relative path {uri!r}", "s3://..., or an absolute path in the image or of a mount"
    for key, storage in (
        ("storage", manifest.storage),
        ("dataset.storage", manifest.dataset.storage),
        ("output.storage", manifest.output.storage),
    ):
        host = urlsplit(storage.endpoint_url).hostname if storage is not None and storage.endpoint_url else None
        if host is not None and re.fullmatch(r"localhost|127\..*|::1", host):
            yield f"{key}.endpoint_url", f"{host}, which is the container itself", "an address that containers reach"


def _places(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The keys of all places that the study reads or writes, with their URIs."""
    for model in manifest.models():
        yield model.key, model.source
    yield "dataset.source", manifest.dataset.source
    yield "output.destination", manifest.output.destination
    if manifest.output.cache is not None:
        yield "output.cache", manifest.output.cache
