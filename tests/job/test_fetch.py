"""What is brought to this machine: names of a bucket's objects are made safe, and nothing is waited for without end."""

import io
import os
from pathlib import Path

import pytest

from job.context import Job, open_cache, open_run
from job.errors import JobError, code_of
from job.manifest import load_manifest
from job.preemption import StopFlag
from job.progress import Progress
from job.stages.fetch import fetch_dataset, fetch_weights
from job.storage import S3Settings, open_storage
from lora_engine import miniature
from lora_engine.config.models import CaptionerConfig
from tests.s3_server import S3Server

MANIFEST = """\
apiVersion: lora-job/v1
name: small
base_model: {source: models/sd}
dataset: {source: images}
variants: [{name: one, captions: {strategy: existing}}]
training: {steps: 10}
output: {destination: runs}
"""


def job_of(tmp_path: Path, *sets: str) -> tuple[Job, io.StringIO]:
    shown = io.StringIO()
    manifest = load_manifest(MANIFEST, "m.yaml", (f"output.destination={tmp_path / 'runs'}", *sets))
    return Job(manifest, open_run(manifest), open_cache(manifest), tmp_path, Progress(shown), StopFlag()), shown


ODD = ["a", "a/b.png", "x/../y.png", "x/./y.png", "line\nbreak.png", "\x1b[31mred.png"]
ODD += [f"{'long' * 60}.png", "/".join(["deep" * 10] * 20), "C:/windows.png", "ü.png", "u\u0308.png"]


def test_objects_of_any_name_lie_within_the_scratch_folder(tmp_path: Path, s3_admin: S3Server, s3_bucket: str) -> None:
    prefix = f"s3://{s3_bucket}/odd-names"
    settings = S3Settings(endpoint_url=s3_admin.endpoint_url, region="us-east-1", addressing_style="path")
    storage = open_storage(prefix, settings)
    stored = {}
    for at, key in enumerate(ODD):
        try:
            storage.write(f"{prefix}/{key}", f"{at}".encode())
        except JobError:
            continue  # the store does not take such a name
        stored[key] = f"{at}"
    endpoint = f"storage={{endpoint_url: '{s3_admin.endpoint_url}', region: us-east-1, addressing_style: path}}"
    job, _ = job_of(tmp_path, f"dataset.source={prefix}", endpoint)
    files = fetch_dataset(job)
    assert {file.key: Path(file.path).read_text() for file in files} == stored
    for file in files:
        assert Path(file.path).resolve().is_relative_to(tmp_path / "dataset")
    assert len({file.path for file in files}) == len(stored) >= 6


@pytest.mark.parametrize("what", ["images", "images.zip"])
def test_a_pipe_in_the_place_of_a_dataset_is_not_waited_for(tmp_path: Path, what: str) -> None:
    os.mkfifo(tmp_path / what)
    job, _ = job_of(tmp_path, f"dataset.source={tmp_path / what}")
    with pytest.raises(JobError, match="no file or folder") as caught:
        fetch_dataset(job)
    assert code_of(caught.value) == 41


def test_pickles_that_will_be_read_are_warned_of(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"")
    for allow, expected in ((True, 1), (False, 0)):
        job, shown = job_of(tmp_path)
        config = CaptionerConfig(source=str(tmp_path / "model"), allow_pickle=allow)
        assert fetch_weights(job, "captioner.source", config, ("*.safetensors",)) == tmp_path / "model"
        assert shown.getvalue().count("pytorch_model.bin") == expected
        assert shown.getvalue().count("warning") == expected
    job, shown = job_of(tmp_path)
    safe = CaptionerConfig(source=str(miniature.folder("blip")), allow_pickle=True)
    fetch_weights(job, "captioner.source", safe, ("*.safetensors",))
    assert not shown.getvalue()
