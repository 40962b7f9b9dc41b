"""What a run writes into its adapters' files of how they were trained, and of what the manifest gives."""

import base64
import io
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

from lora_engine.adapters.lora_file import read_lora
from tests.job.small_run import arguments
from tests.lora_job import lora_job

WITH_TEXT = "lora={rank: 2, alpha: 1, target_modules: kohya, text_encoder: {learning_rate: 1.0e-5}}"


def test_the_files_say_what_was_trained_and_what_the_manifest_gives(miniature: Path, tmp_path: Path) -> None:
    Image.new("RGB", (900, 300), "red").save(tmp_path / "picture.png")
    given = (
        "output.license=CC-BY-4.0",
        "output.description=Drawings of one line.",
        f"output.thumbnail={tmp_path / 'picture.png'}",
        "seeds=[7]",
        WITH_TEXT,
    )
    done = lora_job("run", *arguments(miniature, tmp_path), *(each for line in given for each in ("--set", line)))
    assert done.returncode == 0, done.stderr
    checkpoint = tmp_path / "runs/small/variants/vanilla/seed-7/checkpoints/step-000002"
    with safe_open(checkpoint / "vanilla.safetensors", "pt") as file:
        said = file.metadata()
    expected = {
        "ss_steps": "2",
        "ss_max_train_steps": "4",
        "ss_batch_size_per_device": "2",
        "ss_seed": "7",
        "ss_lr_warmup_steps": "1",
        "ss_unet_lr": "0.004",
        "ss_text_encoder_lr": "1e-05",
        "ss_network_dim": "2",
        "ss_network_alpha": "1.0",
        "modelspec.license": "CC-BY-4.0",
        "modelspec.description": "Drawings of one line.",
        "modelspec.trigger_phrase": "a drawing",
    }
    assert {key: said[key] for key in expected} == expected
    images = int(said["ss_num_train_images"])
    assert said["ss_epoch"] == f"{4 / images:.4g}"
    start, data = said["modelspec.thumbnail"].split(",")
    assert start == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (256, 85))
    kohya, diffusers = (
        read_lora(checkpoint / name).layers for name in ("vanilla.safetensors", "pytorch_lora_weights.safetensors")
    )
    assert kohya.keys() == diffusers.keys()
    assert any(name.startswith("text_encoder.text_model.") for name in kohya)
    assert {(layer.rank, layer.alpha) for layer in (*kohya.values(), *diffusers.values())} == {(2, 1.0)}


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (None, 42, "output.thumbnail: there is nothing at"),
        (b"no picture", 41, "output.thumbnail: picture.png cannot be used"),
    ],
)
def test_a_thumbnail_that_cannot_be_read_is_refused(
    miniature: Path, tmp_path: Path, data: bytes | None, code: int, says: str
) -> None:
    path = tmp_path / "picture.png"
    if data is not None:
        path.write_bytes(data)
    done = lora_job("run", *arguments(miniature, tmp_path), "--set", f"output.thumbnail={path}")
    assert done.returncode == code, done.stderr
    assert says in done.stderr.splitlines()[-1]
