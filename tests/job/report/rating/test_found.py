"""What votes come to: numbers by hand, words, whom they are about, and who is left out."""

import json

import pytest

from job.report.build import build_comparison
from job.report.picture_schema import PairPictures, PictureDifference
from job.report.rating.found import find
from job.report.rating.given import Sheet
from job.report.rating.kept import Kept
from job.report.rating_schema import Ratings
from job.report.schema import Pair
from lora_engine.evaluation.ratings.trials import Trial, Trials
from tests.job.report.cases import CASES, A, B
from tests.job.report.made_run import Design, make_run
from tests.job.report.rating.votes import Choose, Chosen, make, prefers, sheet_of

THREE, TWO = make("a", "b", ""), make("a", "b", prompts=24)
A_FIRST, B_FIRST = prefers("a", "b", ""), prefers("b", "a", "")


def heard(trials: Trials, *raters: Choose, pairs: tuple[Pair, ...] = (), answered: int | None = None) -> Ratings:
    """What is found of the votes of raters who choose so."""
    sheets = [Sheet.model_validate_json(_json(trials, f"rater {at}", of, answered)) for at, of in enumerate(raters)]
    return find(Kept(tuple(sheets)), trials, ["a", "b"], pairs)


def _json(trials: Trials, name: str, choose: Choose, answered: int | None) -> str:
    return json.dumps(sheet_of(trials, name, choose, answered))


def mostly(first: Choose, other: Choose, every: int) -> Choose:
    """Chooses as the first does, but in one of so many trials as the other; catch trials as the first."""

    def choose(at: int, trial: Trial) -> Chosen:
        return (other if at % every == every - 1 and trial.kind == "plain" else first)(at, trial)

    return choose


def careless(_: int, trial: Trial) -> Chosen:
    """Always the first picture."""
    return 0, None if len(trial.pictures) == 2 else len(trial.pictures) - 1


def undecided(_at: int, _trial: Trial) -> Chosen:
    return None, None


def test_votes_are_counted_by_pairs() -> None:
    found = heard(THREE, A_FIRST, mostly(A_FIRST, B_FIRST, 4), mostly(A_FIRST, undecided, 3))
    pairs = {(pair.a, pair.b): (pair.better, pair.ties, pair.worse) for pair in found.pairs}
    assert pairs == {("a", "b"): (12 + 9 + 8, 4, 3), ("a", ""): (32, 4, 0), ("b", ""): (32, 4, 0)}
    assert [rater.votes for rater in found.raters] == [12, 12, 12]
    assert [(rater.caught, rater.failed) for rater in found.raters] == [(4, 0)] * 3
    (first, *_) = found.pairs
    assert first.win_rate.mean == pytest.approx((29 + 2) / 36)
    assert first.win_rate.confidence == pytest.approx(1 - 0.05 / 3)
    assert (first.prompts, first.raters, first.of_people) == (12, 3, True)
    assert [one.strength for one in found.contenders] == [None, None, None], "the base model never won"


def test_catch_trials_do_not_count_and_who_fails_them_is_left_out() -> None:
    found = heard(TWO, A_FIRST, careless, A_FIRST, A_FIRST)
    assert [rater.left_out for rater in found.raters] == [False, True, False, False]
    assert found.raters[1].failed > 1
    (pair,) = found.pairs
    assert (pair.better, pair.ties, pair.worse, pair.raters) == (72, 0, 0, 3)
    only = heard(TWO, careless)
    assert (only.pairs, only.agreement) == ([], None)
    assert only.headline.startswith("No vote counts")


def test_an_unfinished_session_counts_as_far_as_it_goes() -> None:
    found = heard(TWO, A_FIRST, answered=9)
    (pair,) = found.pairs
    assert (pair.better, found.raters[0].votes, found.raters[0].caught) == (9, 9, 0)
    (few,) = heard(TWO, A_FIRST, answered=5).pairs
    assert (few.win_rate.low, few.winner, few.votes_wanted) == (None, None, None)
    assert few.sentence == "5 prompts are too few to tell which of a and b is preferred: 6 are needed."
    assert heard(TWO, A_FIRST, answered=0).pairs == []


