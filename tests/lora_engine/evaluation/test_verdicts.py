"""Every verdict reached by a constructed case, and all of them against the table of docs/reading-the-report.md."""

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_engine.evaluation.statistics import Interval
from lora_engine.evaluation.verdicts import WINS, Code, Evidence, decide

EQUAL_PROMPTS = ("under_a", "under_b", "no_prompt")
CELLS = ("as_trained", *EQUAL_PROMPTS)
BEATS = ("loser_own", "loser_same", "loser_none")


def interval(low: float | None, high: float | None) -> Interval:
    mean = 0.0 if low is None or high is None else (low + high) / 2
    return Interval(mean, low, high, 0.95)


BELOW, ABOVE, ACROSS, NONE = interval(-2, -1), interval(1, 2), interval(-1, 2), interval(None, None)
POINT, ENDS_AT_0, BEGINS_AT_0 = interval(0, 0), interval(-1, 0), interval(0, 1)

# What tells a as the lower one however it is prompted: every case below differs from it in what it names.
LOWER = Evidence(
    withheld=False,
    untrained=False,
    identical=False,
    groups=6,
    loss_unchanged=False,
    cells=dict.fromkeys(CELLS, BELOW),
    beats=dict.fromkeys(BEATS, BELOW),
    within=frozenset(),
)


def lower(**cells: Interval) -> Evidence:
    return replace(LOWER, cells=dict(LOWER.cells) | cells)


def apart(beats: Interval, at: str) -> Evidence:
    return replace(LOWER, beats=dict(LOWER.beats) | {at: beats})


UNCLEAR = replace(lower(as_trained=ACROSS), beats=dict.fromkeys(BEATS, ACROSS))
ALL_ACROSS = replace(UNCLEAR, cells=dict.fromkeys(CELLS, ACROSS))

CASES: list[tuple[Code, Evidence]] = [
    ("withheld", replace(LOWER, withheld=True)),
    ("withheld", replace(LOWER, withheld=True, identical=True, groups=0, untrained=True, cells={}, beats={})),
    ("identical", replace(LOWER, identical=True)),
    ("identical", replace(LOWER, identical=True, groups=5)),
    ("cannot_tell", replace(LOWER, groups=5)),
    ("cannot_tell", replace(LOWER, groups=1, cells=dict.fromkeys(CELLS, NONE), untrained=True, loss_unchanged=True)),
    ("nothing_measurable", replace(ALL_ACROSS, loss_unchanged=True)),
    ("nothing_measurable", replace(ALL_ACROSS, loss_unchanged=True, within=frozenset(CELLS))),
    (
        "nothing_measurable",
        replace(ALL_ACROSS, loss_unchanged=True, cells=dict(ALL_ACROSS.cells) | {"as_trained": BELOW}),
    ),
    ("nothing_measurable", replace(LOWER, untrained=True)),
    ("different_within_margin", replace(LOWER, within=frozenset({"as_trained"}))),
    ("different_within_margin", replace(lower(as_trained=ABOVE), within=frozenset(CELLS))),
    ("different_within_margin", replace(LOWER, within=frozenset({"as_trained"}), loss_unchanged=True)),
    ("lower", LOWER),
    ("lower", replace(LOWER, cells=dict.fromkeys(CELLS, ABOVE))),
    ("lower", replace(LOWER, within=frozenset({"under_a", "no_prompt"}))),
    ("lower", replace(LOWER, loss_unchanged=True)),
    *[("lower_but_depends", lower(**{cell: ACROSS})) for cell in EQUAL_PROMPTS],
    *[("lower_but_depends", lower(**{cell: ABOVE})) for cell in EQUAL_PROMPTS],
    ("lower_but_depends", lower(as_trained=ABOVE)),
    *[("lower_by_captions", apart(ACROSS, at)) for at in BEATS],
    *[("lower_by_captions", apart(ABOVE, at)) for at in BEATS],
    *[("lower_by_captions", apart(ENDS_AT_0, at)) for at in BEATS],
    *[("lower_by_captions", replace(LOWER, within=frozenset({at}))) for at in BEATS],
    ("equivalent", replace(UNCLEAR, within=frozenset(CELLS))),
    ("equivalent", replace(UNCLEAR, within=frozenset({*CELLS, *BEATS}))),
    ("equivalent", replace(LOWER, cells=dict.fromkeys(CELLS, POINT), within=frozenset(CELLS))),
    *[("equivalent_as_trained", replace(UNCLEAR, within=frozenset(CELLS) - {cell})) for cell in EQUAL_PROMPTS],
    ("equivalent_as_trained", replace(UNCLEAR, within=frozenset({"as_trained"}))),
    ("cannot_tell", UNCLEAR),
    ("cannot_tell", ALL_ACROSS),
    ("cannot_tell", replace(UNCLEAR, within=frozenset({*EQUAL_PROMPTS, *BEATS}))),
    ("cannot_tell", lower(as_trained=ENDS_AT_0)),
    ("cannot_tell", lower(as_trained=BEGINS_AT_0)),
    ("cannot_tell", lower(as_trained=NONE)),
    ("cannot_tell", replace(UNCLEAR, loss_unchanged=True)),
]


