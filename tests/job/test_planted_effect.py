"""The study of which the answer is known: the right captions win, and shuffled ones nowhere."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.lora_job import ROOT, start

pytestmark = pytest.mark.slow
SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("planted")
    script = [sys.executable, str(ROOT / "scripts" / "planted_effect.py"), str(folder / "drawings")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(script, check=True, env=environment, cwd=folder)
    sets = [f"dataset.source={folder / 'drawings'}", f"output.destination={folder / 'runs'}"]
    options = [word for each in sets for word in ("--set", each)]
    run = start(
        "run", ROOT / "manifests" / "planted-effect.yaml", *options, "--workdir", folder / "scratch", cwd=folder
    )
    assert run.wait(timeout=3600) == 0, run.stderr
    found: dict[str, Any] = json.loads((folder / "runs" / "planted-effect" / "report" / "comparison.json").read_text())
    for pair in found["pairs"]:
        if pair["verdict"]:
            print(pair["verdict"])
    for member in found["members"]:
        print(member["variant"], member["seed"], member["base_loss"], member["final_loss"], member["listening"])
    print(found["timing"])
    return found


def test_the_right_captions_win_against_the_shuffled_ones(report: dict[str, Any]) -> None:
    verdict = next(pair["verdict"] for pair in report["pairs"] if pair["seed"] is None and pair["b"] == "shuffled")
    assert verdict["winner"] == "blip"


def test_the_shuffled_ones_win_nowhere(report: dict[str, Any]) -> None:
    verdicts = [pair["verdict"] for pair in report["pairs"] if pair["verdict"]]
    assert len(verdicts) == 6
    assert "shuffled" not in {verdict["winner"] for verdict in verdicts}


def test_adapters_of_the_shuffled_ones_alone_have_stopped_reading_their_prompt(report: dict[str, Any]) -> None:
    flagged = {(m["variant"], m["seed"]) for m in report["members"] if m["listening"] and m["listening"]["flagged"]}
    assert flagged == {("shuffled", seed) for seed in SEEDS}


def test_the_pictures_of_the_right_captions_fit_their_prompts_better(report: dict[str, Any]) -> None:
    """Over all seeds and for each alone, whichever of the two says it."""
    rows = [pair for pair in report["pairs"] if (pair["a"], pair["b"]) == ("blip", "shuffled")]
    assert {row["seed"] for row in rows} == {None, *SEEDS}
    for row in rows:
        drawn = row["pictures"]["as_trained"]
        print(row["seed"], drawn["clip_score"], drawn["clip_retrieval"])
        assert drawn["clip_score"]["low"] > 0
        assert drawn["clip_retrieval"]["low"] > 0


def test_no_adapter_draws_copies(report: dict[str, Any]) -> None:
    for variant in report["variants"]:
        assert len(variant["memorised"]["as_trained"]["copies"]) == 0, variant["variant"]


def test_it_was_a_fair_comparison(report: dict[str, Any]) -> None:
    assert report["fair"] == {str(seed): True for seed in SEEDS}
    assert all(pair["factor"] == ["captions"] for pair in report["pairs"])
