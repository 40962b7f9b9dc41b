"""What a report writes for blind rating: a page and pictures that tell nobody whose they are, or nothing."""

import hashlib
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from job import layout
from job.layout import Member
from job.report.pictures import study_pictures
from job.report.publish import publish_report
from job.report.rating.drawn import read_rating
from job.report.rating.page import render_rating
from job.run.collect import collect
from job.run.resolved import Resolved
from job.run.samples import SampleIndex
from job.run.success import write_success
from job.run.verify import Depth, verify
from job.storage.folder import RunFolder
from lora_engine.evaluation.ratings.trials import Trials
from tests.job.report.made_run import STEPS, MadeRun
from tests.job.report.rating.drawn_run import ONE, OTHER, drawn_run, trials_of

PROMPTS = ["a heart", "a sun", "a boat"]
SECRETS = (ONE, OTHER, "step", "seed-1", "as_trained", "as-trained", "repeat", "identical")


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    """A finished run with its report, which no test changes."""
    made = drawn_run(tmp_path_factory.mktemp("reported") / "study", PROMPTS, sample_seeds=(3, 4))
    publish_report(made.run)
    write_success(made.run)
    return made


@pytest.fixture
def copied(reported: MadeRun, tmp_path: Path) -> RunFolder:
    """A copy of the run."""
    return RunFolder(reported.run.storage, str(shutil.copytree(reported.run.root, tmp_path / "copy")))


def rated(run: RunFolder) -> list[Path]:
    """The pictures beside the page."""
    return sorted((Path(run.root) / layout.RATED).iterdir())


def shown(trials: Trials) -> set[str]:
    return {f"{picture.name}.webp" for trial in trials.trials for picture in trial.pictures}


def test_no_byte_of_page_or_pictures_tells_a_variant(reported: MadeRun) -> None:
    page = Path(reported.run.root) / layout.RATING_PAGE
    shown_data = re.search(r'<script type="application/json" id="study">(.*?)</script>', page.read_text())
    assert shown_data is not None
    for secret in SECRETS:
        assert secret not in shown_data[1]
    for secret in (ONE, OTHER, f"step-{STEPS:06d}", "as trained"):
        assert secret not in page.read_text()
    for picture in rated(reported.run):
        data = picture.read_bytes()
        assert re.fullmatch(r"[0-9a-f]{16}\.webp", picture.name)
        assert not any(secret.encode() in data for secret in (ONE, OTHER, "step"))
        assert (data[:4], data[8:16]) == (b"RIFF", b"WEBPVP8 ")  # no chunk for EXIF, XMP or a profile can follow
        assert int.from_bytes(data[16:20], "little") in (len(data) - 20, len(data) - 21)
        with Image.open(picture) as opened:
            assert opened.size == (64, 64)
            assert opened.info.keys() <= {"background", "loop", "timestamp", "duration"}


def test_no_name_of_a_picture_can_be_looked_up_in_the_report(reported: MadeRun) -> None:
    others = {path.name for path in (Path(reported.run.root) / layout.REPORT_PICTURES).iterdir()}
    assert others
    assert not others & {path.name for path in rated(reported.run)}


def test_page_and_pictures_are_made_anew_to_the_byte_and_pictures_are_equally_old(copied: RunFolder) -> None:
    page = Path(copied.root) / layout.RATING_PAGE
    before = {path: path.read_bytes() for path in [page, *rated(copied)]}
    began = {path.stat().st_mtime for path in rated(copied)}
    assert len(began) == 1
    lost, touched, *_ = rated(copied)
    lost.unlink()
    page.unlink()
    touched.write_bytes(b"not as it was made")
    publish_report(copied)
    assert {path.stat().st_mtime for path in rated(copied)} == began
    assert {path: path.read_bytes() for path in [page, *rated(copied)]} == before


def test_pictures_are_those_of_the_trials_and_are_drawn_as_trained(reported: MadeRun) -> None:
    trials = trials_of(reported)
    assert {path.name for path in rated(reported.run)} == shown(trials)
    contenders = {(p.contender, p.seed) for trial in trials.trials for p in trial.pictures}
    assert contenders == {("", None), (ONE, 1), (ONE, 2), (OTHER, 1), (OTHER, 2)}
    run_id, members = trials.run_id, [Member(name, seed) for name in (ONE, OTHER) for seed in (1, 2)]
    as_trained = {
        hashlib.sha256(f"{run_id}{row.sha256}rating".encode()).hexdigest()[:16]
        for member in members
        for row in index_of(reported.run, member).images
        if row.prompting == "as_trained"
    }
    assert len(as_trained) == 24
    assert {p.name for t in trials.trials for p in t.pictures if p.contender} == as_trained
    bare = {row.sha256 for row in index_of(reported.run, members[0], 0).images if row.prompting == "bare"}
    assert {p.name for t in trials.trials for p in t.pictures if not p.contender} == {
        hashlib.sha256(f"{run_id}{sha256}rating".encode()).hexdigest()[:16] for sha256 in bare
    }
    assert trials.prompts == tuple(PROMPTS)


def trials_in(run: RunFolder) -> Trials:
    """The trials that a report of the folder would have."""
    resolved = run.read_stored(layout.RESOLVED, Resolved)
    assert resolved is not None
    rating = read_rating(run, resolved, study_pictures(run))
    assert rating is not None
    return rating.trials


