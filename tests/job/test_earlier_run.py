"""Runs of an earlier version: what it began goes on, and what it finished is read."""

import json
import shutil
from dataclasses import fields
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from job.run.dataset import source_fingerprint
from lora_engine.evaluation.line_art import Measures
from lora_engine.evaluation.pictures import MEASURES
from tests.job.earlier_run.make import APART, HERE, SAMPLES, VARIANTS, machine
from tests.job.small_run import attempt_of
from tests.lora_job import lora_job


def placed(name: str, folder: Path) -> Path:
    """A run of `earlier_run` where its manifest has it, the manifest and the images beside it."""
    shutil.copy(HERE / "manifest.yaml", folder)
    shutil.copytree(HERE / "images", folder / "images")
    return Path(shutil.copytree(HERE / name, folder / "runs" / "earlier"))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def member(run: Path, variant: str) -> Path:
    return run / "variants" / variant / "seed-1337"


def weights(run: Path) -> dict[str, str]:
    """The hash of every variant's weights at the end."""
    commit = Path("checkpoints") / "step-000004" / "COMMIT.json"
    return {variant: read(member(run, variant) / commit)["weights_sha256"] for variant in VARIANTS}


def final_losses(run: Path) -> dict[str, float]:
    return {variant: read(member(run, variant) / "final.json")["loss"] for variant in VARIANTS}


