"""Which pictures a blind rating shows beside each other: balanced, the same at every start, with catch trials."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from itertools import combinations, pairwise

import pytest

from lora_engine.evaluation.ratings.trials import MOST_PLAIN, Drawn, Picture, Trial, Trials, make_trials

BASE = ""


def drawn(contenders: int, prompts: int, sample_seeds: int, seeds: int) -> Drawn:
    """The pictures of the base model and of so many other contenders less one."""

    def picture(name: str, place: tuple[int, int], seed: int | None) -> Picture:
        return Picture(hashlib.sha256(repr((name, place, seed)).encode()).hexdigest()[:16], name, seed)

    places = [(prompt, seed) for prompt in range(prompts) for seed in range(sample_seeds)]
    others = [f"variant-{at}" for at in range(contenders - 1)]
    found: dict[str, dict[tuple[int, int], list[Picture]]] = {
        BASE: {place: [picture(BASE, place, None)] for place in places}
    }
    found |= {
        name: {place: [picture(name, place, seed) for seed in range(seeds)] for place in places} for name in others
    }
    return found


def trials_of(some: Drawn, run_id: str = "1" * 32) -> Trials:
    prompts = [f"prompt {at}" for at in range(1 + max(prompt for of in some.values() for prompt, _ in of))]
    found = make_trials("study", run_id, "Which?", prompts, some)
    assert found is not None
    return found


def of_kind(trials: Trials, kind: str) -> list[Trial]:
    return [trial for trial in trials.trials if trial.kind == kind]


def who(trial: Trial) -> list[str]:
    return [picture.contender for picture in trial.pictures]


STUDIES = [
    (2, 24, 1, 1),
    (2, 3, 2, 3),
    (3, 24, 1, 3),
    (4, 24, 1, 1),
    (5, 6, 4, 2),
    (7, 100, 2, 1),
    (10, 256, 1, 1),
    (3, 1, 1, 1),
]


@pytest.fixture(params=STUDIES, ids=str)
def study(request: pytest.FixtureRequest) -> Drawn:
    return drawn(*request.param)


def test_every_pair_of_contenders_stands_together_equally_often(study: Drawn) -> None:
    plain = of_kind(trials_of(study), "plain")
    together = Counter(frozenset(pair) for trial in plain for pair in combinations(who(trial), 2))
    counts = [together[frozenset(pair)] for pair in combinations(study, 2)]
    assert max(counts) - min(counts) <= 2, counts
    if len(study) <= 3:
        assert len(set(counts)) == 1


def test_every_contender_stands_at_every_place_equally_often(study: Drawn) -> None:
    plain = of_kind(trials_of(study), "plain")
    stood = Counter((at, name) for trial in plain for at, name in enumerate(who(trial)))
    size = min(3, len(study))
    for name in study:
        counts = [stood[at, name] for at in range(size)]
        assert max(counts) - min(counts) <= 3, (name, counts)


def test_prompts_sample_seeds_and_training_seeds_come_in_turn(study: Drawn) -> None:
    plain = of_kind(trials_of(study), "plain")
    places = {place for of in study.values() for place in of}
    shown = Counter((trial.prompt, trial.sample_seed) for trial in plain)
    counts = [shown[place] for place in places]
    assert max(counts) - min(counts) <= 1
    for name in study:
        seeds = Counter(picture.seed for trial in plain for picture in trial.pictures if picture.contender == name)
        assert max(seeds.values()) - min(seeds.values()) <= 1 or len(study) > 3, (name, seeds)
    for trial in plain:
        assert len({picture.seed for picture in trial.pictures if picture.seed is not None}) <= 1


def test_a_session_is_short_and_has_catch_trials(study: Drawn) -> None:
    trials = trials_of(study)
    plain, repeats, identical = (of_kind(trials, kind) for kind in ("plain", "repeat", "identical"))
    assert 0 < len(plain) <= MOST_PLAIN
    assert len(trials.trials) <= 75
    few = min(len(plain), 2)
    assert few <= len(repeats) == len(identical) <= max(few, len(plain) // 8)
    assert len({frozenset(picture.name for picture in trial.pictures) for trial in plain}) == len(plain)


def test_a_repeat_shows_an_earlier_trial_in_another_order(study: Drawn) -> None:
    trials = trials_of(study)
    for at, trial in enumerate(trials.trials):
        if trial.kind != "repeat":
            assert trial.of is None
            continue
        assert trial.of is not None
        before = trials.trials[trial.of]
        assert trial.of < at
        assert before.kind == "plain"
        assert (trial.prompt, trial.sample_seed) == (before.prompt, before.sample_seed)
        assert set(trial.pictures) == set(before.pictures)
        assert all(now != then for now, then in zip(trial.pictures, before.pictures, strict=True))
        assert at - trial.of > min(10, len(trials.trials) // 6)


def test_an_identical_trial_shows_one_picture_twice(study: Drawn) -> None:
    for trial in of_kind(trials_of(study), "identical"):
        names = [picture.name for picture in trial.pictures]
        assert len(set(names)) == len(names) - 1
        assert len(names) == min(3, len(study))


def test_the_prompts_that_two_contenders_share_are_counted(study: Drawn) -> None:
    trials = trials_of(study)
    plain = of_kind(trials, "plain")
    shared = [
        len({trial.prompt for trial in plain if {one, other} <= set(who(trial))})
        for one, other in combinations(study, 2)
    ]
    assert trials.fewest_prompts == min(shared)


def test_another_run_has_another_order(study: Drawn) -> None:
    orders = [
        [picture.name for trial in trials_of(study, run_id).trials for picture in trial.pictures] for run_id in "ab"
    ]
    assert orders[0] != orders[1] or len(orders[0]) < 12


def test_what_follows_what_is_no_rule() -> None:
    order = [trial.prompt for trial in of_kind(trials_of(drawn(3, 60, 1, 1)), "plain")]
    assert order != sorted(order)
    assert sum(then + 1 == now for then, now in pairwise(order)) < 10


def test_pictures_that_are_the_same_are_never_compared() -> None:
    some = {name: dict(of) for name, of in drawn(3, 8, 1, 1).items()}
    for place in [(0, 0), (1, 0)]:
        (twin,) = some["variant-0"][place]
        some["variant-1"][place] = [Picture(twin.name, "variant-1", 0)]
    plain = of_kind(trials_of(some), "plain")
    assert all(len({picture.name for picture in trial.pictures}) == len(trial.pictures) for trial in plain)
    assert Counter(len(trial.pictures) for trial in plain) == {3: 6, 2: 2}
    assert all(BASE in who(trial) for trial in plain if len(trial.pictures) == 2)


def test_there_is_nothing_to_rate_where_all_pictures_are_the_same_or_of_other_prompts() -> None:
    place, other = (0, 0), (1, 0)
    same = {name: {place: [Picture("0" * 16, name, 1)]} for name in ("a", "b")}
    apart = {"a": {place: [Picture("0" * 16, "a", 1)]}, "b": {other: [Picture("1" * 16, "b", 1)]}}
    for some in (same, apart, {"a": same["a"]}, {}):
        assert make_trials("study", "", "Which?", ["one", "two"], some) is None


def test_a_contender_without_a_picture_of_a_training_seed_shows_its_others() -> None:
    some = {name: dict(of) for name, of in drawn(3, 4, 1, 3).items()}
    some["variant-1"] = {place: pictures[:1] for place, pictures in some["variant-1"].items()}
    plain = of_kind(trials_of(some), "plain")
    assert len(plain) == 12
    assert all(len(trial.pictures) == 3 for trial in plain)


def test_the_hash_of_the_page_is_that_of_what_it_shows() -> None:
    found = trials_of(drawn(3, 2, 1, 1))
    shown = {
        "run_id": found.run_id,
        "question": "Which?",
        "prompts": ["prompt 0", "prompt 1"],
        "trials": [
            {"prompt": t.prompt, "sample_seed": t.sample_seed, "pictures": [p.name for p in t.pictures]}
            for t in found.trials
        ],
    }
    text = json.dumps(shown, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert found.page_sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_another_process_finds_the_same_trials() -> None:
    program = (
        "from tests.lora_engine.evaluation.ratings.test_trials import drawn, trials_of\n"
        "print(trials_of(drawn(4, 6, 2, 2)).page_sha256)"
    )
    found = {trials_of(drawn(4, 6, 2, 2)).page_sha256}
    for seed in "12":
        environ = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        found.add(subprocess.check_output([sys.executable, "-c", program], env=environ, text=True).strip())
    assert len(found) == 1
