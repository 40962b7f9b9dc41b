"""Configurations that somebody made to do harm, or that are broken, are refused or converted, and nothing else."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.convert.convert import convert
from job.convert.settings import ConversionError
from job.manifest.foreign import FATES
from job.manifest.load import load_manifest

FILES = Path(__file__).parent / "files"
SUFFIXES = [".toml", ".json", ".sh", ""]
NAMES = sorted(FATES)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["1", "-1", "1e999", "nan", "0.5", "cosine", "a/b", "s3://a/b", "~", "\ue000", "C:\\x", "x" * 3000]
    ),
    st.lists(st.one_of(st.integers(), st.text(max_size=5)), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def attempt(content: bytes, name: str) -> None:
    """Convert: the manifest is valid, or the refusal is fit to be shown."""
    refusal = None
    try:
        conversion = convert(content, name)
    except ConversionError as error:
        refusal = error
    if refusal is None:
        load_manifest(conversion.manifest, "converted")
        assert all(remark.isprintable() for remark in conversion.remarks)
    else:
        assert refusal.code == 40
        assert all(line.isprintable() for line in str(refusal).split("\n"))
        assert len(str(refusal)) < 100_000


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(SUFFIXES))
def test_any_bytes(content: bytes, suffix: str) -> None:
    attempt(content, f"nowhere/a{suffix}")


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8))
def test_any_values_of_the_gui(data: dict[str, Any]) -> None:
    attempt(json.dumps({"network_dim": 4} | data).encode(), "nowhere/a.json")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.text("ab1.$\"'\\`;|&#\n >=-{}()é\ue000", max_size=12)), max_size=6),
    st.sampled_from(["train_network.py", "train_text_to_image_lora.py", "train_dreambooth_lora.py"]),
)
def test_any_options_of_a_command(options: list[tuple[str, str]], script: str) -> None:
    command = " ".join([f"A=x; {script} --train_data_dir=img", *(f"--{name}={value}" for name, value in options)])
    attempt(command.encode(), "nowhere/a.sh")


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8), st.booleans())
def test_any_values_of_toml(data: dict[str, Any], is_dataset: bool) -> None:
    def shown(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{json.dumps(key)} = {shown(item)}" for key, item in value.items()) + "}"
        if isinstance(value, float):
            return repr(value)
        return "{}" if value is None else json.dumps(value, ensure_ascii=False)

    lines = "\n".join(f"{name} = {shown(value)}" for name, value in data.items())
    head = (
        "[[datasets]]\n[[datasets.subsets]]\n" if is_dataset else "network_alpha = 1\n" * ("network_alpha" not in data)
    )
    attempt((head + lines).encode(errors="replace"), "nowhere/a.toml")


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(["sections.toml", "dataset.toml", "flat.toml", "gui.json", "kohya.sh"]), st.data())
def test_damaged_files(name: str, data: st.DataObject) -> None:
    content = bytearray((FILES / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 5))] = data.draw(st.binary(max_size=4))
    attempt(bytes(content), f"nowhere/{name}")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.toml", "network_dim = 4\n" + "".join(f"k{at} = {at}\n" for at in range(60_000))),
        ("a.toml", "network_dim = 4\nx = '''" + "y" * 900_000 + "'''"),
        ("a.toml", "network_dim = 4\nx = " + "[" * 900 + "]" * 900),
        ("a.toml", "[a]\n" * 2 + "x = 1"),
        ("a.toml", "[[datasets]]\n" + "[[datasets.subsets]]\nimage_dir = 'a'\n" * 190),
        ("a.json", '{"network_dim": 4, "x": ' + "[" * 5000 + "]" * 5000 + "}"),
        ("a.json", '{"network_dim": 4, "x": &a [1], "y": *a}'),
        ("a.sh", "train_network.py " + "--x " * 16_000),
        ("a.sh", "train_network.py " + "".join(f"--x{at} " for at in range(8_000))),
        ("a.sh", '"' * 40_001 + "train_network.py"),
        ("a.sh", "train_network.py '" + '\\"' * 30_000),
        ("a.sh", "train_network.py " + "${" * 30_000),
    ],
    ids=range(12),
)
def test_large_and_deep_files(name: str, content: str) -> None:
    attempt(content.encode(), name)


def test_places_that_never_end_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    text = "sample_prompts = '/dev/zero'\ndataset_config = '{0}/pipe.toml'\ntrain_data_dir = '{0}/pipe.toml'"
    attempt(text.format(tmp_path).encode(), str(tmp_path / "a.toml"))
