"""DoRA's training, in a pack of its own: against PEFT's own layers in a plain loop, and to the bit from a state."""

from dataclasses import replace
from typing import Any

import numpy as np
import peft
import torch
from diffusers import UNet2DConditionModel

from lora_engine.adapters import lora
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.training import TrainingConfig
from lora_engine.dataset.encoded import TrainingData
from lora_engine.training.members import MemberConfig
from lora_engine.training.trainer import PackTrainer
from tests.lora_engine.tiny import rows_of, tiny_data, tiny_member, tiny_noise_schedule, tiny_unet

LORA = LoraConfig.model_validate({"kind": "dora", "rank": 2, "alpha": 3.0, "target_modules": "full", "conv_rank": 1})
TRAINING = TrainingConfig.model_validate(
    {"steps": 6, "batch_size": 2, "optimizer": {"learning_rate": 3e-3, "weight_decay": 0.1}, "max_grad_norm": 0.5}
)


def made(dtype: torch.dtype = torch.float64) -> tuple[PackTrainer, UNet2DConditionModel]:
    unet = tiny_unet(dtype)
    lora.inject(unet, [("a", 5)], LORA)
    return PackTrainer(
        unet, [tiny_member("a", 5, 1)], data_in(dtype), tiny_noise_schedule(), [MemberConfig(LORA, TRAINING)]
    ), unet


def data_in(dtype: torch.dtype) -> TrainingData:
    data = tiny_data(dtype=torch.promote_types(dtype, torch.float32))
    texts = data.texts.place(data.texts.read(np.arange(6)))
    return replace(data, texts=rows_of(texts.to(dtype)))


def test_an_update_is_that_of_pefts_layers_in_a_plain_loop() -> None:
    trainer, unet = made()
    start = lora.export(unet, "a")
    twin = tiny_unet()
    sizes = lora.sizes_of(twin, LORA)
    settings = peft.LoraConfig(
        r=2,
        lora_alpha=3.0,
        use_dora=True,
        target_modules=list(sizes),
        rank_pattern={f"^{name}": rank for name, (rank, _) in sizes.items()},
    )
    twin.requires_grad_(requires_grad=False)
    peft.inject_adapter_in_model(settings, twin, adapter_name="a")
    twin.double()
    theirs: dict[str, Any] = {}
    for name in sizes:
        layer: Any = twin.get_submodule(name)
        theirs[f"{name}.lora_A.weight"] = layer.lora_A["a"].weight
        theirs[f"{name}.lora_B.weight"] = layer.lora_B["a"].weight
        theirs[f"{name}.lora_magnitude_vector"] = layer.lora_magnitude_vector["a"].weight
    for key, weight in theirs.items():
        weight.data = start[key].view_as(weight).clone()
    optimizer = torch.optim.AdamW(theirs.values(), lr=3e-3, weight_decay=0.1)
    for step in range(1, 4):
        read = trainer._reader.read(step)
        batch = trainer._update.batch(trainer._reader.place(read, [0]))
        prediction = twin(batch.noisy[0], batch.timesteps[0], batch.text[0]).sample
        optimizer.zero_grad()
        (prediction - batch.target[0]).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(theirs.values(), 0.5)
        optimizer.step()
        list(trainer.run(step, lambda: False))
        ours = lora.export(unet, "a")
        for key, weight in theirs.items():
            torch.testing.assert_close(ours[key], weight.detach().view_as(ours[key]), rtol=0, atol=1e-8, msg=key)
    assert not torch.equal(ours[key], start[key])


def test_the_strength_of_a_picture_is_none_of_the_training_after_it() -> None:
    trainer, unet = made()
    list(trainer.run(2, lambda: False))
    after_a_picture, drawn_with = made()
    lora.activate(drawn_with, ["a"], 0.5)
    list(after_a_picture.run(2, lambda: False))
    assert lora.weights_sha256(lora.export(drawn_with, "a")) == lora.weights_sha256(lora.export(unet, "a"))


def test_it_goes_on_from_a_state_to_the_bit_over_any_base() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        whole, unet = made(dtype)
        list(whole.run(6, lambda: False))
        first, _ = made(dtype)
        list(first.run(3, lambda: False))
        second, resumed = made(dtype)
        second.restore({"a": first.state("a")})
        list(second.run(6, lambda: False))
        ours, theirs = lora.export(resumed, "a"), lora.export(unet, "a")
        assert lora.weights_sha256(ours) == lora.weights_sha256(theirs)
        assert all(weight.dtype == torch.float32 for weight in ours.values())
