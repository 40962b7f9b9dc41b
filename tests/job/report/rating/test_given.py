"""Files of votes that are counted come back to the byte; all others are refused by their names, all at once."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from job.errors import ExitCode, JobError
from job.report.rating.given import LARGEST, Sheet, read_files, sheets_of
from lora_engine.evaluation.ratings.trials import Trials
from tests.job.report.rating.votes import as_file, make, prefers, sheet_of, signed

TRIALS = make("a", "b", "c")
TWO = make("a", "b")
OTHER = make("a", "b", "c", run="other", run_id="2" * 32)
LIKES_A = prefers("a", "b", "c")
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "\u202eanna",
    "a\nb\x1b[31m",
    "{{ 7 * 7 }}",
    "é" * 200,
    "../../etc/passwd",
    "\0",
]


def given(folder: Path, trials: Trials = TRIALS, **files: bytes) -> list[Sheet]:
    paths = [folder / f"{name}.json" for name in files]
    for path, data in zip(paths, files.values(), strict=True):
        path.write_bytes(data)
    return sheets_of(read_files([str(path) for path in paths], {}), trials)


def refused(folder: Path, trials: Trials = TRIALS, **files: bytes) -> JobError:
    with pytest.raises(JobError) as caught:
        given(folder, trials, **files)
    assert "No vote was counted" in caught.value.remedy
    return caught.value


def edited(change: Callable[[dict[str, Any]], object], trials: Trials = TRIALS) -> bytes:
    """A file of which somebody changed something, and made its digest anew."""
    sheet = json.loads(json.dumps(sheet_of(trials, "anna", LIKES_A)))
    change(sheet)
    return as_file(signed(sheet))


@pytest.mark.parametrize("rater", ["anna", *HOSTILE])
def test_what_the_page_exports_comes_back_to_the_byte(tmp_path: Path, rater: str) -> None:
    data = as_file(sheet_of(TRIALS, rater, LIKES_A, answered=7))
    (sheet,) = given(tmp_path, anna=data)
    assert (sheet.rater, len(sheet.votes)) == (rater, 7)
    assert as_file(sheet.model_dump(mode="json")) == data


@pytest.mark.parametrize(
    "laid_out",
    [
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.rstrip(),
        lambda data: b"\xef\xbb\xbf" + data + b"\n\n",
        lambda data: json.dumps(json.loads(data)).encode(),
    ],
)
def test_a_text_that_was_copied_or_sent_by_mail_counts(tmp_path: Path, laid_out: Callable[[bytes], bytes]) -> None:
    data = as_file(sheet_of(TRIALS, "änna", LIKES_A))
    assert given(tmp_path, copied=laid_out(data)) == given(tmp_path, exported=data)


def vote(at: int, **values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda sheet: sheet["votes"][at].update(values)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is no file of votes"),
        (b"PNG \xff\xfe", "is no file of votes"),
        (b"[" * 100_000, "is no file of votes"),
        (b"x" * (LARGEST + 1), "is no file of votes"),
        (b'{"format": "lora-job/ratings/2"}', "is no file of votes as the page exports it (format"),
        (as_file(sheet_of(OTHER, "anna", LIKES_A)), "of another run, 'other'"),
        (as_file(sheet_of(make("a", "b", "c", prompts=13), "anna", LIKES_A)), "is of another page"),
        (as_file(sheet_of(TRIALS, "anna", LIKES_A) | {"rater": "ben"}), "was altered after the page exported it"),
        (as_file(sheet_of(TRIALS, "anna", LIKES_A, answered=0)), "holds no vote"),
        (as_file(sheet_of(TRIALS, "anna", LIKES_A)).replace(b'"best": 0', b'"best": 0.0', 1), "votes.0.best"),
        (as_file(sheet_of(TRIALS, "anna", LIKES_A)).replace(b'"best": 0', b'"best": true', 1), "votes.0.best"),
        (as_file(sheet_of(TRIALS, "anna", LIKES_A)).replace(b'"best": 0', b'"best": NaN', 1), "votes.0.best"),
        (as_file(sheet_of(TRIALS, "", LIKES_A)), "(rater"),
        (as_file(sheet_of(TRIALS, "x" * 201, LIKES_A)), "(rater"),
        (as_file(sheet_of(TRIALS, "half \ud83d", LIKES_A)), "is no file of votes"),
        (edited(lambda sheet: sheet.update(more=1)), "(more"),
        (edited(lambda sheet: sheet.update(trials=3)), "its number of trials"),
        (edited(lambda sheet: sheet.update(question="Which?")), "its question"),
        (edited(lambda sheet: sheet["votes"].append(sheet["votes"][-1])), "trial 15 stands in it twice"),
        (edited(lambda sheet: sheet["votes"].reverse()), "not in the order of the trials"),
        (edited(vote(15, trial=16)), "the page has no trial 16"),
        (edited(vote(0, pictures=["0" * 16, "1" * 16, "2" * 16])), "the pictures are not the page's in trial 0"),
        (edited(lambda sheet: sheet["votes"][3]["pictures"].reverse()), "the pictures are not the page's in trial 3"),
        (edited(vote(0, best=3)), "a picture is chosen that was not shown in trial 0"),
        (edited(vote(0, best=-1)), "votes.0.best"),
        (edited(vote(0, best=1, worst=1)), "one picture is both the best and the worst in trial 0"),
    ],
)
def test_a_file_that_is_not_to_be_counted_is_refused_by_its_name(tmp_path: Path, data: bytes, said: str) -> None:
    error = refused(tmp_path, anna=data)
    assert error.code == ExitCode.CONFLICT
    assert error.cause.startswith(f"{tmp_path}/anna.json ")
    assert said in error.cause
    assert len(error.cause) < 1000
    assert str(error).count("\n") == 0


def test_two_pictures_have_no_worst(tmp_path: Path) -> None:
    data = edited(lambda sheet: sheet["votes"][0].update(best=None, worst=1), TWO)
    assert "a worst picture is named of two" in refused(tmp_path, TWO, anna=data).cause


@pytest.mark.parametrize("again", ["anna", " Anna ", "\uff21\uff2e\uff2e\uff21"])
def test_a_rater_counts_once(tmp_path: Path, again: str) -> None:
    files = {
        "one": as_file(sheet_of(TRIALS, "anna", LIKES_A)),
        "two": as_file(sheet_of(TRIALS, again, prefers("c", "b", "a"))),
    }
    error = refused(tmp_path, **files)
    assert f"{tmp_path}/two.json is of the same rater as {tmp_path}/one.json" in error.cause
    assert "of two people, one has to rate under another name" in error.cause
    assert len(given(tmp_path, one=files["one"], copy=files["one"])) == 1
    assert len(read_files([f"{tmp_path}/one.json"] * 2, {})) == 1


def test_all_files_that_are_refused_are_named_at_once(tmp_path: Path) -> None:
    error = refused(tmp_path, good=as_file(sheet_of(TRIALS, "anna", LIKES_A)), bad=b"{}", worse=b"")
    lines = str(error).splitlines()
    assert lines[0] == "2 files of votes cannot be counted:"
    assert [line.split()[0] for line in lines[1:3]] == [f"{tmp_path}/bad.json", f"{tmp_path}/worse.json"]
    assert error.code == ExitCode.CONFLICT


def test_files_that_are_not_there(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "loop.json").symlink_to("loop.json")
    places = {"none.json": "is not there", "none.json/x": "is not there", ".": "is no file", "fifo.json": "is no file"}
    for place, said in (places | {"loop.json": "is no file"}).items():
        with pytest.raises(JobError, match=said) as caught:
            sheets_of(read_files([str(tmp_path / place)], {}), TRIALS)
        assert caught.value.code == ExitCode.STORAGE_ACCESS


def test_a_run_without_pictures_has_nothing_to_rate() -> None:
    with pytest.raises(JobError, match="nothing to rate") as caught:
        sheets_of([], None)
    assert caught.value.code == ExitCode.CONFLICT
