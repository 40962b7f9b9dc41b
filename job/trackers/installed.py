"""Whether trackers can show anything: their packages are there, and their servers named. It imports none of them."""

from collections.abc import Iterable, Mapping
from importlib.util import find_spec

from job.manifest.trackers import MlflowConfig, TrackerConfig

_MLFLOW_SERVER = "MLFLOW_TRACKING_URI"


def is_usable(tracker: TrackerConfig, environ: Mapping[str, str]) -> bool:
    """Whether it is worth starting."""
    return _lack(tracker, environ) is None


def lacking(trackers: Iterable[TrackerConfig], environ: Mapping[str, str]) -> list[str]:
    """A sentence for each tracker that lacks its package or its server."""
    lacks = [(tracker.name, _lack(tracker, environ)) for tracker in trackers]
    return [f"trackers: {name} {lack[0]}, so it will show nothing; {lack[1]}" for name, lack in lacks if lack]


def _lack(tracker: TrackerConfig, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """What is wrong and what to do; None where nothing is."""
    spec = find_spec(tracker.name)
    if spec is None or spec.origin is None:  # A folder of its name, such as one that it writes to, has no origin.
        return "is not installed", f"pip install 'lora-job[{tracker.name}]'"
    if isinstance(tracker, MlflowConfig) and not environ.get(_MLFLOW_SERVER):
        return "has no server", f"set {_MLFLOW_SERVER} in the environment"
    return None
