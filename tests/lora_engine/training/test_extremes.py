"""Adapters at either end of what a setting may be: weights stay finite in fp32, whatever becomes of the training."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from lora_engine.adapters import lora
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.ema import EmaConfig
from lora_engine.config.loss import HuberLoss, MinSnrWeighting, SoftMinSnrWeighting
from lora_engine.config.noise import MultiresConfig
from lora_engine.training.trainer import PackTrainer
from tests.lora_engine.tiny import tiny_data, tiny_noise_schedule, tiny_unet
from tests.lora_engine.training.optimizers.rows import MEMBERS
from tests.lora_engine.training.test_rows import Choice, config_of, member_of

_NEXT_TO_1 = 1 - 2**-53


def ends(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """The smallest and the largest value of each number in the settings."""
    for key, schema in model.model_json_schema()["properties"].items():
        for each in (schema, *schema.get("anyOf", ())):
            is_whole = each.get("type") == "integer"
            if "minimum" in each:
                yield key, each["minimum"]
            if "exclusiveMinimum" in each:
                yield key, each["exclusiveMinimum"] + 2**-52 if each["exclusiveMinimum"] else 5e-324
            if "maximum" in each:
                yield key, 16 if key == "rank" else each["maximum"] if is_whole else float(each["maximum"])
            if "exclusiveMaximum" in each:
                yield key, _NEXT_TO_1 * each["exclusiveMaximum"]


def choices() -> list[Choice]:
    found: list[Choice] = [{f".{key}": value} for key, value in ends(LoraConfig)]
    found += [{".alpha": 1e30, ".rank_stabilized": True}, {".rank": 1, ".dropout": 0.99}]
    for name, model in MEMBERS.items():
        found += [{"optimizer": {"name": name, key: value}} for key, value in ends(model)]
    found += [{"loss": {"name": "huber", key: value}} for key, value in ends(HuberLoss)]
    for name, weighting in (("min_snr", MinSnrWeighting), ("soft_min_snr", SoftMinSnrWeighting)):
        found += [{"weighting": {"name": name, key: value}} for key, value in ends(weighting)]
    found += [{"ema": {key: value}} for key, value in ends(EmaConfig)]
    found += [{"noise": {"multires": {key: value}}} for key, value in ends(MultiresConfig)]
    found += [{"noise": {"offset": 1.0, "input_perturbation": 1.0}}, {"max_grad_norm": 5e-324}]
    return [*found, {"max_grad_norm": 1e308}, {"timesteps": {"from": 999}}, {"timesteps": {"to": 1}}]


@pytest.mark.slow
def test_whatever_a_setting_may_be_weights_stay_finite() -> None:
    found = choices()
    assert len(found) > 70
    for first in range(0, len(found), 10):
        hold_finite(dict(enumerate(found[first : first + 10])))


def hold_finite(numbered: dict[int, Choice]) -> None:
    """Train a pack of these, and look at the weights of each, and at those that are used."""
    small = {"batch_size": 1, "gradient_accumulation": 1}
    unet, configs = tiny_unet(torch.float32), [config_of(choice | small) for choice in numbered.values()]
    members = [member_of(f"m{at}", at, choice) for at, choice in numbered.items()]
    for member, config in zip(members, configs, strict=True):
        lora.inject(unet, [(member.name, member.seed)], config.lora)
    trainer = PackTrainer(unet, members, tiny_data(dtype=torch.float32), tiny_noise_schedule(), configs)
    records = list(trainer.run(4, lambda: False))
    for at, choice in numbered.items():
        own = [record[f"m{at}"] for record in records]
        assert choice.get(".alpha", 0) > 1 or not any(record.skipped for record in own), choice
        weights = lora.export(unet, f"m{at}")
        with trainer.averaged():
            used = lora.export(unet, f"m{at}")
        assert all(value.isfinite().all() for value in (*weights.values(), *used.values())), choice
