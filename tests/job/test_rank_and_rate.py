"""The study of ranks, rates and weightings that comes with the package, on fewer images, layers and steps."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from tests.job.test_end_to_end import few_drawings
from tests.lora_job import ROOT, lora_job

KEYS = ("lora.rank", "training.optimizer.learning_rate", "training.weighting.name")
VALUES = tuple(itertools.product((8, 16), (1e-3, 4e-3), ("none", "min_snr")))  # in the order of the sweep
NAMES = [f"own-r{rank}-lr{'1e-3' if rate == 1e-3 else '4e-3'}-weighting-{name}" for rank, rate, name in VALUES]


@pytest.fixture(scope="module")
def run(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rank-and-rate")
    sets = {
        "base_model.source": miniature / "sd",
        "dataset.source": few_drawings(folder / "drawings"),
        "dataset.validation_min": 6,
        "training.steps": 6,
        "training.schedule.warmup_steps": 1,
        "evaluation.every": 3,
        "evaluation.samples": "null",
        "output.destination": folder / "runs",
    }
    options = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    done = lora_job("run", ROOT / "manifests" / "rank-and-rate.yaml", *options, "--workdir", folder / "work")
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "rank-and-rate"


@pytest.fixture(scope="module")
def report(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "report" / "comparison.json").read_text())
    return found


def test_eight_adapters_train_in_one_pack_on_the_same_draws(report: dict[str, Any]) -> None:
    assert [pack["members"] for pack in report["packs"]] == [[f"{name}/seed-1337" for name in NAMES]]
    assert report["fair"] == {"1337": True}
    assert all(pair["like_for_like"] and pair["withheld"] == [] for pair in report["pairs"])
    finals = [member["final_loss"] for member in report["members"]]
    assert len(set(finals)) == len(NAMES)
    weighted = [member["variant"] for member in report["members"] if member["trained_with"] is not None]
    assert weighted == [name for name in NAMES if name.endswith("min_snr")]


def test_what_a_pair_differs_in_is_its_factor_and_one_thing_is_what_the_two_are_called_by(
    report: dict[str, Any],
) -> None:
    settings = dict(zip(NAMES, VALUES, strict=True))
    assert [(pair["a"], pair["b"]) for pair in report["pairs"]] == list(itertools.combinations(NAMES, 2))
    for pair in report["pairs"]:
        both = zip(KEYS, settings[pair["a"]], settings[pair["b"]], strict=True)
        unlike = {key: [a, b] for key, a, b in both if a != b}
        assert pair["factor"] == list(unlike)
        assert {key: pair["values"][key] for key in KEYS if key in pair["values"]} == unlike
        sentence = pair["verdict"]["sentence"]
        assert ("so what made it cannot be told" in sentence) == (len(unlike) > 1)
        if list(unlike) == ["lora.rank"]:
            assert f"rank 8 ({pair['a']})" in sentence
            assert f"rank 16 ({pair['b']})" in sentence


def test_it_is_on_the_page(run: Path) -> None:
    page = (run / "report" / "report.html").read_text()
    assert all(name in page for name in NAMES)