@pytest.mark.parametrize(("code", "evidence"), CASES)
def test_a_case_of_every_row(code: Code, evidence: Evidence) -> None:
    assert decide(evidence) == code


def test_every_code_is_reached() -> None:
    assert {code for code, _ in CASES} == set(get_args(Code))


def test_a_winner_is_named_where_it_is_lower_whatever_the_other_is_prompted_with() -> None:
    assert WINS == ("lower", "lower_but_depends")


def excludes_0(found: Interval) -> bool:
    return found.low is not None and found.high is not None and (found.low > 0 or found.high < 0)


def is_below_0(found: Interval) -> bool:
    return found.high is not None and found.high < 0


def s(evidence: Evidence) -> bool:
    return excludes_0(evidence.cells["as_trained"])


def beaten(evidence: Evidence) -> bool:
    return all(is_below_0(beat) for beat in evidence.beats.values()) and not any(
        name in evidence.within for name in evidence.beats
    )


def all_cells_have_the_sign(evidence: Evidence) -> bool:
    below = is_below_0(evidence.cells["as_trained"])
    return all(excludes_0(cell) and is_below_0(cell) == below for cell in evidence.cells.values())


def changed_nothing(evidence: Evidence) -> bool:
    """Weights that have not moved change nothing, whatever rounding makes of their losses."""
    shown = any(excludes_0(evidence.cells[name]) for name in EQUAL_PROMPTS)
    return evidence.untrained or (evidence.loss_unchanged and not shown)


# The rows of the table, each by itself; the first that fits is the verdict.
TABLE: list[tuple[Code, Callable[[Evidence], bool]]] = [
    ("withheld", lambda e: e.withheld),
    ("identical", lambda e: e.identical),
    ("cannot_tell", lambda e: e.groups < 6),
    ("nothing_measurable", changed_nothing),
    ("different_within_margin", lambda e: s(e) and "as_trained" in e.within),
    ("lower", lambda e: s(e) and beaten(e) and all_cells_have_the_sign(e)),
    ("lower_but_depends", lambda e: s(e) and beaten(e)),
    ("lower_by_captions", s),
    ("equivalent", lambda e: all(name in e.within for name in CELLS)),
    ("equivalent_as_trained", lambda e: "as_trained" in e.within),
    ("cannot_tell", lambda _: True),
]

INTERVALS = st.sampled_from([BELOW, ABOVE, ACROSS, NONE, POINT, ENDS_AT_0, BEGINS_AT_0])
RARELY = st.sampled_from([False, False, False, True])
EVIDENCE = st.builds(
    Evidence,
    withheld=RARELY,
    untrained=RARELY,
    identical=RARELY,
    groups=st.sampled_from([0, 1, 5, 6, 6, 7, 100]),
    loss_unchanged=st.booleans(),
    cells=st.fixed_dictionaries(dict.fromkeys(CELLS, st.just(BELOW) | st.just(ABOVE) | INTERVALS)),
    beats=st.fixed_dictionaries(dict.fromkeys(BEATS, st.just(BELOW) | INTERVALS)),
    within=st.frozensets(st.sampled_from([*CELLS, *BEATS])) | st.just(frozenset(CELLS)) | st.just(frozenset()),
)


@settings(max_examples=1000, deadline=None)
@given(EVIDENCE)
def test_any_evidence_has_the_first_verdict_of_the_table_that_fits(evidence: Evidence) -> None:
    assert decide(evidence) == next(code for code, fits in TABLE if fits(evidence))


@settings(max_examples=300, deadline=None)
@given(EVIDENCE)
def test_exchanging_the_adapters_changes_no_verdict(evidence: Evidence) -> None:
    """a for b turns every cell around, and leaves alone what the lower one is against the other."""
    turned = {"under_a": "under_b", "under_b": "under_a"}

    def turn(found: Interval) -> Interval:
        return Interval(
            -found.mean, None if found.high is None else -found.high, None if found.low is None else -found.low, 0.95
        )

    cells = {turned.get(name, name): turn(cell) for name, cell in evidence.cells.items()}
    within = frozenset(turned.get(name, name) for name in evidence.within)
    assert decide(replace(evidence, cells=cells, within=within)) == decide(evidence)