def test_a_run_that_an_earlier_version_began_ends_as_that_version_would_have_ended_it(tmp_path: Path) -> None:
    run = placed("interrupted", tmp_path)
    half = {variant: member(run, variant) / "checkpoints" / "step-000002" for variant in VARIANTS}
    found = {path: path.read_bytes() for folder in half.values() for path in folder.iterdir()}
    assert not (run / "_SUCCESS").exists()

    done = lora_job("run", "manifest.yaml", "--workdir", tmp_path / "work", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert '"event": "resumed", "pack": 0, "step": 2' in done.stderr
    assert {path: path.read_bytes() for path in found} == found
    assert (run / "_SUCCESS").exists()
    assert final_losses(run) == pytest.approx(final_losses(HERE / "finished"), rel=1e-4)
    if machine() == read(HERE / "machine.json"):
        assert weights(run) == weights(HERE / "finished")


@pytest.mark.slow
def test_variants_that_an_earlier_version_trained_in_packs_of_their_own_keep_them(tmp_path: Path) -> None:
    run = placed("apart", tmp_path)
    begun = read(run / "resolved.json")
    assert "packing" not in begun
    finished = {path: path.read_bytes() for path in member(run, "constant").rglob("*") if path.is_file()}
    assert (member(run, "constant") / "final.json") in finished
    assert not (member(run, "existing") / "final.json").exists()
    sets = [part for line in APART for part in ("--set", line)]

    def start(*more: str) -> "CompletedProcess[str]":
        return lora_job("run", "manifest.yaml", *sets, *more, "--workdir", tmp_path / "work", cwd=tmp_path)

    done = start()
    assert done.returncode == 0, done.stderr
    assert '"event": "resumed", "pack": 1, "step": 2' in done.stderr
    assert '"event": "resumed", "pack": 0' not in done.stderr
    assert {path: path.read_bytes() for path in finished} == finished
    packs = read(run / "resolved.json")["packs"]
    assert [pack["members"] for pack in packs] == [pack["members"] for pack in begun["packs"]]
    assert len(packs) == 2
    assert read(member(run, "existing") / "final.json")["step"] == 4
    assert '"event": "already done"' in start().stderr
    changed = start("--set", "variants.existing.lora.rank=3")
    assert changed.returncode == 46
    assert "variants.existing.lora.rank" in changed.stderr


def test_images_of_a_run_that_an_earlier_version_began_keep_their_groups_and_sides(tmp_path: Path) -> None:
    run = placed("interrupted", tmp_path)
    rows = [json.loads(line) for line in (run / "data" / "images.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["split"] == "train"]
    trained[1]["group"] = trained[0]["group"]  # that version took them for near-duplicates, which they are not
    (run / "data" / "images.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    done = lora_job("run", "manifest.yaml", "--workdir", tmp_path / "work", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    after = [json.loads(line) for line in (run / "data" / "images.jsonl").read_text().splitlines()]
    assert {row["id"]: (row["group"], row["split"]) for row in after} == {
        row["id"]: (row["group"], row["split"]) for row in rows
    }


def test_the_report_of_a_run_that_an_earlier_version_finished_can_be_made_anew(tmp_path: Path) -> None:
    run = placed("finished", tmp_path)
    (run / "report" / "comparison.json").unlink()

    done = lora_job("report", "runs/earlier", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    report = read(run / "report" / "comparison.json")
    members = {member["variant"]: member for member in report["members"]}
    assert {name: found["validation"][-1]["loss"] for name, found in members.items()} == final_losses(HERE / "finished")
    own = {name: found["validation"][-1]["caption_sets"][found["caption_set"]] for name, found in members.items()}
    assert {name: found["final_loss"] for name, found in members.items()} == pytest.approx(own, rel=1e-6)
    assert {found["listening"] for found in members.values()} == {None}
    assert any(note.startswith("An earlier version began this run.") for note in report["notes"])
    last = {name: found["checkpoints"][-1]["weights_sha256"] for name, found in members.items()}
    assert last == weights(HERE / "finished")
    assert (run / "report" / "curves.png").exists()


def test_a_run_that_an_earlier_version_finished_is_already_done(tmp_path: Path) -> None:
    run = placed("finished", tmp_path)
    done = lora_job("run", "manifest.yaml", "--workdir", tmp_path / "work", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert weights(run) == weights(HERE / "finished")
    ended = json.loads(done.stderr.splitlines()[-1])
    assert (ended["event"], ended["adapters"]) == ("done", "runs/earlier/adapters")


def continue_sampled(folder: Path) -> "CompletedProcess[str]":
    sets = [part for line in SAMPLES for part in ("--set", line)]
    return lora_job("run", "manifest.yaml", *sets, "--workdir", folder / "work", cwd=folder)


def files(run: Path) -> dict[str, bytes]:
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_samples_of_an_earlier_version_are_reported_as_far_as_it_measured_them(tmp_path: Path) -> None:
    run = placed("sampled", tmp_path)
    before = {member["variant"]: member["samples"] for member in read(run / "report" / "comparison.json")["members"]}

    done = lora_job("report", "runs/earlier", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    report = read(run / "report" / "comparison.json")
    not_kept = "the pictures' CLIP embeddings are not kept: an earlier version drew them, or the file is lost"
    not_measured = "an earlier version did not measure the held-out images"
    reasons = dict.fromkeys(("diversity", "similarity", "kid", "cmmd"), not_kept)
    reasons |= dict.fromkeys(("line_art_distance", "line_art_gap"), not_measured)
    for found in report["members"]:
        assert [point["step"] for point in found["samples"]] == [0, 4]
        for point, earlier in zip(found["samples"], before[found["variant"]], strict=True):
            bare = point["bare"]
            assert point["as_trained"] is None
            assert (bare["images"], bare["not_finite"], bare["copies"]) == (2, 0, None)
            assert bare["unmeasured"] == reasons
            assert bare["measures"].keys() == set(MEASURES) - reasons.keys()
            assert bare["change"].keys() == (bare["measures"].keys() if point["step"] else set())
            for name, then in (
                ("clip_score", "clip_score"),
                ("clip_retrieval", "clip_retrieval"),
                ("line_art_training_distance", "line_art_distance"),
            ):
                assert bare["measures"][name]["mean"] == pytest.approx(earlier[then])
        assert found["memorised"] is None
    assert [variant["as_trained"] for variant in report["variants"]] == [None, None]
    (pair,) = report["pairs"]
    assert pair["pictures"]["bare"].keys() == set(MEASURES) - reasons.keys()
    assert pair["pictures"]["as_trained"] is None
    assert report["likeness"]["reason"].startswith("the run keeps nothing that it is told from")
    assert (run / "report" / "samples.png").exists()
    assert not (run / "report" / "copies.png").exists()


def test_a_run_with_samples_that_an_earlier_version_finished_is_already_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the images are still the files that they were, as copies of them are not."""
    run = placed("sampled", tmp_path)
    monkeypatch.chdir(tmp_path)
    attempt, _ = attempt_of(tmp_path, "dataset.source=images")
    source = run / "data" / "source.json"
    source.write_text(json.dumps(read(source) | {"fingerprint": source_fingerprint(attempt)}))
    before = files(run)
    done = continue_sampled(tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"event": "already done"' in done.stderr
    assert files(run) == before
    ended = json.loads(done.stderr.splitlines()[-1])
    assert (ended["event"], ended["adapters"]) == ("done", None)
    assert ended["make_adapters"] == "lora-job report runs/earlier"


@pytest.mark.slow
def test_samples_as_trained_are_drawn_beside_those_of_an_earlier_version(tmp_path: Path) -> None:
    """Of a run that is not finished; the earlier ones stay as they are."""
    run = placed("sampled", tmp_path)
    (run / "_SUCCESS").unlink()
    before = files(run)

    done = continue_sampled(tmp_path)

    assert done.returncode == 0, done.stderr
    after = files(run)
    changed = {key for key, data in before.items() if after.get(key) != data and not key.startswith("units/")}
    of_the_attempt = {
        "manifest.yaml",
        "resolved.json",
        "environment.json",
        "data/source.json",
        "report/comparison.json",
    }
    # The measures have the held-out images now, too, and a row of an image says whether it is of one colour.
    assert changed <= of_the_attempt | {"data/line_art.jsonl", "data/images.jsonl"}
    (name,) = [path.name for path in (run / "samples").iterdir()]
    assert name.startswith("study-")
    assert {key.rpartition("/")[2] for key in after.keys() - before.keys() if key.startswith("samples/")} == {
        *("samples.json", "samples.safetensors", "prompt-00-seed-0.png", "prompt-01-seed-0.png"),
        *("prompt-00-seed-0-as-trained.png", "prompt-01-seed-0-as-trained.png"),
    }
    if machine() == read(HERE / "machine.json"):
        for variant in VARIANTS:
            for path in (member(run, variant) / "samples").rglob("*.png"):
                twin = run / "samples" / name / path.relative_to(run / "variants").as_posix().replace("/samples", "")
                assert twin.read_bytes() == path.read_bytes()
    (constant, existing) = read(run / "report" / "comparison.json")["members"]
    for found in (constant, existing):
        assert [point["step"] for point in found["samples"]] == [0, 4]
        last = found["samples"][-1]
        assert {field.name for field in fields(Measures)} | {"line_art_gap", "similarity"} <= last["bare"][
            "measures"
        ].keys()
    bare, trained = (constant["samples"][-1][prompting]["measures"] for prompting in ("bare", "as_trained"))
    assert bare["clip_score"] != trained["clip_score"]
    assert existing["samples"][-1]["bare"]["measures"] == existing["samples"][-1]["as_trained"]["measures"]
