"""The files of an evaluation's losses: what is written, what of a file is believed, and what is read of it."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from lora_engine.evaluation.loss_file import (
    BegunEvaluation,
    EvaluationLosses,
    NotScoredError,
    pack_begun,
    pack_losses,
    unpack_begun,
    unpack_losses,
)

IDS = ("a1", "b2", "c3")
METADATA = {"caption_sets": '["blip", ""]', "image_ids": '["a1", "b2", "c3"]', "step": "100"}
LOSSES_ENT = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
TIMESTEPS_NT = np.arange(12).reshape(3, 4)
MIN_SNR_NT = np.linspace(0.1, 1, 12, dtype=np.float32).reshape(3, 4)
LOSSES = EvaluationLosses(100, ("blip", ""), IDS, LOSSES_ENT, TIMESTEPS_NT, MIN_SNR_NT)
ARRAYS: dict[str, npt.NDArray[Any]] = {"losses": LOSSES_ENT, "timesteps": TIMESTEPS_NT}

FACTS = '[100, "x-0, y-0", 8]'
BEGUN = np.arange(17, dtype=np.float32)


def header_of(data: bytes) -> dict[str, object]:
    header: dict[str, object] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header


def test_a_finished_evaluation_is_a_safetensors_file_that_says_what_was_scored() -> None:
    data = pack_losses(replace(LOSSES, min_snr_NT=None))
    expected = save({"losses": LOSSES_ENT, "timesteps": TIMESTEPS_NT}, METADATA)
    assert header_of(data) == header_of(expected)
    assert data[-LOSSES_ENT.nbytes - TIMESTEPS_NT.nbytes :] == expected[-LOSSES_ENT.nbytes - TIMESTEPS_NT.nbytes :]
    read = unpack_losses(data)
    assert (read.step, read.components, read.image_ids) == (100, ("blip", ""), IDS)
    np.testing.assert_array_equal(read.losses_ENT, LOSSES_ENT)
    np.testing.assert_array_equal(read.timesteps_NT, TIMESTEPS_NT)
    assert read.losses_ENT.dtype == np.float32
    assert read.timesteps_NT.dtype == np.int64
    assert read.min_snr_NT is None, "files of earlier versions have none"


def test_a_file_has_the_weights_of_its_timesteps() -> None:
    data = pack_losses(LOSSES)
    assert header_of(data) == header_of(save(ARRAYS | {"min_snr": MIN_SNR_NT}, METADATA))
    read = unpack_losses(data)
    assert read.min_snr_NT is not None
    np.testing.assert_array_equal(read.min_snr_NT, MIN_SNR_NT)


def test_what_was_not_scored_is_no_number_in_the_file_either() -> None:
    losses_ENT = LOSSES_ENT.copy()
    losses_ENT[1, :, 2:] = np.nan
    read = unpack_losses(pack_losses(replace(LOSSES, losses_ENT=losses_ENT)))
    np.testing.assert_array_equal(read.losses_ENT, losses_ENT)


def test_an_interrupted_evaluation_says_how_far_it_is() -> None:
    data = pack_begun(BegunEvaluation(FACTS, BEGUN, done=5))
    assert header_of(data) == header_of(save({"losses": BEGUN, "done": np.array(5)}, {"facts": FACTS}))
    read = unpack_begun(data)
    assert (read.facts, read.done) == (FACTS, 5)
    assert type(read.done) is int
    np.testing.assert_array_equal(read.losses_L, BEGUN)


@pytest.mark.parametrize("facts", ["", "[]", FACTS + " ", "ä \u2028 \ud7ff"])
def test_another_evaluation_is_told_apart(facts: str) -> None:
    found = unpack_begun(pack_begun(BegunEvaluation(facts, BEGUN, done=5))).facts
    assert found == facts != FACTS


def test_an_interrupted_evaluation_of_an_earlier_version_is_of_other_facts() -> None:
    earlier = {"caption_sets": '["blip"]', "image_ids": '["a1"]', "step": "1", "members": '["x"]', "batch_size": "8"}
    with pytest.raises(ValueError, match="losses"):
        unpack_begun(save({"losses": np.zeros((2, 1, 3, 4), np.float32), "done": np.array(5)}, earlier))
    assert unpack_begun(save({"losses": BEGUN, "done": np.array(5)}, earlier)).facts == ""


WHOLE = pack_losses(LOSSES)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 40,
        WHOLE[:-1],
        WHOLE[:100],
        save(ARRAYS),
        save(ARRAYS, METADATA | {"image_ids": "[1, 2, 3]"}),
        save(ARRAYS, METADATA | {"image_ids": '["a1", "b2"]'}),
        save(ARRAYS, METADATA | {"image_ids": "[" * 100_000}),
        save(ARRAYS, METADATA | {"caption_sets": "3"}),
        save(ARRAYS, METADATA | {"caption_sets": "["}),
        save(ARRAYS, {name: value for name, value in METADATA.items() if name != "caption_sets"}),
        save(ARRAYS, METADATA | {"step": "first"}),
        save(ARRAYS, {name: value for name, value in METADATA.items() if name != "step"}),
        save({"losses": LOSSES_ENT[:, :2], "timesteps": TIMESTEPS_NT[:2]}, METADATA),
        save({"losses": LOSSES_ENT, "timesteps": TIMESTEPS_NT[:2]}, METADATA),
        save({"losses": LOSSES_ENT, "timesteps": TIMESTEPS_NT[:, :3]}, METADATA),
        save({"losses": LOSSES_ENT[:1], "timesteps": TIMESTEPS_NT}, METADATA),
        save({"losses": LOSSES_ENT[:0], "timesteps": TIMESTEPS_NT}, METADATA | {"caption_sets": "[]"}),
        save({"losses": LOSSES_ENT[:, :, :0], "timesteps": TIMESTEPS_NT[:, :0]}, METADATA),
        save({"losses": LOSSES_ENT}, METADATA),
        save({"timesteps": TIMESTEPS_NT}, METADATA),
        save({"losses": LOSSES_ENT[0], "timesteps": TIMESTEPS_NT}, METADATA),
        save({"losses": np.stack([LOSSES_ENT]), "done": np.array(5)}, METADATA),
        save(ARRAYS | {"losses": LOSSES_ENT.astype(np.float16)}, METADATA),
        save(ARRAYS | {"timesteps": TIMESTEPS_NT.astype(np.float32)}, METADATA),
        save(ARRAYS | {"min_snr": MIN_SNR_NT.astype(np.float64)}, METADATA),
        save(ARRAYS | {"min_snr": MIN_SNR_NT[:, :3]}, METADATA),
        save(ARRAYS | {"min_snr": MIN_SNR_NT[0]}, METADATA),
        pack_begun(BegunEvaluation(FACTS, BEGUN, 5)),
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
        save({"losses": BEGUN}, {"facts": FACTS}),
        save({"done": np.array(5)}, {"facts": FACTS}),
        save({"losses": BEGUN, "done": np.array([5])}, {"facts": FACTS}),
        save({"losses": BEGUN.reshape(1, 17), "done": np.array(5)}, {"facts": FACTS}),
        save({"losses": BEGUN, "done": np.array(5)}),
        save({"losses": BEGUN, "done": np.array(np.inf)}, {"facts": FACTS}),
        save({"losses": BEGUN, "done": np.array(np.nan)}, {"facts": FACTS}),
        save({"losses": BEGUN.astype(np.int64), "done": np.array(5)}, {"facts": FACTS}),
    ],
    ids=lambda _: "file",
)
def test_an_interrupted_evaluation_that_is_damaged_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack_begun(data)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_damage_is_refused_or_leaves_losses(data: st.DataObject) -> None:
    for whole, unpack in ((WHOLE, unpack_losses), (pack_begun(BegunEvaluation(FACTS, BEGUN, 5)), unpack_begun)):
        damaged = bytearray(whole)
        for _ in range(data.draw(st.integers(1, 4))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        try:
            unpack(bytes(damaged[: data.draw(st.just(len(damaged)) | st.integers(0, len(damaged)))]))
        except ValueError:
            continue


def test_losses_are_the_mean_over_components_by_their_weights() -> None:
    wide = LOSSES_ENT.astype(np.float64)
    np.testing.assert_array_equal(LOSSES.at_timesteps({"": 1}), wide[1])
    found = LOSSES.at_timesteps({"": 0.25, "blip": 0.75})
    np.testing.assert_allclose(found, 0.75 * wide[0] + 0.25 * wide[1], rtol=1e-15)
    assert found.dtype == np.float64
    assert LOSSES.per_image({"": 0.25, "blip": 0.75}).tolist() == found.mean(axis=1).tolist()


def test_each_images_own_columns_are_picked() -> None:
    columns = np.array([[3, 0], [1, 2], [0, 0]])
    assert LOSSES.at_timesteps({"blip": 1}, columns).tolist() == [[3, 0], [5, 6], [8, 8]]
    assert LOSSES.per_image({"blip": 0.5, "": 0.5}, columns).tolist() == [1.5 + 6, 5.5 + 6, 8 + 6]


def test_losses_are_summed_in_double_precision() -> None:
    # in single precision, 2^24 + 1 is 2^24
    one = replace(LOSSES, losses_ENT=np.full((2, 3, 4), [2.0**24, 1, 1, 1], dtype=np.float32))
    assert one.per_image({"blip": 1}).tolist() == [(2.0**24 + 3) / 4] * 3


def test_what_was_not_scored_is_asked_for_in_vain() -> None:
    with pytest.raises(NotScoredError, match="'other' were not scored at step 100"):
        LOSSES.at_timesteps({"blip": 0.5, "other": 0.5})
    losses_ENT = LOSSES_ENT.copy()
    losses_ENT[1, :, 2:] = np.nan
    part = replace(LOSSES, losses_ENT=losses_ENT)
    for weights in ({"": 1.0}, {"blip": 0.5, "": 0.5}):
        with pytest.raises(NotScoredError, match="'' were not scored at all of those timesteps"):
            part.per_image(weights)
        assert part.at_timesteps(weights, np.array([[0, 1]] * 3)).shape == (3, 2)
        with pytest.raises(NotScoredError):
            part.per_image(weights, np.array([[0, 1], [0, 1], [1, 2]]))
    assert part.per_image({"blip": 1}).tolist() == [1.5, 5.5, 9.5]
