"""Samples that are copies of training images: in the report, in a picture beside what they copy, and in a note."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.job.small_run import VANILLA, arguments
from tests.lora_job import lora_job

SAMPLES = "evaluation.samples={prompts: [a heart, a sun], steps: 1, when: end}"


@pytest.fixture(scope="module")
def run(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that holds out twenty drawings; of two samples, each drawn bare and as trained, none is a copy."""
    folder = tmp_path_factory.mktemp("copies")
    lines = (f"variants=[{VANILLA}]", "dataset.source=miniature://drawings", "dataset.validation_min=20", SAMPLES)
    done = lora_job("run", *arguments(miniature, folder, *lines), "--workdir", folder / "work")
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "small"


def comparison(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "report" / "comparison.json").read_text())
    return found


def test_what_held_out_images_do_not_reach_is_a_copy(run: Path) -> None:
    found = comparison(run)
    rows = [json.loads(line) for line in (run / "data" / "likeness.jsonl").read_text().splitlines()]
    cutoff = found["likeness"]
    assert (len(rows), cutoff["images"], cutoff["twins"], cutoff["reason"]) == (20, 20, 0, None)
    assert max(row["pixels"]["likeness"] for row in rows) <= cutoff["likeness"] < 1
    (member,) = found["members"]
    for way in ("bare", "as_trained"):
        assert member["samples"][-1][way]["copies"] == 0
        memorised = member["memorised"][way]
        assert (memorised["pictures"], memorised["share"]["mean"], memorised["copies"]) == (2, 0, [])
        assert memorised["share"]["high"] > 0.5  # two prompts prove little
    assert not (run / "report" / "copies.png").exists()
    assert not any("copies of training images" in note for note in found["notes"])


def test_a_copy_is_named_and_shown(run: Path) -> None:
    index = run / "variants/vanilla/seed-1337/samples/step-000004/samples.json"
    before = index.read_text()
    rows = json.loads(before)
    used = [json.loads(line) for line in (run / "data" / "images.jsonl").read_text().splitlines()]
    trained = next(image for image in used if image["split"] == "train")
    row = next(row for row in rows["images"] if row["prompt"] == 1 and row["prompting"] == "as_trained")
    row["likeness"]["pixels"] = {"id": trained["id"], "likeness": 0.99, "mirrored": True, "crop": [0.1, 0.2, 0.7]}
    index.write_text(json.dumps(rows))
    try:
        done = lora_job("report", run)
        assert done.returncode == 0, done.stderr
        found = comparison(run)
        (member,) = found["members"]
        assert member["memorised"]["bare"]["copies"] == []
        (copy,) = member["memorised"]["as_trained"]["copies"]
        assert (copy["file"], copy["prompt"], copy["image"], copy["source"], copy["mirrored"], copy["crop"]) == (
            f"variants/vanilla/seed-1337/samples/step-000004/{row['file']}",
            *("a sun", trained["id"], trained["source"], True, [0.1, 0.2, 0.7]),
        )
        assert member["memorised"]["as_trained"]["share"]["mean"] == 0.5
        assert member["samples"][-1]["as_trained"]["copies"] == 1
        assert found["variants"][0]["memorised"] == member["memorised"]
        (note,) = [note for note in found["notes"] if "copies of training images" in note]
        assert note.startswith("1 of the 2 last pictures of vanilla, seed 1337, prompted as trained")
        with Image.open(run / "report" / "copies.png") as shown, Image.open(index.parent / row["file"]) as sample:
            pixels, wanted = shown.convert("RGB"), sample.convert("RGB")
            assert any(
                pixels.crop((x, y, x + 64, y + 64)).tobytes() == wanted.tobytes()
                for x in range(pixels.width - 64)
                for y in range(pixels.height - 64)
                if pixels.getpixel((x, y)) == wanted.getpixel((0, 0))
            )
    finally:
        index.write_text(before)
        assert lora_job("report", run).returncode == 0
    assert not (run / "report" / "copies.png").exists()


def test_without_what_it_is_told_from_nothing_is_said(run: Path) -> None:
    likeness = run / "data" / "likeness.jsonl"
    before, success = likeness.read_text(), (run / "_SUCCESS").read_bytes()
    likeness.unlink()
    (run / "_SUCCESS").unlink()  # It lists the file, which a run that an earlier version began does not have.
    try:
        assert lora_job("report", run).returncode == 0
        found = comparison(run)
        assert found["likeness"]["reason"].startswith("the run keeps nothing that it is told from")
        assert found["members"][0]["memorised"] is None
        assert found["members"][0]["samples"][-1]["bare"]["copies"] is None
    finally:
        likeness.write_text(before)
        (run / "_SUCCESS").write_bytes(success)
        assert lora_job("report", run).returncode == 0
