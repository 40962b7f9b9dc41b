"""Adapters of one pack, each with options of diffusers' script, have the losses that its loop has."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.diffusers_parity import CASES, LIMITS, STEPS, Study, compare, without_signal


def test_the_first_losses_in_float64_are_those_of_diffusers() -> None:
    exact = {name: case for name, case in CASES.items() if case.limit == LIMITS[torch.float64]}
    assert len(exact) == 7
    for name, losses in compare(torch.float64, STEPS, exact).items():
        assert len(losses.ours) == len(losses.script) == STEPS
        assert losses.difference <= LIMITS[torch.float64], name


def test_the_first_loss_in_float32_is_that_of_diffusers() -> None:
    found = compare(torch.float32, 1)
    assert found.keys() == CASES.keys()
    for name, losses in found.items():
        assert losses.difference <= LIMITS[torch.float32], name


@pytest.mark.parametrize("name", ["min-SNR", "noise offset", "cosine with warm-up"])
def test_an_option_that_the_script_is_not_given_is_seen(name: str) -> None:
    study, case = Study(torch.float64), CASES[name]
    with_it, without = (study.scripts(0, each, 4) for each in (case, replace(case, options={})))
    assert np.abs(np.array(with_it) / np.array(without) - 1).max() > 1e-3


def test_where_there_is_no_signal_the_script_has_no_weight() -> None:
    ours, script = without_signal("epsilon")
    assert ours == 1
    assert np.isnan(script)
    assert without_signal("v_prediction") == (0, 0)
