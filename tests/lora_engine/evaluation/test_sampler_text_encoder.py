"""Pictures of adapters that are in the text encoder too, against diffusers' pipeline with their files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from lora_engine import miniature
from lora_engine.adapters import formats, lora
from lora_engine.adapters.names import DIFFUSERS_NAME
from lora_engine.config.adapter import LoraConfig
from lora_engine.evaluation.sampler import Request, Sampler
from lora_engine.models.adapted import load_adapted_unet
from lora_engine.models.files import LocalModel
from lora_engine.records import SampleSetting
from tests.lora_engine.adapters.trained import CARD

FOLDER = miniature.folder("stable-diffusion")
CPU = torch.device("cpu")
PROMPTS = ("a heart", "a skull")
NEGATIVE = "a grey blur"
NEAR = 2  # of 255, of what differs by how sums are rounded
CONFIGS = {
    "text": LoraConfig.model_validate({"rank": 4, "alpha": 3, "text_encoder": {"rank": 2, "alpha": 4.0}}),
    "layers": LoraConfig.model_validate(
        {"rank": 3, "alpha": 6, "rank_stabilized": True, "target_modules": "full", "conv_rank": 2, "text_encoder": {}}
    ),
    "unet alone": LoraConfig(rank=4, alpha=4),
}


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    adapters = [(name, 0, config) for name, config in CONFIGS.items()]
    model = load_adapted_unet(LocalModel(FOLDER), adapters, torch.float32, CPU)
    for number, name in enumerate(CONFIGS):
        random = torch.Generator().manual_seed(number)
        weights = lora.export(model, name)
        noisy = {key: weight + 0.03 * torch.randn(weight.shape, generator=random) for key, weight in weights.items()}
        lora.load(model, name, noisy)
    return model


def pipeline_pictures(
    unet: nn.Module, name: str | None, folder: Path, setting: SampleSetting
) -> list["np.ndarray[tuple[int, ...], np.dtype[np.int16]]"]:
    kept = {"safety_checker": None, "feature_extractor": None, "dtype": torch.float32}
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER, **kept)
    pipeline.set_progress_bar_config(disable=True)
    if name is not None:
        alphas = lora.file_alphas(unet, name)
        formats.write_checkpoint(folder, lora.export(unet, name), alphas, {"step": torch.tensor(1)}, CARD)
        pipeline.load_lora_weights(folder, weight_name=DIFFUSERS_NAME)
    pictures = pipeline(
        list(PROMPTS),
        negative_prompt=[setting.negative] * len(PROMPTS),
        width=setting.width,
        height=setting.height,
        num_inference_steps=setting.steps,
        guidance_scale=setting.guidance,
        generator=[torch.Generator("cpu").manual_seed(7) for _ in PROMPTS],
    ).images
    return [np.asarray(picture, dtype=np.int16) for picture in pictures]


@pytest.mark.parametrize("guidance", [3.0, pytest.param(1.0, marks=pytest.mark.slow)])
def test_pictures_are_those_of_diffusers_with_the_adapters_files(
    unet: nn.Module, tmp_path: Path, guidance: float
) -> None:
    setting = SampleSetting(width=64, height=64, steps=2, guidance=guidance, negative=NEGATIVE, strength=1.0)
    sampler = Sampler(LocalModel(FOLDER), unet, {*PROMPTS, NEGATIVE}, 16, CPU)
    requests = [Request(dict.fromkeys(names, text), 7, setting) for names in (CONFIGS, [None]) for text in PROMPTS]
    found = {}
    for together in sampler.generate(requests, lambda: None):
        for one in together:
            assert one.image is not None
            found[one.adapter, one.request % len(PROMPTS)] = np.asarray(one.image, dtype=np.int16)
    for name in (*CONFIGS, None):
        (folder := tmp_path / f"{name}").mkdir()
        for at, expected in enumerate(pipeline_pictures(unet, name, folder, setting)):
            assert np.abs(found[name, at] - expected).max() <= NEAR, (name, at)
    assert all(np.abs(found[name, 0] - found[None, 0]).max() > 10 * NEAR for name in CONFIGS)
