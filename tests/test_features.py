"""The page of features names tests that there are, and a reason for all that there is not."""

import ast
import re

import pytest

from tests.lora_job import ROOT

PAGE = ROOT / "docs" / "features.md"
HEAD = ["feature", "kohya", "OneTrainer", "SimpleTuner", "ai-toolkit", "diffusers", "here", "how, or why not", "test"]
_MARKS = re.compile(r"[y~-]( LyC)?")


def rows() -> list[dict[str, str]]:
    lines = [line.strip("| ") for line in PAGE.read_text().splitlines() if line.startswith("|")]
    cells = [re.split(r"\s*\|\s*", line) for line in lines if not line.startswith("---")]
    return [dict(zip(HEAD, [*row, ""][: len(HEAD)], strict=True)) for row in cells if row != HEAD]


ROWS = rows()


def named_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_page_has_the_field() -> None:
    assert len(ROWS) > 60
    assert len({row["feature"] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["feature"])
def test_every_yes_names_a_test_and_every_no_a_reason(row: dict[str, str]) -> None:
    assert all(_MARKS.fullmatch(row[column]) for column in HEAD[1:7]), row
    named = re.findall(r"`([^`]+\.py)::(test_[a-z0-9_]+)`", row["test"])
    if row["here"] == "-":
        assert row["how, or why not"].endswith(".")
        assert not row["test"]
    else:
        assert named, row["feature"]
        assert all(name in named_in(path) for path, name in named), named
