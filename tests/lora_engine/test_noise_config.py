"""Which settings of losses, noise and timesteps are taken, and how they are written."""

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from lora_engine.config.loss import LossConfig, WeightingConfig
from lora_engine.config.noise import NoiseConfig, TimestepsConfig, refused_with_zero_terminal_snr

LOSS: TypeAdapter[Any] = TypeAdapter(LossConfig)
WEIGHTING: TypeAdapter[Any] = TypeAdapter(WeightingConfig)


@pytest.mark.parametrize(
    ("kind", "written", "full"),
    [
        (LOSS, {"name": "mse"}, {"name": "mse"}),
        (LOSS, {"name": "l1"}, {"name": "l1"}),
        (LOSS, {"name": "huber"}, {"name": "huber", "c": 0.1, "schedule": "snr"}),
        (WEIGHTING, {"name": "none"}, {"name": "none"}),
        (WEIGHTING, {"name": "min_snr"}, {"name": "min_snr", "gamma": 5}),
        (WEIGHTING, {"name": "soft_min_snr"}, {"name": "soft_min_snr", "gamma": 5}),
        (WEIGHTING, {"name": "debiased"}, {"name": "debiased"}),
        (TypeAdapter(NoiseConfig), {}, {"offset": 0, "multires": None, "input_perturbation": 0}),
        (
            TypeAdapter(NoiseConfig),
            {"multires": {}},
            {"offset": 0, "multires": {"iterations": 6, "discount": 0.3}, "input_perturbation": 0},
        ),
        (TypeAdapter(TimestepsConfig), {}, {"from": 0, "to": 1000}),
        (TypeAdapter(TimestepsConfig), {"from": 999}, {"from": 999, "to": 1000}),
    ],
)
def test_settings_have_their_defaults_and_are_read_as_they_are_written(
    kind: TypeAdapter[Any], written: dict[str, Any], full: dict[str, Any]
) -> None:
    found = kind.validate_json(json.dumps(written))
    assert kind.dump_python(found, mode="json") == full
    assert kind.validate_json(kind.dump_json(found)) == found


@pytest.mark.parametrize(
    ("kind", "written", "said"),
    [
        (LOSS, {"name": "huber", "c": 0}, "greater than or equal to 0.0001"),
        (LOSS, {"name": "mse", "c": 0.1}, "Extra inputs"),
        (WEIGHTING, {"name": "min_snr", "gamma": 0}, "greater than 0"),
        (TypeAdapter(NoiseConfig), {"offset": 0.1, "multires": {}}, "offset: 0.1 or multires: .*exclude each other"),
        (TypeAdapter(NoiseConfig), {"multires": {"discount": 1}}, "less than 1"),
        (TypeAdapter(TimestepsConfig), {"from": 500, "to": 500}, r"from less than to \(from: 500, to: 500\)"),
        (TypeAdapter(TimestepsConfig), {"to": 1001}, "less than or equal to 1000"),
        (TypeAdapter(TimestepsConfig), {"from_": 5}, "Extra inputs"),
    ],
)
def test_settings_that_mean_nothing_are_refused(kind: TypeAdapter[Any], written: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        kind.validate_json(json.dumps(written))


def test_noise_that_is_not_plain_at_the_end_is_refused_where_that_is_noise_alone() -> None:
    def refusal(written: str) -> str:
        return refused_with_zero_terminal_snr(NoiseConfig.model_validate_json(written)) or ""

    assert "offset: 0.05" in refusal('{"offset": 0.05}')
    assert "multires" in refusal('{"multires": {}}')
    assert not refusal('{"input_perturbation": 0.1}')
