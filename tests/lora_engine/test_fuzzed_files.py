"""The fuzzers' readers on a few damaged files of every kind, and the caption cleaner on any text."""

import random
import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import archive_reader
import checkpoint_reader
import image_reader
from lora_engine.adapters.formats import read_state
from lora_engine.captions.rules import clean
from lora_engine.config.captions import CleaningConfig
from mutate import mutated

ARCHIVES = archive_reader.zips() + archive_reader.tars()
CHECKPOINTS = checkpoint_reader.seeds()
IMAGES = image_reader.seeds()
ATOMS = [
    "a",
    "x-",
    "'",
    '"',
    " ",
    ",",
    "with the word ",
    "says ",
    "arafed ",
    "İ",
    "\u201c",
    "on it ",
    "b b ",
    "-",
    "\n",
]
SWITCHES = st.builds(CleaningConfig, **dict.fromkeys(CleaningConfig.model_fields, st.booleans()))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=600), st.sampled_from(["a.zip", "a.tar", "a.tar.gz"]))
def test_any_bytes_are_an_archive_or_refused(data: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").mkdir()
        archive_reader.read(data, name, Path(folder))


@pytest.mark.parametrize("seed", range(4))
def test_damaged_archives_are_read_or_refused(tmp_path: Path, seed: int) -> None:
    print("seed", seed)
    dice = random.Random(seed)
    (tmp_path / "in").mkdir()
    for _ in range(300):
        data = mutated(dice, ARCHIVES)
        archive_reader.read(data, "a.zip" if data.startswith(b"PK") else "a.tar", tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_checkpoints_are_read_or_a_value_error(tmp_path: Path, seed: int) -> None:
    print("seed", seed)
    dice = random.Random(seed)
    for data in [*CHECKPOINTS, *(mutated(dice, CHECKPOINTS) for _ in range(500))]:
        checkpoint_reader.read(data, tmp_path / "a.safetensors")


@pytest.mark.parametrize("seed", range(4))
def test_damaged_images_are_decoded_or_rejected(tmp_path: Path, seed: int) -> None:
    print("seed", seed)
    dice = random.Random(seed)
    for _ in range(300):
        image_reader.read(mutated(dice, IMAGES), tmp_path / "file")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_checkpoint_or_a_value_error(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint_reader.read(data, Path(folder) / "a.safetensors")


def test_a_checkpoint_that_is_missing_is_no_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_state(tmp_path / "a.safetensors")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.lists(st.sampled_from(ATOMS), max_size=30).map("".join), SWITCHES)
@example("0,0", CleaningConfig(stop_words=True))
def test_a_cleaned_caption_is_one_plain_line_of_the_same_words(text: str, config: CleaningConfig) -> None:
    once = clean(text, config).text
    assert clean(once, config).text == once
    longest = max(len(unicodedata.normalize("NFC", t)) for t in (text, text.lower()))
    assert len(once) <= longest + once.count(", "), "nothing is added but a space after a comma"
    categories = {unicodedata.category(c) for c in once if c not in "\u200c\u200d"}
    assert not {"Cc", "Zl", "Zp", "Cs"} & categories
    if not any(config.model_dump().values()):
        assert once == once.strip()
        return  # with every rule off it is kept to the letter
    assert "Cf" not in categories
    assert once == once.strip(" ,;:-\u200c\u200d")
    assert "  " not in once


@pytest.mark.parametrize("pattern", ["x-", " a-", "- a", "a ", "İ", "with the word ", ",", "says 'a "])
def test_a_caption_of_any_length_is_cleaned_in_bounded_time(pattern: str) -> None:
    """Without the bounds the first takes a minute and the second an hour."""
    assert len(clean(pattern * 30_000, CleaningConfig(stop_words=True)).text) <= 2000
