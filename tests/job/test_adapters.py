"""The adapters at a run's top: which files they are, when they are written, and how they are collected."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job import layout
from job.errors import ExitCode, JobError
from job.layout import Member
from job.report.adapters import publish_adapters
from job.report.publish import publish_report
from job.run.adapters import AdapterEntry
from job.run.collect import collect
from lora_engine.adapters.names import DIFFUSERS_NAME
from tests.job.earlier_run.make import HERE, VARIANTS
from tests.job.report.cases import CASES, A, B
from tests.job.report.made_run import Design, MadeRun, make_run
from tests.job.small_run import folder_of
from tests.job.test_earlier_run import files, member, placed, read
from tests.lora_job import lora_job
from tests.s3_server import S3Server

LOWER = CASES["lower, however prompted"]
ADAPTERS = [f"adapters/{place}{variant}.safetensors" for place in ("", "diffusers/") for variant in VARIANTS]


def published(made: MadeRun) -> dict[str, AdapterEntry]:
    """The adapters of a run that are put to use, by name, once it is known that each is its checkpoint's file."""
    index = publish_adapters(made.run, publish_report(made.run).members)
    assert (made.run.read_json(layout.ADAPTER_INDEX) or {})["adapters"] == [
        json.loads(entry.model_dump_json()) for entry in index.adapters
    ]
    for entry in index.adapters:
        folder = made.folder / layout.checkpoint(Member(entry.variant, entry.seed), entry.step)
        names = f"{entry.variant}.safetensors", DIFFUSERS_NAME
        for name, file in zip(names, entry.files, strict=True):
            data = (made.folder / file.path).read_bytes()
            assert data == (folder / name).read_bytes()
            assert (file.size, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    return {entry.name: entry for entry in index.adapters}


def test_adapters_are_the_best_checkpoints_and_say_why(tmp_path: Path) -> None:
    made = make_run(tmp_path, Design([A, B], LOWER.losses))
    found = published(made)
    assert list(found) == ["a", "b"]
    for name, entry in found.items():
        best = read(made.folder / layout.best(Member(name, 1)))
        assert (entry.step, entry.rule, entry.reason) == (best["step"], best["rule"], best["reason"])
        assert entry.kohya.sha256 == best["sha256"]
        assert (entry.kohya.path, entry.diffusers.path) == (
            f"adapters/{name}.safetensors",
            f"adapters/diffusers/{name}.safetensors",
        )
        assert entry.strength == 1
    assert (found["a"].prompt, found["b"].prompt) == ("{prompt}", "{prompt}, ink")


def test_the_best_checkpoint_need_not_be_the_last(tmp_path: Path) -> None:
    made = make_run(tmp_path, Design([A, B], CASES["no better than the base as trained"].losses))
    assert {entry.step for entry in published(made).values()} == {2}


def test_adapters_of_several_seeds_are_named_by_them(tmp_path: Path) -> None:
    made = make_run(tmp_path, Design([A, B], LOWER.losses, (1, 2, 3)))
    assert list(published(made)) == [f"{variant}-seed-{seed}" for variant in "ab" for seed in (1, 2, 3)]


def test_one_seed_a_variant_needs_no_name(tmp_path: Path) -> None:
    made = make_run(tmp_path, Design([A, B | {"seed_offset": 7}], LOWER.losses))
    assert {(entry.name, entry.seed) for entry in published(made).values()} == {("a", 1), ("b", 1)}


def test_where_there_is_no_best_it_is_the_last_one(tmp_path: Path) -> None:
    made = make_run(tmp_path, Design([A, B], LOWER.losses, diverged={Member("b", 1): 1}))
    found = published(made)
    assert not (made.folder / layout.best(Member("b", 1))).exists()
    assert (found["b"].step, found["b"].rule) == (4, "the last checkpoint, since none is called the best")
    assert found["b"].reason == "it diverged at step 1, and no checkpoint could be scored"
    assert found["a"].reason.startswith("its loss")


@pytest.mark.parametrize(
    ("captions", "template", "prompt"),
    [
        ({"strategy": "constant", "text": "a drawing"}, None, "a drawing, {prompt}"),
        ({"strategy": "constant", "text": ""}, None, "{prompt}"),
        ({"strategy": "existing", "trigger": "sks", "style_hints": "ink"}, None, "sks, {prompt}, ink"),
        ({"strategy": "existing", "style_hints": "ink", "hints_position": "first"}, None, "ink, {prompt}"),
        (
            {"strategy": "existing", "trigger": "sks"},
            "{prompt} in the style of {trigger}",
            "{prompt} in the style of sks",
        ),
    ],
)
def test_how_an_adapter_was_trained_is_a_text_for_any_prompt(
    tmp_path: Path, captions: dict[str, Any], template: str | None, prompt: str
) -> None:
    variant = {"name": "a", "captions": captions} | ({"prompt_template": template} if template else {})
    [entry] = published(make_run(tmp_path, Design([variant], LOWER.losses))).values()
    assert entry.prompt == prompt


VARIANT = st.from_regex(r"[a-z0-9][-_a-z0-9]{0,62}", fullmatch=True) | st.sampled_from(
    ["a", "a-seed-1", "a-seed-1-seed-1", "a-seed-11", "index", "diffusers", "a-seed-"]
)


@given(
    st.sets(VARIANT, min_size=1, max_size=6), st.sets(st.integers(0, 2**63 - 1) | st.sampled_from([1, 11]), max_size=4)
)
def test_no_two_adapters_have_one_file_where_case_is_ignored(variants: set[str], seeds: set[int]) -> None:
    """Members have the seeds of the manifest, or with an offset others, but as many of each variant."""
    members = [Member(variant, seed) for variant in variants for seed in seeds or {1}]
    names = [layout.adapter_name(each, several_seeds=len(members) > len(variants)) for each in members]
    keys = [key(name) for name in names for key in (layout.adapter, layout.diffusers_adapter)]
    keys.append(layout.ADAPTER_INDEX)
    assert len({key.casefold() for key in keys}) == len(keys)
    assert all(len(key.rpartition("/")[2].encode()) <= 255 for key in keys)


def report(run: Path | str, **options: Any) -> "subprocess.CompletedProcess[str]":
    return lora_job("report", run, **options)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run that an earlier version finished, without adapters."""
    return placed("finished", tmp_path)


def test_a_report_gives_an_older_run_its_adapters_once(finished: Path) -> None:
    done = report(finished)
    assert done.returncode == 0, done.stderr
    shown = (layout.COMPARISON, layout.ADAPTER_INDEX, layout.PAGE)
    assert done.stdout.splitlines() == [f"{finished}/{key}" for key in shown]
    index = read(finished / layout.ADAPTER_INDEX)
    assert [entry["variant"] for entry in index["adapters"]] == list(VARIANTS)
    assert [entry["prompt"] for entry in index["adapters"]] == ["a drawing, {prompt}", "{prompt}"]
    before = {path: path.stat().st_mtime_ns for path in (finished / "adapters").rglob("*")}
    assert report(finished).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in (finished / "adapters").rglob("*")} == before


def test_adapters_that_were_changed_are_copied_again(finished: Path) -> None:
    assert report(finished).returncode == 0
    whole = files(finished / "adapters")
    same_size, shorter, gone = (finished / key for key in ADAPTERS[:3])
    same_size.write_bytes(bytes(len(same_size.read_bytes())))
    shorter.write_bytes(b"short")
    gone.unlink()
    (finished / layout.ADAPTER_INDEX).write_text("not JSON")
    assert report(finished).returncode == 0
    assert files(finished / "adapters") == whole


@pytest.mark.parametrize(
    ("name", "change"),
    [(f"{VARIANTS[1]}.safetensors", "altered"), (DIFFUSERS_NAME, "altered"), (DIFFUSERS_NAME, "gone")],
)
def test_a_checkpoint_that_is_not_what_was_committed_is_named(finished: Path, name: str, change: str) -> None:
    assert report(finished).returncode == 0
    index = read(finished / layout.ADAPTER_INDEX)
    step = index["adapters"][1]["step"]
    shutil.rmtree(finished / "adapters" / "diffusers")
    (finished / "adapters" / f"{VARIANTS[1]}.safetensors").unlink()
    path = member(finished, VARIANTS[1]) / "checkpoints" / layout.step_name(step) / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    if change == "altered":
        path.write_bytes(data)
    before = files(finished)
    done = report(finished)
    assert (done.returncode, done.stderr.count("\n")) == (46, 1), done.stderr
    assert str(path) in done.stderr
    if (change, name) != ("altered", DIFFUSERS_NAME):
        assert files(finished) == before  # It was noticed before anything was written.
        return
    assert not (finished / layout.ADAPTER_INDEX).exists()  # which would list what is not there
    assert not (finished / "adapters" / "diffusers" / f"{VARIANTS[1]}.safetensors").exists()


@pytest.mark.parametrize(
    "left", ["some files", *(pytest.param(left, marks=pytest.mark.slow) for left in ("all but the index", "all"))]
)
def test_a_run_that_was_killed_between_its_adapters_and_its_end_is_finished_by_the_next_start(
    finished: Path, left: str
) -> None:
    assert report(finished).returncode == 0
    whole = files(finished / "adapters")
    (finished / "_SUCCESS").unlink()
    if left != "all":
        (finished / layout.ADAPTER_INDEX).unlink()
    if left == "some files":
        shutil.rmtree(finished / "adapters" / "diffusers")
    folder = finished.parents[1]
    done = lora_job("run", "manifest.yaml", "--workdir", folder / "work", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (finished / "_SUCCESS").exists()
    assert files(finished / "adapters") == whole


def test_a_run_with_an_adapter_that_diverged_has_its_adapters_and_is_no_success(finished: Path) -> None:
    (finished / "_SUCCESS").unlink()
    final = member(finished, VARIANTS[0]) / "final.json"
    final.write_text(json.dumps(read(final) | {"loss": None, "diverged_at": 4}))
    folder = finished.parents[1]
    done = lora_job("run", "manifest.yaml", "--workdir", folder / "work", cwd=folder)
    assert done.returncode == 45, done.stderr
    assert not (finished / "_SUCCESS").exists()
    assert sorted(files(finished / "adapters")) == sorted(["index.json", *(key[9:] for key in ADAPTERS)])


def test_captions_of_a_later_version_are_refused(tmp_path: Path) -> None:
    made = make_run(tmp_path, Design([A, B], LOWER.losses))
    members = publish_report(made.run).members
    identity = (made.run.read_json(layout.RESOLVED) or {})["identity"]
    identity["variants"]["b"]["captions"]["strategy"] = "divined"
    made.edit(layout.RESOLVED, identity=identity)
    with pytest.raises(JobError, match="captions of b") as caught:
        publish_adapters(made.run, members)
    assert caught.value.code == ExitCode.CONFLICT


def bucket_of(server: S3Server, run: Path) -> str:
    """Put the run into a bucket of its own; where it is there."""
    bucket, client = server.make_bucket(), server.client()
    for key, data in files(run).items():
        client.put_object(Bucket=bucket, Key=f"runs/earlier/{key}", Body=data)
    return f"s3://{bucket}/runs/earlier"


def test_adapters_and_report_alone_are_collected(finished: Path, tmp_path: Path) -> None:
    assert report(finished).returncode == 0
    done = lora_job("collect", finished, tmp_path / "there", "--adapters")
    assert done.returncode == 0, done.stderr
    expected = {key: data for key, data in files(finished).items() if key.startswith(("adapters/", "report/"))}
    assert files(tmp_path / "there") == expected
    assert done.stdout == (
        f"{len(expected)} files, {len(expected)} downloaded, {len(expected)} checked by their SHA-256\n"
        f"{tmp_path / 'there' / 'adapters'}: {', '.join(VARIANTS)}\n"
    )
    again = lora_job("collect", finished, tmp_path / "there", "--adapters")
    assert again.stdout.startswith(f"{len(expected)} files, 0 downloaded, {len(expected)} checked")


def test_adapters_in_a_bucket(finished: Path, tmp_path: Path, s3_admin: S3Server) -> None:
    run, env = bucket_of(s3_admin, finished), {"AWS_ENDPOINT_URL_S3": s3_admin.endpoint_url, "AWS_REGION": "us-east-1"}
    refused = lora_job("collect", run, tmp_path / "there", "--adapters", env=env)
    assert refused.returncode == 46, refused.stderr
    assert refused.stderr == (
        f"lora-job: {run} has no adapters/: an earlier version finished it. "
        f"`lora-job report {run}` makes them of its checkpoints.\n"
    )
    done = report(run, env=env)
    assert done.returncode == 0, done.stderr
    done = lora_job("collect", run, tmp_path / "there", "--adapters", env=env)
    assert done.returncode == 0, done.stderr
    assert report(finished).returncode == 0
    assert files(tmp_path / "there" / "adapters") == files(finished / "adapters")
    assert not (tmp_path / "there" / "variants").exists()
    bucket, client = run.split("/")[2], s3_admin.client()
    client.put_object(Bucket=bucket, Key=f"runs/earlier/{ADAPTERS[0]}", Body=b"another")
    for more in (["--adapters"], []):
        altered = lora_job("collect", run, tmp_path / "elsewhere", *more, env=env)
        assert altered.returncode == 46, altered.stderr
        assert f"{run}/{ADAPTERS[0]} was altered: adapters/index.json says " in altered.stderr
        assert not (tmp_path / "elsewhere" / ADAPTERS[0]).exists()
    client.delete_object(Bucket=bucket, Key=f"runs/earlier/{ADAPTERS[0]}")
    for more in (["--adapters"], []):
        lost = lora_job("collect", run, tmp_path / "elsewhere", *more, env=env)
        assert lost.returncode == 46, lost.stderr
        assert f"{run}/{ADAPTERS[0]} is missing, which adapters/index.json names." in lost.stderr


def test_what_has_no_adapters_says_what_to_do(finished: Path, tmp_path: Path) -> None:
    (finished / "_SUCCESS").unlink()
    refused = lora_job("collect", finished, tmp_path / "there", "--adapters")
    assert refused.returncode == 46, refused.stderr
    assert f"{finished} has no adapters/ yet: it is not finished. Run its manifest to the end" in refused.stderr
    assert not (tmp_path / "there").exists()
    nothing = lora_job("collect", tmp_path / "nothing", tmp_path / "there", "--adapters")
    assert nothing.returncode == 42, nothing.stderr
    within = lora_job("collect", finished, finished / "sub", "--adapters")
    assert within.returncode == 2, within.stderr


def test_names_in_an_index_that_someone_else_wrote_do_nothing(finished: Path, tmp_path: Path) -> None:
    assert report(finished).returncode == 0
    (finished / "_SUCCESS").unlink(missing_ok=True)  # It would list the index.
    index = read(finished / layout.ADAPTER_INDEX)
    index["adapters"][0] |= {"name": "\x1b[31mred\n"}
    (finished / layout.ADAPTER_INDEX).write_text(json.dumps(index))
    shown = collect(folder_of(str(finished)), tmp_path / "there").describe()
    assert len(shown.splitlines()) == 2
    assert all(line.isprintable() for line in shown.splitlines())
    index["adapters"][0]["kohya"] |= {"path": "../../outside"}
    (finished / layout.ADAPTER_INDEX).write_text(json.dumps(index))
    with pytest.raises(JobError, match=r"outside is missing, which adapters/index\.json names") as caught:
        collect(folder_of(str(finished)), tmp_path / "there", adapters_alone=True)
    assert caught.value.code == ExitCode.CONFLICT
    (finished / layout.ADAPTER_INDEX).write_text("{}")
    with pytest.raises(JobError, match="does not hold the JSON") as caught:
        collect(folder_of(str(finished)), tmp_path / "there", adapters_alone=True)
    assert caught.value.code == ExitCode.CONFLICT


def test_the_runs_of_earlier_versions_are_as_they_were() -> None:
    assert not (HERE / "finished" / "adapters").exists()
