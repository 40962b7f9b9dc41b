"""A limit of the process is named, wherever it is reached: it is no fault of data, models, storage or the program."""

import errno
import os
import re
import resource
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import typer
from PIL import Image
from safetensors import SafetensorError

from job import env
from job.cli.exit import run_to_exit
from job.errors import ExitCode, JobError, code_of
from job.process.faults import resource_errors
from job.storage import StorageSettings, open_storage
from job.storage.local import require_readable
from job.storage.s3.settings import S3Settings
from lora_engine import miniature
from lora_engine.config.data import PreprocessConfig
from lora_engine.errors import EngineError
from lora_engine.images.caption_files import captions_beside
from lora_engine.images.decode import decode_with_size
from lora_engine.images.prepare import look_at
from lora_engine.images.sources import extract_archive, list_files
from lora_engine.models import stable_diffusion
from lora_engine.models.captioner_kind import reader_of
from lora_engine.models.files import LocalModel, check_safetensors
from lora_engine.models.image_text import read_config
from lora_engine.models.loading import model_errors
from lora_engine.records import SourceFile


@contextmanager
def limit(which: int, soft: int) -> Iterator[None]:
    before = resource.getrlimit(which)
    resource.setrlimit(which, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a heart")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("a.txt", "a heart")
    return tmp_path


SD, BLIP = LocalModel(miniature.folder("stable-diffusion")), miniature.folder("blip")
LOCAL = open_storage("x", StorageSettings())
DOORS: dict[str, Callable[[Path], object]] = {
    "list": lambda at: list(list_files(at)),
    "unpack": lambda at: list(extract_archive(at / "a.zip", at / "out")),
    "look at": lambda at: look_at(SourceFile("a.png", str(at / "a.png")), PreprocessConfig()),
    "decode": lambda at: decode_with_size(at / "a.png", PreprocessConfig()),
    "caption": lambda at: captions_beside(SourceFile("a.txt", str(at / "a.txt"))),
    "manifest": lambda at: env.read_text(str(at / "a.txt"), "manifest", {}, None),
    "write": lambda at: LOCAL.write(str(at / "b"), b"x"),
    "read": lambda at: LOCAL.read(str(at / "a.txt")),
    "walk": lambda at: list(LOCAL.list(str(at))),
    "probe": lambda at: require_readable(at / "a.txt", "dataset.source", ExitCode.DATA),
    "safetensors": lambda _: check_safetensors(SD.part("unet").path / "diffusion_pytorch_model.safetensors", "x"),
    "unet": lambda _: stable_diffusion.load_unet(SD, torch.float32),
    "scheduler": lambda _: stable_diffusion.load_noise_schedule(SD),
    "captioner": lambda _: read_config(BLIP),
    "kind": lambda _: reader_of(BLIP)("config.json"),
}


@pytest.mark.parametrize("door", DOORS)
def test_too_many_open_files_are_named(folder: Path, door: str) -> None:
    DOORS[door](folder)
    free = os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free
    os.close(free)
    with limit(resource.RLIMIT_NOFILE, free), pytest.raises((JobError, EngineError)) as caught, resource_errors():
        DOORS[door](folder)
    assert code_of(caught.value) == ExitCode.RESOURCES
    assert "(RLIMIT_NOFILE)" in str(caught.value)


def test_a_connection_too_many_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    settings = S3Settings(endpoint_url="http://127.0.0.1:9", region="us-east-1", attempts=1)
    storage = open_storage("s3://bucket", settings)
    with pytest.raises(JobError) as refused:
        storage.read("s3://bucket/x")
    assert refused.value.code == ExitCode.STORAGE_RETRIES
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    with limit(resource.RLIMIT_NOFILE, free), pytest.raises(JobError, match="RLIMIT_NOFILE") as caught:
        storage.read("s3://bucket/x")
    assert caught.value.code == ExitCode.RESOURCES


def test_a_thread_too_many_is_named() -> None:
    before = threading.stack_size(2**46)  # more than there are addresses, so that the system starts no thread
    try:
        with pytest.raises(JobError, match="pids limit") as caught, resource_errors():
            threading.Thread(target=print).start()
    finally:
        threading.stack_size(before)
    assert caught.value.code == ExitCode.RESOURCES


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), ExitCode.RESOURCES),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), ExitCode.RESOURCES),
        (RuntimeError("unable to mmap 9 bytes: Cannot allocate memory (12)"), ExitCode.RESOURCES),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), ExitCode.RESOURCES),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), ExitCode.RESOURCES),
        (SafetensorError("Cannot allocate memory (os error 12)"), ExitCode.RESOURCES),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700), ExitCode.GPU_FAULT),
        (ValueError("its caption says: out of memory"), ExitCode.MODEL),
    ],
)
def test_a_model_is_not_blamed_for_memory_or_a_gpu(error: Exception, code: ExitCode) -> None:
    with pytest.raises((JobError, EngineError)) as caught, resource_errors(), model_errors(Path("sd"), "unet"):
        raise error
    assert code_of(caught.value) == code


def test_a_command_for_which_memory_is_too_small_ends_with_44(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["lora-job"])
    app = typer.Typer()

    @app.command()
    def command() -> None:
        raise MemoryError

    with pytest.raises(SystemExit) as caught:
        run_to_exit(app)
    assert caught.value.code == ExitCode.RESOURCES
    assert "Memory is full: no more could be had." in capsys.readouterr().err


def test_no_writable_temporary_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    with limit(resource.RLIMIT_FSIZE, 0), pytest.raises(JobError, match="Set TMPDIR") as caught, resource_errors():
        tempfile.gettempdir()
    assert caught.value.code == ExitCode.RESOURCES


def test_a_file_larger_than_a_process_may_write_is_named(tmp_path: Path) -> None:
    with limit(resource.RLIMIT_FSIZE, 10), pytest.raises(JobError, match=r"10 bytes \(RLIMIT_FSIZE\)") as caught:
        LOCAL.write(str(tmp_path / "b"), bytes(11))
    assert caught.value.code == ExitCode.RESOURCES


@pytest.mark.parametrize("folder", ["m.yaml", "/proc/sys"])
def test_a_scratch_folder_that_cannot_be_written_is_named(tmp_path: Path, folder: str) -> None:
    """There is a file in its way; or it is there and read-only, as all folders of a container may be."""
    (tmp_path / "m.yaml").touch()
    place = tmp_path / folder
    with pytest.raises(JobError, match=rf"{re.escape(str(place))} cannot be written.*TMPDIR") as caught:
        env.workdir({"LORA_JOB_WORKDIR": str(place.parent)}, None, place.name)
    assert caught.value.code == ExitCode.RESOURCES
