"""Files of LoRAs come to this machine from folders, buckets and a hub, and what is none is refused by its key."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from job.errors import ExitCode, code_of
from job.run.lora_files import fetch_lora, local_lora, require_lora
from job.storage import StorageSettings, open_storage
from tests.hub_server import HubServer
from tests.job.small_run import attempt_of
from tests.s3_server import S3Server

KEY = "lora.init_from"
STORED = "pytorch_lora_weights.safetensors"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "hub" / "below").mkdir(parents=True)
    save_file({"lora_unet_mid_block.alpha": torch.ones(1)}, tmp_path / "hub" / STORED)
    return tmp_path / "hub" / STORED


def test_a_local_one_is_where_it_is(file: Path, tmp_path: Path) -> None:
    attempt, _ = attempt_of(tmp_path)
    for source in (str(file), file.as_uri(), str(file.parent)):
        assert fetch_lora(attempt, source, None, KEY, StorageSettings()) == file
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(file.read_bytes()[:-1])
    for source, told in (
        (tmp_path / "gone.safetensors", "lora.init_from: there is nothing at"),
        (tmp_path, f"lora.init_from: there is nothing at {tmp_path / STORED}"),
        (broken, "lora.init_from: broken.safetensors"),
    ):
        with pytest.raises(Exception, match=told) as caught:
            local_lora(str(source), KEY)
        assert code_of(caught.value) == ExitCode.MODEL


def test_one_of_a_bucket_is_fetched_by_its_name_or_that_of_its_folder(
    s3_admin: S3Server, s3_bucket: str, file: Path, tmp_path: Path
) -> None:
    settings = StorageSettings(endpoint_url=s3_admin.endpoint_url, region="us-east-1", addressing_style="path")
    folder = f"s3://{s3_bucket}/{tmp_path.name}"
    open_storage(folder, settings).write(f"{folder}/{STORED}", file.read_bytes())
    attempt, _ = attempt_of(tmp_path)
    for source in (folder, f"{folder}/{STORED}"):
        require_lora(source, KEY, settings)
        assert fetch_lora(attempt, source, None, KEY, settings).read_bytes() == file.read_bytes()
    for source, told in (
        (f"{folder}/gone.safetensors", "there is nothing at s3://.*/gone.safetensors"),
        (f"{folder}/a.ckpt", "a.ckpt is a pickle"),
    ):
        with pytest.raises(Exception, match=f"lora.init_from: {told}") as caught:
            require_lora(source, KEY, settings)
        assert code_of(caught.value) == ExitCode.MODEL


@pytest.fixture
def hub(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    (file.parent / "below" / "other.safetensors").write_bytes(file.read_bytes())
    server = HubServer({"a/lora": file.parent})
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    yield server
    server.stop()


def test_one_of_a_hub_is_fetched_alone(hub: HubServer, file: Path, tmp_path: Path) -> None:
    attempt, _ = attempt_of(tmp_path)
    named = fetch_lora(attempt, "hf://a/lora/below/other.safetensors", None, KEY, StorageSettings())
    assert named.read_bytes() == file.read_bytes()
    assert not [name for name in hub.requested if STORED in name]
    assert fetch_lora(attempt, "hf://a/lora", "main", KEY, StorageSettings()).name == STORED
    with pytest.raises(Exception, match=r"lora\.init_from: hf://a/lora has no gone\.safetensors") as caught:
        fetch_lora(attempt, "hf://a/lora/gone.safetensors", None, KEY, StorageSettings())
    assert code_of(caught.value) == ExitCode.MODEL
