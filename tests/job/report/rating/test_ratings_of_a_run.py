"""`lora-job report RUN --ratings`: votes go into a run, into every text of its report, and stay there."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from job import layout
from job.report.page.numbers import path_of
from job.report.pictures import study_pictures
from job.report.rating.drawn import read_rating
from job.report.schema import Comparison, report_schema
from job.run.resolved import Resolved
from job.storage import StorageSettings
from job.storage.backends import backend_of
from lora_engine.evaluation.ratings.trials import Trials
from tests.job.report.rating.votes import as_file, prefers, sheet_of
from tests.job.small_run import arguments, folder_of
from tests.lora_job import lora_job
from tests.s3_server import S3Server

PROMPTS = ["a heart", "a sun", "a snake", "an anchor", "a rose", "a moon", "a bird"]
NAME = "<script>alert(1)</script> \u202eanna {{ 7 * 7 }} | *b* [x](http://x.y) 007"
BLIP, VANILLA = prefers("blip", "vanilla", ""), prefers("vanilla", "blip", "")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, miniature: Path) -> Path:
    folder = tmp_path_factory.mktemp("rated")
    samples = json.dumps({"prompts": PROMPTS, "steps": 1, "when": "end"})
    done = lora_job("run", *arguments(miniature, folder, f"evaluation.samples={samples}"))
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "small"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "runs" / "small"))


def trials_of(run: Path) -> Trials:
    folder = folder_of(str(run))
    resolved = folder.read_stored(layout.RESOLVED, Resolved)
    assert resolved is not None
    rating = read_rating(folder, resolved, study_pictures(folder))
    assert rating is not None
    return rating.trials


def write(run: Path, name: str, rater: str, choose: Any = BLIP) -> Path:
    path = run.parent.parent / name
    path.write_bytes(as_file(sheet_of(trials_of(run), rater, choose)))
    return path


def comparison(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / layout.COMPARISON).read_text())
    return found


def tree(run: Path) -> dict[str, str]:
    files = [path for path in run.rglob("*") if path.is_file()]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_votes_are_in_all_of_the_report_and_stay(run: Path, tmp_path: Path) -> None:
    before = comparison(run)
    assert (before["ratings"], before["verdict"]["people"]) == (None, None)
    files = [write(run, "a.json", NAME), write(run, "b.json", "ben"), write(run, "c.json", "cy", VANILLA)]
    done = lora_job("report", run, "--ratings", *files)
    assert done.returncode == 0, done.stderr
    found = comparison(run)
    ratings = found["ratings"]
    assert [rater["name"] for rater in ratings["raters"]] == sorted([NAME, "ben", "cy"])
    pairs = {(pair["a"], pair["b"]): pair for pair in ratings["pairs"]}
    pair = pairs["vanilla", "blip"]
    assert pair["raters"] == 3
    assert pair["worse"] == 2 * pair["better"] > 0
    assert found["verdict"]["people"] == pair["agreement"]
    assert found | {"ratings": None, "verdict": found["verdict"] | {"people": None}} == before
    Comparison.model_validate(found)
    assert "win_rate" in report_schema()["$defs"]["RatedPair"]["properties"]
    page = (run / layout.PAGE).read_text()
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\u202eanna {{ 7 * 7 }}" in page
    assert found["verdict"]["people"].replace("'", "&#39;") in page
    assert found["verdict"]["people"] in (run / layout.SUMMARY).read_text()
    kept = sorted(json.loads((run / layout.VOTES).read_text())["sheets"], key=lambda sheet: sheet["rater"])
    assert kept == sorted([json.loads(path.read_text()) for path in files], key=lambda sheet: sheet["rater"])
    assert "Votes that count:" in done.stderr

    there = tree(run)
    again = lora_job("report", run)
    assert again.returncode == 0, again.stderr
    assert tree(run) == there
    assert lora_job("verify", run).returncode == 0
    for options in ([], ["--adapters"]):
        to = tmp_path / f"collected{len(options)}"
        assert lora_job("collect", run, to, *options).returncode == 0
        assert (to / layout.VOTES).read_bytes() == (run / layout.VOTES).read_bytes()
    rebuilt = lora_job("report", tmp_path / "collected0")
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert comparison(tmp_path / "collected0")["ratings"] == ratings


def test_every_number_of_the_section_is_that_of_the_comparison(run: Path) -> None:
    files = [write(run, "a.json", "anna"), write(run, "b.json", "ben")]
    assert lora_job("report", run, "--ratings", *files).returncode == 0
    stored, page = comparison(run), (run / layout.PAGE).read_text()
    section = page[page.index('<section id="people"') : page.index('<section id="differences"')]
    shown = re.findall(r'<data value="([^"]+)" data-path="([^"]+)">([^<]+)</data>', section)
    assert len(shown) > 15
    for value, path, _ in shown:
        found: Any = stored
        for key in re.findall(r"\w+", path):
            found = found[int(key)] if key.isdigit() else found[key]
        assert float(value) == found, path
    for at, pair in enumerate(stored["ratings"]["pairs"]):
        for end in ("mean", "low", "high"):
            path = path_of(["ratings", "pairs", at, "win_rate", end])
            value = pair["win_rate"][end]
            assert f'<data value="{value!r}" data-path="{path}">{value:.0%}</data>' in section
        assert f'data-path="ratings.pairs[{at}].win_rate"' in section, "the chart shows it"


def test_other_votes_replace_those_that_were_given(run: Path) -> None:
    assert lora_job("report", run, "--ratings", write(run, "a.json", "anna")).returncode == 0
    done = lora_job("report", "--ratings", write(run, "b.json", "ben"), "--", run)
    assert done.returncode == 0
    said = "Votes that count: ben. No longer there, since votes replace those given before: anna."
    assert said in done.stderr
    assert [rater["name"] for rater in comparison(run)["ratings"]["raters"]] == ["ben"]
    assert lora_job("verify", run).returncode == 0
    (run / layout.VOTES).unlink()
    assert lora_job("report", run).returncode == 0
    assert comparison(run)["ratings"] is None
    assert lora_job("verify", run).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        lambda run, a, b: [run, "--ratings", a, b],
        lambda run, a, b: [run, "--ratings", a, "--ratings", b],
        lambda run, a, b: [run, f"--ratings={a}", b],
        lambda run, a, b: ["--ratings", a, b, "--", run],
        lambda run, a, b: [f"--ratings={a}", f"--ratings={b}", "--", run],
    ],
)
def test_files_are_named_as_one_likes(run: Path, arguments: Callable[..., list[str | Path]]) -> None:
    done = lora_job("report", *arguments(run, write(run, "a.json", "anna"), write(run, "b.json", "ben")))
    assert done.returncode == 0, done.stderr
    assert [rater["name"] for rater in comparison(run)["ratings"]["raters"]] == ["anna", "ben"]


def test_what_is_refused_changes_nothing(run: Path, tmp_path: Path) -> None:
    good = write(run, "good.json", "anna")
    assert lora_job("report", run, "--ratings", good).returncode == 0
    there = tree(run)
    bad = tmp_path / "bad \x1b[31m.json"
    bad.write_text("{}")
    worse = tmp_path / "worse.json"
    worse.write_bytes(good.read_bytes().replace(b'"best": 0', b'"best": 1', 1))
    done = lora_job("report", run, "--ratings", good, bad, worse)
    assert done.returncode == 46
    assert "bad \\x1b[31m.json is no file of votes" in done.stderr
    assert f"{worse} was altered" in done.stderr
    gone = lora_job("report", run, "--ratings", tmp_path / "gone.json")
    assert (gone.returncode, gone.stderr.count("\n")) == (42, 1)
    assert "gone.json is not there" in gone.stderr
    several = lora_job("report", run, run, "--ratings", good)
    assert several.returncode == 2
    assert "votes are on the pictures of one run" in several.stderr
    assert tree(run) == there


def test_a_kept_file_that_was_altered_is_named(run: Path) -> None:
    assert lora_job("report", run, "--ratings", write(run, "a.json", "anna")).returncode == 0
    kept = run / layout.VOTES
    kept.write_bytes(kept.read_bytes().replace(b"anna", b"otto"))
    for command in ("report", "verify"):
        done = lora_job(command, run)
        assert done.returncode == 46, command
        assert kept.name in done.stderr + done.stdout
    assert lora_job("report", run, "--ratings", run.parent.parent / "a.json").returncode == 0


def test_one_rater_does_not_count_twice_of_what_is_kept(run: Path) -> None:
    assert lora_job("report", run, "--ratings", write(run, "a.json", "anna")).returncode == 0
    kept = json.loads((run / layout.VOTES).read_text())
    again = json.loads(write(run, "b.json", "Anna", VANILLA).read_text())
    (run / layout.VOTES).write_text(json.dumps(kept | {"sheets": [*kept["sheets"], again]}))
    (run / layout.SUCCESS).unlink()
    done = lora_job("report", run)
    assert done.returncode == 46
    assert "is of the same rater as" in done.stderr


def test_votes_on_other_pictures_are_set_aside(run: Path) -> None:
    assert lora_job("report", run, "--ratings", write(run, "a.json", "anna")).returncode == 0
    resolved = json.loads((run / layout.RESOLVED).read_text())
    resolved["manifest"]["evaluation"]["rating"] = {"question": "Which is better drawn?"}
    (run / layout.RESOLVED).write_text(json.dumps(resolved))
    (run / layout.SUCCESS).unlink()
    done = lora_job("report", run)
    assert done.returncode == 0, done.stderr
    ratings = comparison(run)["ratings"]
    assert (ratings["set_aside"], ratings["raters"], ratings["pairs"]) == (1, [], [])
    assert ratings["headline"] == "No vote counts: the votes that were given are on other pictures than these."
    done = lora_job("report", run, "--ratings", run.parent.parent / "a.json")
    assert done.returncode == 46
    assert "is of another page" in done.stderr


def test_votes_in_a_bucket(run: Path, s3_admin: S3Server, s3_bucket: str) -> None:
    data = write(run, "a.json", "anna").read_bytes()
    s3_admin.client().put_object(Bucket=s3_bucket, Key="votes/anna.json", Body=data)
    settings = StorageSettings(s3_admin.endpoint_url, region="us-east-1", addressing_style="path")
    variables = backend_of("s3://x/y").variables(settings)
    done = lora_job("report", run, "--ratings", f"s3://{s3_bucket}/votes/anna.json", env=variables)
    assert done.returncode == 0, done.stderr
    assert [rater["name"] for rater in comparison(run)["ratings"]["raters"]] == ["anna"]
    gone = lora_job("report", run, "--ratings", f"s3://{s3_bucket}/votes/ben.json", env=variables)
    assert gone.returncode == 42
