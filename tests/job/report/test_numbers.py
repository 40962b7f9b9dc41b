"""Every number of a report, against a second computation from the run's files that shares no code with it."""

import json
import zlib
from collections import Counter
from typing import Any

import numpy as np
import pytest

from job.report.publish import publish_report
from tests.job.report.by_hand import ByHand, assert_holds
from tests.job.report.made_run import Design, Floats, Scored, make_run

EXISTING = {"strategy": "existing"}
MIX = {
    "strategy": "mix",
    "caption_dropout": 0.2,
    "parts": [
        {"weight": 3, "captions": {"strategy": "existing", "style_hints": "ink"}},
        {"weight": 1, "captions": {"strategy": "constant", "text": "a tattoo"}},
    ],
}
VARIANTS = [
    {"name": "plain", "captions": EXISTING},
    {"name": "mixed", "captions": MIX},
    {"name": "dropped", "captions": {**EXISTING, "caption_dropout": 0.5}},
    {"name": "constant", "captions": {"strategy": "constant", "text": "a tattoo"}},
]
OWN = {
    "plain": {"plain": 1.0},
    "mixed": {"mixed part 1": 0.6, "mixed part 2": 0.2, "": 0.2},
    "dropped": {"plain": 0.5, "": 0.5},
    "constant": {"mixed part 2": 1.0},  # the texts of a component that is there already
}
SETTINGS = ["training.steps=8", "evaluation.every=2", "evaluation.timesteps=4", "evaluation.final_timesteps=8"]
GROUPS = {1: list(range(14)), 3: [0, 0, 0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 8, 9]}  # by the number of seeds


def losses(scored: Scored) -> Floats:
    """Lognormal losses, in which everything has a part of its own: adapter, seed, step, component, image, timestep."""
    dice = np.random.default_rng(zlib.crc32(repr(scored).encode()))
    hard = np.random.default_rng(1).lognormal(0, 0.3, (14, 8))
    trained = 0.5 ** (scored.step / 4) if scored.variant else 1.0
    adapter = {"plain": 0.0, "mixed": 0.03, "dropped": -0.1, "constant": 0.1}.get(scored.variant or "", 0.0)
    shuffled = 0.2 * scored.component.endswith("shuffled")
    prompt = {"": 0.1, "plain": -0.05, "mixed part 2": 0.05}.get(scored.component, 0.0)
    found: Floats = hard * np.exp(0.3 * dice.standard_normal((14, 8))) * (0.5 + 0.5 * trained)
    return found + adapter + shuffled + prompt


@pytest.fixture(scope="module", params=[1, 3])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], ByHand]:
    """The report of a run with so many seeds, as it stands in the file, and the run by hand."""
    seeds = range(1, request.param + 1)
    made = make_run(
        tmp_path_factory.mktemp("run"), Design(VARIANTS, losses, seeds, GROUPS[request.param], settings=SETTINGS)
    )
    publish_report(made.run)
    return json.loads((made.folder / "report" / "comparison.json").read_text()), ByHand(made.folder, OWN)


def numbers(value: Any) -> int:
    """How many numbers are in a value of JSON."""
    if isinstance(value, dict | list):
        return sum(map(numbers, value.values() if isinstance(value, dict) else value))
    return int(isinstance(value, int | float) and not isinstance(value, bool))


def test_every_number_of_the_members(report: tuple[dict[str, Any], ByHand]) -> None:
    found, by_hand = report
    assert [(member["variant"], member["seed"]) for member in found["members"]] == by_hand.adapters
    for member in found["members"]:
        expected = by_hand.member(member["variant"], member["seed"])
        assert_holds(member, expected, f"{member['variant']} {member['seed']}")
        left_out = {"pack", "checkpoints"}  # of the files, sizes and hashes are the commit's
        counted = {key: value for key, value in member.items() if key not in left_out}
        assert numbers(expected) >= numbers(counted)


def test_every_number_of_the_pairs(report: tuple[dict[str, Any], ByHand]) -> None:
    found, by_hand = report
    codes: Counter[str] = Counter()
    assert len(found["pairs"]) == 6 * (1 if len(by_hand.seeds) == 1 else 4)
    for row in found["pairs"]:
        seeds = by_hand.seeds if row["seed"] is None else [row["seed"]]
        rows = 6 * (len(by_hand.seeds) if row["seed"] is not None else 1)
        expected = by_hand.pair(row["a"], row["b"], seeds, rows)
        code, lower = expected.pop("code"), expected.pop("winner")
        assert_holds(row, expected, f"{row['a']} {row['b']} {row['seed']}")
        assert (row["verdict"] is None) == (len(by_hand.seeds) == 3 and row["seed"] is not None)
        if row["verdict"] is not None:
            assert row["verdict"]["code"] == code
            assert row["verdict"]["winner"] == (lower if code in ("lower", "lower_but_depends") else None)
            codes[code] += 1
    print(codes)
    assert len(codes) >= 3


def test_every_other_number(report: tuple[dict[str, Any], ByHand]) -> None:
    found, by_hand = report
    groups = len(set(by_hand.groups))
    doubled = sum(count > 1 for count in Counter(by_hand.groups).values())
    assert found["data"] == {
        "files": 20, "train": 6, "validation": 14, "groups": groups + 6, "near_duplicate_groups": doubled,
        "duplicates": 0, "ignored": 0, "ignored_because": {}, "rejected": {}, "uniform": 0, "enlarged": 20,
    }  # fmt: skip
    assert found["timing"] == {"prepare": {"fetch": 2.0}, "pack-0": {"train": 60.0, "evaluate": 6.0}}
    assert found["fair"] == {str(seed): True for seed in by_hand.seeds}
    assert found["schema_version"] == 2
    mixed, constant = found["captions"]["mixed"], found["captions"]["constant"]
    assert (mixed["images"], mixed["captions"], mixed["unique_ratio"]) == (20, 40, 21 / 40)
    assert (constant["images"], constant["captions"], constant["unique_ratio"]) == (20, 20, 1 / 20)
    assert found["captions"].keys() == {"plain", "mixed", "constant"}