def index_of(run: RunFolder, member: Member, step: int = STEPS) -> SampleIndex:
    found = run.read_stored(layout.sample_index(member, step), SampleIndex)
    assert found is not None
    return found


def test_the_page_is_small(reported: MadeRun) -> None:
    assert (Path(reported.run.root) / layout.RATING_PAGE).stat().st_size < 60_000


def test_the_report_links_to_it_and_collecting_brings_it(reported: MadeRun, tmp_path: Path) -> None:
    assert 'href="rate.html"' in (Path(reported.run.root) / layout.PAGE).read_text()
    collect(reported.run, tmp_path / "here", adapters_alone=True)
    for path in [Path(reported.run.root) / layout.RATING_PAGE, *rated(reported.run)]:
        assert (tmp_path / "here" / path.relative_to(reported.run.root)).read_bytes() == path.read_bytes()


def test_a_page_or_picture_that_was_altered_is_named(copied: RunFolder) -> None:
    assert verify(copied, Depth.ALL).problems == ()
    page, picture = Path(copied.root) / layout.RATING_PAGE, rated(copied)[0]
    page.write_text(page.read_text().replace("Before you begin", "Before you begim"))
    picture.unlink()
    problems = verify(copied, Depth.ALL).problems
    assert {problem.key for problem in problems} == {layout.RATING_PAGE, f"{layout.RATED}/{picture.name}"}


def test_pictures_of_an_earlier_page_go_and_what_is_somebody_elses_stays(copied: RunFolder, tmp_path: Path) -> None:
    folder = Path(copied.root) / layout.RATED
    (folder / f"{'0' * 16}.webp").write_bytes(b"of an earlier page")
    (folder / "mine.webp").write_bytes(b"mine")
    (folder / "below").mkdir()
    (folder / "below" / f"{'0' * 16}.webp").write_bytes(b"mine, too")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / f"{'0' * 16}.webp").write_bytes(b"somebody else's")
    (folder / "linked").symlink_to(tmp_path / "others")
    publish_report(copied)
    assert not (folder / f"{'0' * 16}.webp").exists()
    assert (folder / "mine.webp").exists()
    assert (folder / "below" / f"{'0' * 16}.webp").exists()
    assert (tmp_path / "others" / f"{'0' * 16}.webp").exists()


@pytest.mark.slow
def test_there_is_no_page_any_more_where_nothing_can_be_rated(copied: RunFolder) -> None:
    before = len(rated(copied))
    for path in Path(copied.root).glob(f"variants/*/seed-*/samples/step-{0:06d}/samples.json"):
        path.unlink()
    publish_report(copied)
    assert 0 < len(rated(copied)) < before  # without the base model the two variants alone
    for path in Path(copied.root).glob(f"variants/{ONE}/seed-*/samples/*/samples.json"):
        path.unlink()
    publish_report(copied)
    assert rated(copied) == []
    assert not (Path(copied.root) / layout.RATING_PAGE).exists()
    assert "rate.html" not in (Path(copied.root) / layout.PAGE).read_text()


def test_variants_that_draw_the_same_stand_beside_the_base_model_alone(tmp_path: Path) -> None:
    made = drawn_run(tmp_path, PROMPTS, seeds=(1,), same=True)
    for trial in trials_of(made).trials:
        assert len(trial.pictures) == 2
        if trial.kind != "identical":
            assert {picture.contender for picture in trial.pictures} in ({"", ONE}, {"", OTHER})


def test_a_picture_that_is_lost_is_not_asked_for(copied: RunFolder) -> None:
    lost = Path(copied.root) / layout.samples(Member(ONE, 1), STEPS) / layout.sample_name(0, 3, as_trained=True)
    before = shown(trials_in(copied))
    lost.unlink()
    after = shown(trials_in(copied))
    assert len(before - after) == 1
    assert after < before


def test_an_adapter_that_was_drawn_before_the_end_of_its_training_is_not_shown(copied: RunFolder) -> None:
    index = Path(copied.root) / layout.sample_index(Member(ONE, 2), STEPS)
    index.unlink()
    pictures = {picture for trial in trials_in(copied).trials for picture in trial.pictures}
    assert {picture.seed for picture in pictures if picture.contender == ONE} == {1}
    assert {picture.seed for picture in pictures if picture.contender == OTHER} == {1, 2}


def test_an_earlier_version_noted_no_hashes(copied: RunFolder) -> None:
    before = trials_in(copied)
    for path in Path(copied.root).glob("variants/*/seed-*/samples/*/samples.json"):
        path.write_text(re.sub(r'"sha256": "[0-9a-f]+"', '"sha256": ""', path.read_text()))
    assert trials_in(copied) == before


def test_the_question_is_the_studys(tmp_path: Path) -> None:
    question = "Which is inkier, 'honestly' <b>now</b>?"
    made = drawn_run(tmp_path / "a", PROMPTS, seeds=(1,), settings=[f'evaluation.rating.question="{question}"'])
    other = drawn_run(tmp_path / "b", PROMPTS, seeds=(1,))
    page = render_rating(trials_of(made)).decode()
    assert "<h1>Which is inkier, &#39;honestly&#39; &lt;b&gt;now&lt;/b&gt;?</h1>" in page
    assert trials_of(made).question == question
    assert trials_of(other).question == "Which would you rather wear?"
