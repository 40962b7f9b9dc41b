"""The trackers that a run may be followed with beside its own files: what each is called, and its few options."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from lora_engine.config.base import Config

TrackerName = Literal["tensorboard", "wandb", "mlflow"]

# Both are parts of URLs, and MLflow's searches quote the name.
_Group = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")]


class TensorBoardConfig(Config):
    """Event files in the run's folder, which TensorBoard reads."""

    name: Literal["tensorboard"] = "tensorboard"


class WandbConfig(Config):
    """Weights & Biases. The key and the address come from the environment: WANDB_API_KEY, WANDB_BASE_URL."""

    name: Literal["wandb"] = "wandb"
    project: _Group = Field(default="lora-job", description="Of Weights & Biases.")
    entity: _Group | None = Field(default=None, description="The user or team; default: that of the key.")


class MlflowConfig(Config):
    """MLflow. The server and the token come from the environment: MLFLOW_TRACKING_URI, MLFLOW_TRACKING_TOKEN."""

    name: Literal["mlflow"] = "mlflow"
    experiment: _Group = Field(default="lora-job", description="Of MLflow.")


TrackerConfig = Annotated[TensorBoardConfig | WandbConfig | MlflowConfig, Field(discriminator="name")]


def with_defaults(trackers: Sequence[TrackerName | TrackerConfig]) -> tuple[TrackerConfig, ...]:
    """The settings of each tracker; of one that is only named, the defaults."""
    made = {"tensorboard": TensorBoardConfig, "wandb": WandbConfig, "mlflow": MlflowConfig}
    return tuple(made[tracker]() if isinstance(tracker, str) else tracker for tracker in trackers)


def _each_once(trackers: tuple[TrackerName | TrackerConfig, ...]) -> tuple[TrackerName | TrackerConfig, ...]:
    names = [tracker.name for tracker in with_defaults(trackers)]
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"each tracker once; {double} stands there twice")
    return trackers


Trackers = Annotated[tuple[TrackerName | TrackerConfig, ...], AfterValidator(_each_once)]
