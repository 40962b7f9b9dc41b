"""Where a run keeps what: names that people and other programs rely on."""

import pytest

from job import layout
from job.layout import Member

STEPS = (0, 1, 2, 9, 10, 99, 100, 999, 12345, 999_999)


def test_names_of_steps_sort_as_the_steps_do() -> None:
    names = [layout.step_name(step) for step in STEPS]
    assert names == sorted(names)
    assert names[6] == "step-000100"


@pytest.mark.parametrize("step", [*STEPS, 1_000_000])
def test_a_step_is_read_from_its_name(step: int) -> None:
    assert layout.step_of(layout.step_name(step)) == step


@pytest.mark.parametrize(
    "name",
    [
        *("step-000100 (copy)", "step-000100.bak", "xstep-000100", "step-100", "step-0000100", "step-", ""),
        *("step-\N{FULLWIDTH DIGIT ONE}00000", f"step-{'9' * 5000}"),
    ],
)
def test_other_names_are_no_step(name: str) -> None:
    assert layout.step_of(name) is None


def test_only_folders_of_steps_themselves_count() -> None:
    keys = [f"a/{folder}/index.json" for folder in ("step-000004", "step-000002", "old/step-000006", "step-000008/old")]
    assert layout.steps_with("index.json", "a", [*keys, "a/step-000010/other.json", "a/index.json"]) == (2, 4)


def test_no_two_adapters_share_a_file() -> None:
    members = [Member(variant, seed) for variant in ("one", "two") for seed in (0, 10)]
    of_one = (layout.metrics, layout.validation, layout.best, layout.final, layout.all_samples)
    of_a_step = (layout.validation_losses, layout.checkpoint)
    of_samples = (layout.samples, layout.sample_index, layout.sample_embeddings)
    keys = [key(member) for member in members for key in of_one]
    keys += [key(member, step) for member in members for key in of_a_step for step in (1, 10)]
    keys += [
        key(member, step, name)
        for member in members
        for key in of_samples
        for step in (1, 10)
        for name in ("", "study-0", "study-1")
    ]
    assert len(set(keys)) == len(keys)
    assert layout.checkpoint(members[1], 100) == "variants/one/seed-10/checkpoints/step-000100"


def test_no_two_sets_of_samples_share_a_file() -> None:
    of_a_set = (layout.set_settings, layout.set_measures, layout.set_grid, layout.set_copies, layout.set_unit)
    keys = [key(name) for key in of_a_set for name in ("study-0", "study-1")]
    assert len(set(keys)) == len(keys)
    assert layout.sample_index(Member("one", 10), 100, "study-0") == (
        "samples/study-0/one/seed-10/step-000100/samples.json"
    )


def test_no_two_samples_of_a_step_share_a_file() -> None:
    names = [
        layout.sample_name(prompt, seed, as_trained=trained)
        for prompt in (0, 1, 10, 100)
        for seed in (0, 1, 10)
        for trained in (False, True)
    ]
    assert len(set(names)) == len(names)
    assert layout.sample_name(1, 10) == "prompt-01-seed-10.png"