@pytest.mark.parametrize("choose", [A_FIRST, mostly(A_FIRST, B_FIRST, 6)])
def test_raters_who_agree_do_not_widen_an_interval(choose: Choose) -> None:
    """They say as much of the prompts as one of them."""
    (alone,) = heard(TWO, choose).pairs
    for raters in (2, 3, 8):
        (pair,) = heard(TWO, *[choose] * raters).pairs
        assert pair.win_rate.model_dump() == pytest.approx(alone.win_rate.model_dump(), abs=1e-12)
    assert alone.winner == "a"


def test_a_rater_of_few_votes_is_not_one_more() -> None:
    sheets = [sheet_of(TWO, "anna", A_FIRST), *(sheet_of(TWO, name, B_FIRST, answered=1) for name in ("ben", "cy"))]
    found = find(Kept(tuple(Sheet.model_validate_json(json.dumps(s)) for s in sheets)), TWO, ["a", "b"], ())
    (pair,) = found.pairs
    assert (pair.raters, pair.of_people, pair.winner) == (3, False, "a")
    assert found.headline == "These 3 raters prefer the pictures of a to those of b."


def test_means_lie_in_their_intervals() -> None:
    for prompts in range(6, 40):
        (pair,) = heard(make("a", "b", prompts=prompts), A_FIRST, A_FIRST).pairs
        low, high = pair.win_rate.low, pair.win_rate.high
        assert low is not None
        assert high is not None
        assert 0 <= low <= pair.win_rate.mean <= high <= 1


@pytest.mark.parametrize(
    ("raters", "who"),
    [(1, "This rater prefers"), (2, "These 2 raters prefer"), (3, "People prefer"), (4, "People prefer")],
)
def test_it_is_said_whom_it_is_about(raters: int, who: str) -> None:
    found = heard(TWO, *[mostly(B_FIRST, A_FIRST, 6)] * raters)
    (pair,) = found.pairs
    assert pair.winner == "b"
    assert pair.of_people == (raters > 2)
    assert pair.sentence.startswith(f"{who} b to a: 83% [")
    assert f"of {24 * raters} votes for b, ties counting half, on 24 prompts by {raters} rater" in pair.sentence
    assert found.headline == f"{who} the pictures of b to those of a."
    assert pair.votes_missing == 0


def test_what_cannot_be_told_says_how_many_votes_would() -> None:
    (pair,) = heard(TWO, mostly(mostly(A_FIRST, B_FIRST, 2), A_FIRST, 12)).pairs
    assert pair.winner is None
    assert pair.votes_wanted is not None
    assert pair.votes_missing == pair.votes_wanted - 24 > 0
    more = f"About {pair.votes_missing} more such votes, with more prompts, would tell a difference as large"
    assert f"{more} as this one." in pair.sentence
    (even,) = heard(TWO, mostly(A_FIRST, B_FIRST, 2)).pairs
    assert (even.win_rate.mean, even.votes_wanted, even.votes_missing) == (0.5, None, None)
    assert even.sentence.startswith("It cannot be told which of a and b is preferred: 50% [")
    assert even.sentence.endswith("by 1 rater.")


def test_more_votes_on_few_prompts_would_not_tell() -> None:
    six = make("a", "b", "", prompts=6)
    for raters in (1, 3):
        found = heard(six, *[A_FIRST] * raters)
        (pair, *_) = found.pairs
        assert (pair.winner, pair.votes_wanted, pair.votes_missing) == (None, None, None)
        assert pair.sentence.endswith(" More prompts, rather than more votes on these, would tell.")
        whose = "1 rater" if raters == 1 else "3 raters"
        assert found.headline == f"The votes of {whose} do not tell which pictures are preferred."


