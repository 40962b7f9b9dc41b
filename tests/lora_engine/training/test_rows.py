"""Adapters that differ in every setting train in one pack as each does alone, in float64."""

import itertools
import math
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from lora_engine.adapters import lora
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.together import exclusions
from lora_engine.config.training import TrainingConfig
from lora_engine.dataset.draws import PackMember
from lora_engine.diffusion import PredictionType
from lora_engine.models.conditioning import attach
from lora_engine.training.members import MemberConfig
from lora_engine.training.micro_batches import MicroBatches
from lora_engine.training.trainer import PackTrainer
from tests.lora_engine.tiny import (
    rows_of,
    tiny_data,
    tiny_member,
    tiny_noise_schedule,
    tiny_text_encoder,
    tiny_tokens,
    tiny_unet,
)

LORA: dict[str, Any] = {"rank": 3, "alpha": 5.0}
TRAINING: dict[str, Any] = {
    "steps": 6,
    "batch_size": 2,
    "gradient_accumulation": 2,
    "optimizer": {"learning_rate": 3e-3},
    "schedule": {"name": "cosine", "warmup_steps": 2},
    "max_grad_norm": 0.5,
}
# Each option and its values besides that of `TRAINING` and `LORA`; keys of `lora` have a dot before them.
OPTIONS: dict[str, list[Any]] = {
    ".rank": [1, 5],
    ".alpha": [1.0],
    ".rank_stabilized": [True],
    ".plus_ratio": [16.0],
    ".dropout": [0.3],
    ".target_modules": [("to_q", "to_out.0"), ("to_v", "net.2"), "kohya", "full"],
    ".conv_rank": [2],
    ".patterns": [{"mid_block": {"rank": 4}, "up_blocks.1": {"rank": 1, "alpha": 2.0}}],
    ".text_encoder": [{}, {"rank": 2, "alpha": 4.0, "learning_rate": 1e-3, "stop_after": 3}],
    "steps": [2, 5],
    "optimizer": [
        {"learning_rate": 1e-2, "weight_decay": 0.2, "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6},
        {"name": "lion", "learning_rate": 1e-3},
        {"name": "sgd", "learning_rate": 0.1, "weight_decay": 0.1},
        {"name": "schedule_free_adamw", "learning_rate": 3e-3},
        {"name": "prodigy"},
    ],
    "schedule": [{"name": "constant"}, {"name": "polynomial", "warmup_share": 0.3}],
    "max_grad_norm": [None, 0.01],
    "loss": [{"name": "l1"}, {"name": "huber"}],
    "weighting": [{"name": "min_snr"}, {"name": "soft_min_snr"}, {"name": "debiased"}],
    "noise": [{"offset": 0.1}, {"multires": {}}, {"input_perturbation": 0.1}],
    "timesteps": [{"from": 200, "to": 700}],
    "ema": [{"decay": 0.5}],
    "dropout of captions": [0.4],
}
Choice = dict[str, Any]


def config_of(choice: Choice) -> MemberConfig:
    values = {key.removeprefix("."): value for key, value in choice.items() if key.startswith(".")}
    training = {key: value for key, value in choice.items() if key in TrainingConfig.model_fields}
    return MemberConfig(LoraConfig.model_validate(LORA | values), TrainingConfig.model_validate(TRAINING | training))


def is_allowed(choice: Choice) -> bool:
    """Whether the options go together."""
    config = config_of(choice)
    layers_fit = ".target_modules" not in choice or ".patterns" not in choice
    return layers_fit and not list(exclusions(config.lora, config.training))


def member_of(name: str, at: int, choice: Choice) -> PackMember:
    config = config_of(choice).training
    plain = tiny_member(name, (5, 0)[at % 2], at % 6, dropout=choice.get("dropout of captions", 0.0))
    return PackMember(
        *(getattr(plain, field) for field in ("name", "seed", "caption_rows_NP", "caption_weights_NP")),
        caption_dropout=plain.caption_dropout,
        noise=config.noise,
        timesteps=config.timesteps,
    )


def made(choices: dict[int, Choice], prediction: PredictionType) -> tuple[PackTrainer, UNet2DConditionModel]:
    """A pack of members of these choices; the number of each decides its name, seed and captions."""
    unet, text_encoder, texts = tiny_unet(), tiny_text_encoder(), tiny_tokens()
    members = [member_of(f"m{at}", at, choice) for at, choice in choices.items()]
    configs = [config_of(choice) for choice in choices.values()]
    if any(config.lora.text_encoder is not None for config in configs):
        attach(unet, text_encoder)
    else:
        texts = text_encoder(texts).detach()
    data = replace(tiny_data(), texts=rows_of(texts))
    for member, config in zip(members, configs, strict=True):
        lora.inject(unet, [(member.name, member.seed)], config.lora)
    return PackTrainer(unet, members, data, tiny_noise_schedule(prediction), configs), unet


def gradients_of(unet: UNet2DConditionModel, name: str) -> dict[str, Tensor]:
    return {key: weight.grad.clone() for key, weight in lora.parameters(unet, name).items() if weight.grad is not None}


def used(trainer: PackTrainer, unet: UNet2DConditionModel, name: str) -> lora.Adapter:
    with trainer.averaged():
        return lora.export(unet, name)


def hold_equal(choices: list[Choice], prediction: PredictionType, micro_batches: MicroBatches | None = None) -> None:
    """Train the choices together and each alone, and compare gradients, records, weights and states."""
    numbered = dict(enumerate(choices))
    pack, pack_unet = made(numbered, prediction)
    if micro_batches is not None:
        pack.use_micro_batches(micro_batches)
    first = list(pack.run(1, lambda: False))
    gradients = {at: gradients_of(pack_unet, f"m{at}") for at in numbered}
    records = first + list(pack.run(6, lambda: False))
    for at, choice in numbered.items():
        name = f"m{at}"
        alone, unet = made({at: choice}, prediction)
        list(alone.run(1, lambda: False))
        together, apart = gradients[at], gradients_of(unet, name)
        assert together.keys() == apart.keys()
        assert any(value.any() for value in apart.values())
        torch.testing.assert_close(together, apart, rtol=0, atol=1e-12, msg=lambda text, c=choice: f"{c}: {text}")
        list(alone.run(6, lambda: False))
        said = f"{choice}"
        assert [row[name].step for row in records if name in row] == list(range(1, alone.step + 1)), said
        torch.testing.assert_close(used(pack, pack_unet, name), used(alone, unet, name), rtol=0, atol=1e-10, msg=said)
        ours, theirs = pack.state(name), alone.state(name)
        assert ours.keys() == theirs.keys(), said
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-9, atol=1e-10, msg=f"{said}: {key}")


