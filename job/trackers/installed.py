"""Whether the packages of trackers are there, which costs no import of them."""

from collections.abc import Iterable
from importlib.util import find_spec

from job.manifest.trackers import TrackerConfig


def is_installed(tracker: TrackerConfig) -> bool:
    """Whether the package is there. A folder of its name, such as one that it writes to, is none."""
    spec = find_spec(tracker.name)
    return spec is not None and spec.origin is not None


def lacking(trackers: Iterable[TrackerConfig]) -> list[str]:
    """A sentence for each tracker whose package is not there."""
    return [
        f"trackers: {tracker.name} is not installed, so it will show nothing; pip install 'lora-job[{tracker.name}]'"
        for tracker in trackers
        if not is_installed(tracker)
    ]
