"""MLflow, through accelerate's tracker: one of its runs for each adapter, found again by a tag."""

import base64
import io
from dataclasses import dataclass

import mlflow
from accelerate.tracking import MLflowTracker
from mlflow.entities import ViewType
from PIL import Image

from job.manifest.trackers import MlflowConfig
from job.trackers.messages import Adapter, Kind, Request

_TAG = "lora_job.adapter"  # of a run, which holds the adapter's identity
_VERDICT = "lora_job.verdict"
# A number that every record of the kind has.
_ALWAYS: dict[Kind, str] = {"train": "train/learning_rate", "validation": "validation/loss"}


@dataclass(frozen=True)
class _Run:
    tracker: MLflowTracker
    id: str


class Mlflow:
    """Shows records in MLflow."""

    def __init__(self, config: MlflowConfig) -> None:
        self._config = config
        self._runs: dict[str, _Run] = {}  # by the identity of the adapter

    def take(self, request: Request) -> None:
        """Show the records that it has not had from an earlier attempt. Pictures replace those of the same name."""
        run = self._runs.get(request.of.identity) or self._begin(request.of)
        shown = self._last_step(run, request.kind)
        for record in request.records:
            if record.scalars and record.step > shown:
                run.tracker.log(record.scalars, step=record.step, run_id=run.id)
            for picture in record.pictures:
                image = Image.open(io.BytesIO(base64.b64decode(picture.png)), formats=("PNG",))
                folder, _, name = picture.name.rpartition("/")
                mlflow.MlflowClient().log_image(run.id, image, f"{folder}/step-{record.step:06d}/{name}.png")
            for text in record.texts.values():
                mlflow.MlflowClient().set_tag(run.id, _VERDICT, text)

    def _begin(self, adapter: Adapter) -> _Run:
        """Go on with the run that an earlier attempt began for the adapter, or begin one.

        It is not left to the tracker to begin it: several at a time would each be one within the first, and each would
        say where the job's code lies and at which commit of git.
        """
        client, experiment = mlflow.MlflowClient(), mlflow.get_experiment_by_name(self._config.experiment)
        number = mlflow.create_experiment(self._config.experiment) if experiment is None else experiment.experiment_id
        there = client.search_runs([number], f"tags.`{_TAG}` = '{adapter.identity}'", ViewType.ALL, max_results=1)
        found = there[0] if there else client.create_run(number, tags={_TAG: adapter.identity}, run_name=adapter.path)
        tracker = MLflowTracker(self._config.experiment, run_id=found.info.run_id, nested_run=True)
        tracker.start()
        if not there:  # What is stored of a run before cannot be changed.
            tracker.store_init_configuration(dict(_flat(adapter.settings)))
        run = _Run(tracker, found.info.run_id)
        self._runs[adapter.identity] = run
        return run

    def _last_step(self, run: _Run, kind: Kind) -> int:
        if kind not in _ALWAYS:
            return -1
        history = mlflow.MlflowClient().get_metric_history(run.id, _ALWAYS[kind])
        return max((each.step for each in history), default=-1)

    def finish(self) -> None:
        """Say that the runs have ended."""
        for run in self._runs.values():
            run.tracker.finish()


def _flat(values: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """The values of nested mappings by dotted keys."""
    flat: list[tuple[str, object]] = []
    for key, value in values.items():
        flat += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return flat
