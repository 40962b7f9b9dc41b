"""What the documentation shows does what it says."""

import io
import json
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from job.manifest.load import load_manifest
from lora_engine import miniature
from lora_engine.images.sidecars import BESIDE, read_sidecars
from lora_engine.images.sources import list_files
from tests.code_blocks import CodeBlock, code_blocks, run_bash
from tests.lora_job import ROOT

PAGE = ROOT / "docs" / "your-own-images.md"


def blocks_of(language: str) -> list[CodeBlock]:
    return [block for block in code_blocks(PAGE) if block.language == language]


def lay_out(folder: Path) -> None:
    """Make the files that the page lists, the pictures some of the package's drawings, and eight more drawings."""
    (listed,) = blocks_of("text")
    (metadata,) = blocks_of("jsonl")
    drawings = iter(sorted(miniature.folder("drawings").glob("*.png")))
    for name in listed.text.split():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == "metadata.jsonl":
            path.write_text(metadata.text)
        elif path.suffix in BESIDE:
            path.write_text(f"a caption of {path.stem}\n")
        else:
            Image.open(next(drawings)).convert("RGB").save(path)
    for drawing in [next(drawings) for _ in range(8)]:
        shutil.copy(drawing, folder / "pictures")


@pytest.fixture
def laid_out(tmp_path: Path) -> Path:
    lay_out(tmp_path)
    return tmp_path


def test_every_block_of_your_own_images_is_tried() -> None:
    assert {block.language for block in code_blocks(PAGE)} == {"text", "jsonl", "bash", "yaml"}


def test_captions_are_read_as_your_own_images_says(laid_out: Path) -> None:
    (metadata,) = blocks_of("jsonl")
    found = read_sidecars(list(list_files(laid_out / "pictures"))).first
    assert found["heron.png"] == "a caption of heron"  # the .txt wins
    assert found["city/tower.jpg"] == "a caption of tower.jpg"
    assert found["city/bridge.jpg"] == json.loads(metadata.text.splitlines()[1])["caption"]


def test_commands_of_your_own_images_end_well(laid_out: Path) -> None:
    for block in blocks_of("bash"):
        done = run_bash(block, laid_out, {"LORA_JOB_WORKDIR": str(laid_out / "work")})
        assert done.returncode == 0, f"line {block.line}: {done.stderr}"
    assert (laid_out / "runs" / "rehearsal" / "_SUCCESS").exists()
    assert (laid_out / "runs" / "rehearsal" / "report" / "report.html").exists()
    manifest = yaml.safe_load((laid_out / "pictures.yaml").read_text())
    assert manifest["base_model"]["source"] == "hf://stable-diffusion-v1-5/stable-diffusion-v1-5"
    for block in blocks_of("yaml"):
        changed = manifest | yaml.safe_load(block.text)
        text = io.StringIO()
        yaml.safe_dump(changed, text)
        load_manifest(text.getvalue(), f"{PAGE}:{block.line}")
