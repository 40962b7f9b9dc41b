"""The files of an evaluation's losses: what is written, and what of a file's contents is believed."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save

from lora_engine.evaluation.loss_file import (
    BegunEvaluation,
    EvaluationLosses,
    Scored,
    ScoredTogether,
    pack_begun,
    pack_losses,
    unpack_begun,
    unpack_losses,
)

SCORED = Scored(step=100, caption_sets=("blip", ""), image_ids=("a1", "b2", "c3"))
FACTS = ScoredTogether(SCORED, members=("x-0", "y-0"), batch_size=8)
METADATA = {"caption_sets": '["blip", ""]', "image_ids": '["a1", "b2", "c3"]', "step": "100"}
TOGETHER = METADATA | {"members": '["x-0", "y-0"]', "batch_size": "8"}
LOSSES_ENT = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
TIMESTEPS_NT = np.arange(12).reshape(3, 4)


def header_of(data: bytes) -> dict[str, object]:
    header: dict[str, object] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header


def test_a_finished_evaluation_is_a_safetensors_file_that_says_what_was_scored() -> None:
    data = pack_losses(EvaluationLosses(SCORED, LOSSES_ENT, TIMESTEPS_NT))
    expected = save({"losses": LOSSES_ENT, "timesteps": TIMESTEPS_NT}, METADATA)
    assert header_of(data) == header_of(expected)
    assert data[-LOSSES_ENT.nbytes - TIMESTEPS_NT.nbytes :] == expected[-LOSSES_ENT.nbytes - TIMESTEPS_NT.nbytes :]
    read = unpack_losses(data)
    assert read.scored == SCORED
    np.testing.assert_array_equal(read.losses_ENT, LOSSES_ENT)
    np.testing.assert_array_equal(read.timesteps_NT, TIMESTEPS_NT)


def test_an_interrupted_evaluation_says_how_far_it_is() -> None:
    losses_KENT = np.stack([LOSSES_ENT, -LOSSES_ENT])
    data = pack_begun(BegunEvaluation(FACTS, losses_KENT, done=5))
    assert header_of(data) == header_of(save({"losses": losses_KENT, "done": np.array(5)}, TOGETHER))
    read = unpack_begun(data)
    assert (read.facts, read.done) == (FACTS, 5)
    np.testing.assert_array_equal(read.losses_KENT, losses_KENT)


@pytest.mark.parametrize(
    "other",
    [
        replace(FACTS, scored=replace(SCORED, step=200)),
        replace(FACTS, scored=replace(SCORED, image_ids=("a1", "b2", "d4"))),
        replace(FACTS, members=("x-0",)),
        replace(FACTS, batch_size=4),
    ],
    ids=["step", "images", "members", "batch size"],
)
def test_another_evaluation_is_told_apart(other: ScoredTogether) -> None:
    data = pack_begun(BegunEvaluation(other, np.stack([LOSSES_ENT]), done=5))
    assert unpack_begun(data).facts == other != FACTS


WHOLE = pack_losses(EvaluationLosses(SCORED, LOSSES_ENT, TIMESTEPS_NT))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 40,
        WHOLE[:-1],
        WHOLE[:100],
        save({"losses": LOSSES_ENT, "timesteps": TIMESTEPS_NT}),
        save({"losses": LOSSES_ENT, "timesteps": TIMESTEPS_NT}, METADATA | {"image_ids": "[1, 2, 3]"}),
        save({"losses": LOSSES_ENT, "timesteps": TIMESTEPS_NT}, METADATA | {"caption_sets": "3"}),
        save({"losses": LOSSES_ENT, "timesteps": TIMESTEPS_NT}, METADATA | {"step": "first"}),
        save({"losses": LOSSES_ENT[:, :2], "timesteps": TIMESTEPS_NT[:2]}, METADATA),
        save({"losses": LOSSES_ENT[:1], "timesteps": TIMESTEPS_NT}, METADATA),
        save({"losses": LOSSES_ENT}, METADATA),
        save({"losses": LOSSES_ENT[0], "timesteps": TIMESTEPS_NT}, METADATA),
        save({"losses": np.stack([LOSSES_ENT]), "done": np.array(5)}, METADATA),
    ],
    ids=lambda _: "file",  # the order of a file's metadata is not the same in every process
)
def test_what_is_damaged_or_contradicts_itself_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack_losses(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        WHOLE,
        save({"losses": np.stack([LOSSES_ENT])}, TOGETHER),
        save({"losses": np.stack([LOSSES_ENT]), "done": np.array(5)}, METADATA),
        save({"losses": np.stack([LOSSES_ENT]), "done": np.array(5)}, TOGETHER | {"batch_size": "all"}),
        save({"losses": np.stack([LOSSES_ENT]), "done": np.array(5)}, TOGETHER | {"members": "[" * 100_000}),
    ],
    ids=["empty", "finished", "without done", "without members", "no batch size", "endless members"],
)
def test_an_interrupted_evaluation_that_is_damaged_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack_begun(data)
