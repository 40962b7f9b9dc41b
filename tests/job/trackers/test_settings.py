"""`trackers` in a manifest."""

import pytest

from job.errors import JobError
from job.manifest.load import load_manifest
from job.manifest.schema import Manifest
from job.manifest.trackers import MlflowConfig, TensorBoardConfig, WandbConfig, with_defaults
from job.run.identity import identity
from tests.job.small_run import PLAIN


def manifest(trackers: str) -> Manifest:
    return load_manifest(f"{PLAIN}trackers: {trackers}\n", "m.yaml")


def test_a_name_is_a_tracker_with_its_defaults() -> None:
    found = with_defaults(manifest("[tensorboard, {name: wandb, project: tattoos}, mlflow]").trackers)
    assert found == (TensorBoardConfig(), WandbConfig(project="tattoos"), MlflowConfig())
    assert load_manifest(PLAIN, "m.yaml").trackers == ()


@pytest.mark.parametrize(
    ("trackers", "said"),
    [
        ("[tensorbord]", "tensorboard"),
        ("[{name: comet}]", "tensorboard, wandb, mlflow"),
        ("[wandb, {name: wandb, project: b}]", "each tracker once; wandb stands there twice"),
        (
            "[{name: wandb, experiment: b}]",
            "an unknown key; allowed: entity, name, project. It is a key of name: mlflow",
        ),
        ("[{name: mlflow, projct: b}]", "an unknown key; allowed: experiment, name"),
        ('[{name: mlflow, experiment: "a\'b"}]', "text like"),
        ("tensorboard", "a list"),
    ],
)
def test_what_is_no_tracker_is_refused(trackers: str, said: str) -> None:
    with pytest.raises(JobError) as caught:
        manifest(trackers)
    assert caught.value.code == 40
    assert "trackers" in str(caught.value)
    assert said in str(caught.value)


def test_trackers_are_no_part_of_what_a_run_is() -> None:
    with_one, without = (
        identity(each, data_sha256="d", models={"base": "b"})
        for each in (manifest("[tensorboard]"), load_manifest(PLAIN, "m.yaml"))
    )
    assert with_one == without