def with_one(*keys: str) -> list[Choice]:
    """No option, and then each value of these options alone."""
    return [{}, *({key: value} for key in keys for value in OPTIONS[key])]


@pytest.mark.slow
def test_with_any_one_option_of_its_own_an_adapter_trains_as_it_does_alone() -> None:
    hold_equal(with_one(*OPTIONS), "epsilon")


def test_so_it_does_over_a_base_that_predicts_v() -> None:
    hold_equal(with_one("loss", "weighting", "noise", "timesteps"), "v_prediction")


def test_the_layers_of_an_adapter_that_has_done_its_steps_are_the_bases_again() -> None:
    hold_equal([{}, {".target_modules": ("to_v", "net.2"), "steps": 2}], "epsilon")


def pairwise(seed: int) -> list[Choice]:
    """Choices in which every two values of two options, defaults among them, stand together at least once."""
    draw, keys = random.Random(seed), list(OPTIONS)
    values = {key: [None, *OPTIONS[key]] for key in keys}

    def pairs(numbers: dict[str, int]) -> set[tuple[str, int, str, int]]:
        return {(a, numbers[a], b, numbers[b]) for a, b in itertools.combinations(keys, 2)}

    def choice(numbers: dict[str, int]) -> Choice:
        return {key: values[key][at] for key, at in numbers.items() if at}

    left = set[tuple[str, int, str, int]]()
    for a, b in itertools.combinations(keys, 2):
        left |= {(a, i, b, j) for i, j in itertools.product(range(len(values[a])), range(len(values[b])))}
        left -= {
            (a, i, b, j)
            for i, j in itertools.product(range(len(values[a])), range(len(values[b])))
            if not is_allowed(choice({a: i, b: j}))
        }
    found = []
    while left:
        wanted = min(left)
        candidates = []
        while len(candidates) < 30:
            numbers = {key: draw.randrange(len(values[key])) for key in keys} | dict([wanted[:2], wanted[2:]])
            if is_allowed(choice(numbers)):
                candidates.append(numbers)
        best = max(candidates, key=lambda numbers: len(pairs(numbers) & left))
        left -= pairs(best)
        found.append(choice(best))
    return found


@pytest.mark.parametrize("share", [0.25, pytest.param(1.0, marks=pytest.mark.slow)])
def test_with_any_two_options_of_its_own_an_adapter_trains_as_it_does_alone(share: float) -> None:
    """Of all pairs, which take minutes, or of a quarter of the choices that have them, other ones each time."""
    seed = random.randrange(2**32)
    print("seed", seed)
    table = pairwise(seed)
    table = random.Random(seed).sample(table, math.ceil(share * len(table)))
    for part in _batches(table, 12):
        hold_equal(part, "epsilon", MicroBatches(3, 5))


def _batches(table: list[Choice], size: int) -> list[list[Choice]]:
    return [table[at : at + size] for at in range(0, len(table), size)]
