"""Weights & Biases and MLflow themselves, without a network: their own readers find what the run stored, once."""

import json
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job import layout
from job.layout import Member
from job.storage.folder import RunFolder
from tests.job.small_run import arguments, folder_of, outcome
from tests.job.trackers.reading import MEMBERS, stored
from tests.lora_job import lora_job, start, stop_at

pytestmark = pytest.mark.slow

Points = Counter[tuple[str, int, float]]


def points(run: RunFolder, member: Member) -> Points:
    return Counter((tag, step, value) for (tag, step), value in stored(run, member).items())


def logged(path: Path) -> Iterator[bytes]:
    """The messages in an offline file of Weights & Biases, which has no reader of these in Python.

    A header of 7 bytes, then LevelDB's log (its doc/log_format.md): blocks of 32 KiB, in which each piece of a message
    has its checksum (4 bytes), its length (2), and whether it is all (1), the first (2), or the last (4) of it.
    """
    data, at, message = path.read_bytes(), 7, b""
    while at < len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        size, piece = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        message = (b"" if piece in (1, 2) else message) + data[at + 7 : at + 7 + size]
        at += 7 + size
        if piece in (1, 4):
            yield message


def history(path: Path) -> tuple[str, Points, set[str]]:
    """The name of the run that an offline file of Weights & Biases is of, its points, and the names of its pictures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from wandb.proto.wandb_internal_pb2 import Record

    name, found, pictures = "", Points(), set()
    for data in logged(path):
        record = Record.FromString(data)
        name = record.run.display_name or name
        row = {tuple(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        pictures |= {tag for tag, *inner in row if inner == ["caption"]}
        for kind in ("train", "validation"):
            if (step := row.pop((f"{kind}/step",), None)) is not None:
                for (tag, *_), value in row.items():
                    if tag.startswith(f"{kind}/"):
                        found[tag, step, float(np.float32(value))] += 1
    return name, found, pictures


def environment(folder: Path) -> dict[str, str]:
    return {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder),
        "MLFLOW_TRACKING_URI": f"{folder}/mlflow",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_RUN_ID": "0" * 32,  # Not heard.
        "MLFLOW_EXPERIMENT_NAME": "another",
    }


def mlflow_runs(folder: Path) -> Iterator[tuple[Any, Points, set[str]]]:
    """Each of MLflow's runs, its points, and the names of its artifacts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

    client = MlflowClient(f"{folder}/mlflow")
    experiment = client.get_experiment_by_name("tattoos")
    assert experiment is not None
    for run in client.search_runs([experiment.experiment_id]):
        found = Points()
        for tag in run.data.metrics:
            for each in client.get_metric_history(run.info.run_id, tag):
                found[tag, each.step, float(np.float32(each.value))] += 1
        yield run, found, {path.stem for path in Path(run.info.artifact_uri.removeprefix("file://")).rglob("*.png")}


def test_a_resumed_run_is_shown_whole_and_once(
    monkeypatch: pytest.MonkeyPatch, miniature: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    shown = tmp_path / "shown"
    shown.mkdir()
    lines = (
        "trackers=[wandb, {name: mlflow, experiment: tattoos}]",
        "limits={tracker_seconds: 600, stop_seconds: 1200}",
    )
    command = ["run", *arguments(miniature, tmp_path, *lines), "--workdir", tmp_path / "work"]
    run = folder_of(str(tmp_path / "runs" / "small"))
    first = tmp_path / "runs" / "small" / layout.checkpoint(MEMBERS[1], 2) / layout.COMMIT_NAME
    started = start(*command, env=environment(shown))
    assert stop_at(first, started) == 51, started.stderr
    done = lora_job(*command, env=environment(shown))
    assert done.returncode == 0, done.stderr
    assert "shows nothing more" not in started.stderr + done.stderr
    files = sorted((shown / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    assert len(files) == 4
    last = {name: (found, pictures) for name, found, pictures in map(history, files)}
    runs = {each.info.run_name: (each, found, pictures) for each, found, pictures in mlflow_runs(shown)}
    assert last.keys() == runs.keys() == {f"small/{member.variant}/seed-1337" for member in MEMBERS}
    for member in MEMBERS:
        name, names = f"small/{member.variant}/seed-1337", pictures_of(run, member)
        assert last[name] == (points(run, member), {f"samples/{each}" for each in names})
        each, found, pictures = runs[name]
        assert found == points(run, member)
        assert pictures == names
        assert each.data.tags.keys() == {"lora_job.adapter", "lora_job.verdict", "mlflow.runName"}
        assert each.data.tags["lora_job.verdict"] == (run.read_json(layout.COMPARISON) or {})["verdict"]["sentence"]
        assert each.info.status == "FINISHED"
        assert each.data.params["lora.rank"].isdigit()


def pictures_of(run: RunFolder, member: Member) -> set[str]:
    keys = [key for key, _ in run.list(layout.all_samples(member)) if key.endswith(".png")]
    assert keys
    return {key.rpartition("/")[2].removesuffix(".png") for key in keys}


def test_without_a_network_the_run_is_the_same_and_no_key_is_kept(miniature: Path, tmp_path: Path) -> None:
    """Nobody listens at port 9, and both packages ask again for longer than they are waited for, or give up."""
    key = "0123456789abcdef0123456789abcdef01234567"
    env = {
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_API_KEY": key,
        "MLFLOW_TRACKING_URI": f"http://me:{key}@127.0.0.1:9",
        "MLFLOW_TRACKING_TOKEN": key,
    }
    outcomes = []
    for name, lines in (("plain", ()), ("cut-off", ("trackers=[wandb, mlflow]", "limits.tracker_seconds=1"))):
        folder = tmp_path / name
        folder.mkdir()
        done = lora_job("run", *arguments(miniature, folder, *lines), "--workdir", folder / "work", env=env)
        assert done.returncode == 0, done.stderr
        assert key not in done.stderr
        outcomes.append(outcome(folder_of(str(folder / "runs" / "small"))))
    assert outcomes[0] == outcomes[1]
    assert done.stderr.count("wandb shows nothing more") == done.stderr.count("mlflow shows nothing more") == 1
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or key.encode() not in path.read_bytes(), path