def test_raters_of_unlike_tastes_are_too_few() -> None:
    (pair,) = heard(TWO, A_FIRST, A_FIRST, mostly(A_FIRST, B_FIRST, 3)).pairs
    assert (pair.winner, pair.of_people, pair.votes_missing) == (None, True, 0)
    assert pair.sentence.endswith(" More raters, rather than more votes by these, would tell.")


def test_all_are_named_of_whom_none_is_better() -> None:
    trials = make("a", "b", "", prompts=24)
    found = heard(trials, mostly(A_FIRST, B_FIRST, 2))
    assert found.headline == "This rater prefers the pictures of a and b to those of the base model."


def test_agreement_and_strengths() -> None:
    same = heard(THREE, A_FIRST, A_FIRST)
    assert same.agreement is not None
    assert (same.agreement.pairs, same.agreement.share, same.agreement.alpha) == (36, 1, None)
    found = heard(THREE, A_FIRST, prefers("b", "", "a"), prefers("", "a", "b"), A_FIRST)
    assert [one.name for one in found.contenders] == ["a", "b", ""]
    assert sum(one.strength or 0 for one in found.contenders) == pytest.approx(0)
    assert found.tie == 0


@pytest.fixture(scope="module")
def lower(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A pair of which a has the lower loss, however prompted, without pictures."""
    made = make_run(tmp_path_factory.mktemp("made"), Design([A, B], CASES["lower, however prompted"].losses))
    (pair,) = build_comparison(made.run).pairs
    return pair


def with_pictures(pair: Pair, clip_score: float, line_art_distance: float = 0.0) -> Pair:
    """The pair with pictures whose measures differ so, beyond any doubt unless by nothing."""
    measured = {
        name: PictureDifference(
            mean=mean,
            low=mean - 0.1,
            high=mean + 0.1,
            confidence=0.95,
            simultaneous_low=mean - 0.2,
            simultaneous_high=mean + 0.2,
        )
        for name, mean in (("clip_score", clip_score), ("line_art_distance", line_art_distance))
    }
    return pair.model_copy(update={"pictures": PairPictures(bare={}, as_trained=measured)})


@pytest.mark.parametrize(
    ("votes", "clip_score", "distance", "said"),
    [
        (A_FIRST, 1, 0, "People, the measures of pictures and the losses agree: all are for a."),
        (A_FIRST, -1, 0, "People prefer the pictures of a; {m} disagree and are for b, and the losses agree."),
        (B_FIRST, -1, 0, "People prefer the pictures of b; {m} agree, and the losses disagree and are for a."),
        (B_FIRST, 0, 0, "People prefer the pictures of b; {m} {n}, and the losses disagree and are for a."),
        (A_FIRST, None, 0, "People prefer the pictures of a; {m} are missing, and the losses agree."),
        (
            A_FIRST,
            1,
            1,
            "People prefer the pictures of a; {m} are for the one in some things and for the other in others, and the "
            "losses agree.",
        ),
        (undecided, 1, 0, "{p} cannot be said to prefer either of a and b; {m} are for a, and the losses are for a."),
    ],
)
def test_people_pictures_and_losses(
    lower: Pair, votes: Choose, clip_score: float | None, distance: float, said: str
) -> None:
    pair = lower if clip_score is None else with_pictures(lower, clip_score, distance)
    found = heard(TWO, votes, votes, votes, pairs=(pair,))
    assert found.pairs[0].agreement == said.format(m="the measures of pictures", n="do not tell them apart", p="People")
    (alone,) = heard(TWO, votes, pairs=(pair,)).pairs
    assert "People" not in (alone.agreement or "")


def test_the_base_model_is_in_no_pair_of_the_report(lower: Pair) -> None:
    found = heard(THREE, A_FIRST, pairs=(lower,))
    said = {(pair.a, pair.b): pair for pair in found.pairs}
    assert said["a", ""].agreement is None
    assert said["a", ""].sentence.startswith("This rater prefers a to the base model: 100% [")
    assert found.headline == "This rater prefers the pictures of a to those of b and the base model."
