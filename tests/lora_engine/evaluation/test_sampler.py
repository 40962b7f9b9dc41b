from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lora_engine import miniature
from lora_engine.adapters import lora
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.evaluation import SamplesConfig
from lora_engine.evaluation.sampler import Sample, Sampler
from lora_engine.models import stable_diffusion
from lora_engine.models.files import LocalModel

FOLDER = miniature.folder("stable-diffusion")
CPU = torch.device("cpu")
NAMES = ["one", "two", "three"]
PROMPTS = ("a heart", "a skull")
NEAR = 2  # of 255, of what differs by how sums are rounded


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    """With three adapters whose pictures differ."""
    model = stable_diffusion.load_unet(LocalModel(FOLDER), torch.float32)
    lora.inject(model, [(name, 0) for name in NAMES], LoraConfig(rank=4, alpha=4))
    for number, name in enumerate(NAMES):
        random = torch.Generator().manual_seed(number)
        weights = lora.export(model, name)
        noisy = {key: weight + 0.05 * torch.randn(weight.shape, generator=random) for key, weight in weights.items()}
        lora.load(model, name, noisy)
    return model


def sampler(unet: nn.Module, guidance: float = 3.0, images_at_once: int = 16, **settings: object) -> Sampler:
    config = SamplesConfig.model_validate(
        {"prompts": PROMPTS, "seeds": (0, 7), "steps": 2, "guidance": guidance, **settings}
    )
    return Sampler(LocalModel(FOLDER), unet, config, 64, images_at_once, CPU)


def images_of(by: Sampler, names: Sequence[str]) -> dict[tuple[str | None, int, int], np.ndarray]:
    samples = [one for at_once in by.generate(names, lambda: None) for one in at_once]
    return {(one.adapter, one.prompt, one.seed): pixels(one) for one in samples}


def pixels(sample: Sample) -> np.ndarray:
    return np.asarray(sample.image, dtype=np.int16)


@pytest.mark.parametrize(("guidance", "images_at_once"), [(1.0, 3), (3.0, 1), (3.0, 16)])
def test_adapters_that_generate_together_give_what_each_gives_alone(
    unet: nn.Module, guidance: float, images_at_once: int
) -> None:
    together = images_of(sampler(unet, guidance, images_at_once), NAMES)
    alone = {key: image for name in NAMES for key, image in images_of(sampler(unet, guidance), [name]).items()}
    assert together.keys() == alone.keys()
    assert len(together) == len(NAMES) * len(PROMPTS) * 2
    for key, image in together.items():
        assert np.abs(image - alone[key]).max() <= NEAR
    different = [
        np.abs(together["one", at, 0] - together[name, at, 0]).max() for name in NAMES[1:] for at in range(len(PROMPTS))
    ]
    assert min(different) > 10 * NEAR


def test_the_base_model_generates_when_no_adapter_is_named(unet: nn.Module) -> None:
    plain = stable_diffusion.load_unet(LocalModel(FOLDER), torch.float32)
    lora.inject(plain, [("zero", 0)], LoraConfig(rank=4, alpha=4))
    images_of(sampler(unet), NAMES)
    ours, theirs = images_of(sampler(unet), []), images_of(sampler(plain), ["zero"])
    assert {key[1:] for key in ours} == {key[1:] for key in theirs}
    assert all(name is None for name, _, _ in ours)
    for (_, prompt, seed), image in ours.items():
        assert np.abs(image - theirs["zero", prompt, seed]).max() <= NEAR


def test_images_are_those_of_the_pipeline_that_people_use(unet: nn.Module) -> None:
    """diffusers' own, with prompts as texts and PEFT's layers, which knows nothing of packs."""
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig as PeftConfig

    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER, safety_checker=None).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.add_adapter(
        PeftConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]), adapter_name="two"
    )
    parameters: dict[str, Tensor] = dict(pipeline.unet.named_parameters())
    for key, weight in lora.export(unet, "two").items():
        parameters[key.replace(".weight", ".two.weight")].data.copy_(weight)
    expected = pipeline(
        PROMPTS[1],
        negative_prompt="a grey blur",
        height=64,
        width=64,
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(7),
    ).images[0]
    ours = images_of(sampler(unet, negative_prompt="a grey blur"), NAMES)["two", 1, 7]
    assert np.abs(ours - np.asarray(expected, dtype=np.int16)).max() <= NEAR


def test_what_the_check_raises_ends_the_generation(unet: nn.Module) -> None:
    calls = []

    def check() -> None:
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(sampler(unet).generate(NAMES, check))
