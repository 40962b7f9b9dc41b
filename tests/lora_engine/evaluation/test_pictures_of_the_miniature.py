"""How few pictures a discrepancy can be asked of, by the miniature CLIP model and drawings of two styles."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import CLIPModel, CLIPProcessor

from drawings import SEEDS, Style, draw, geometry
from lora_engine import miniature
from lora_engine.evaluation.distribution import cmmd_kernel, kid_kernel, squared_mmd
from lora_engine.evaluation.pictures import FEWEST_PICTURES
from subjects import SUBJECTS
from tests.lora_engine.evaluation.synthetic_pictures import unit

Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def drawings() -> dict[Style, Floats]:
    """Embeddings of 100 drawings of either style."""
    model = CLIPModel.from_pretrained(miniature.folder("clip"), dtype=torch.float32)
    processor = CLIPProcessor.from_pretrained(miniature.folder("clip"))
    geometries = [geometry(subject, seed) for seed in SEEDS["validation"][:5] for subject in SUBJECTS]
    result: dict[Style, Floats] = {}
    for style in ("line", "sticker"):
        inputs = processor(images=[draw(one, style, 64) for one in geometries], return_tensors="pt")
        with torch.inference_mode():
            result[style] = unit(model.get_image_features(**inputs).pooler_output.double().numpy())
    return result


@pytest.mark.parametrize("kernel", [kid_kernel, cmmd_kernel])
def test_of_as_many_pictures_as_are_needed_stickers_are_told_from_line_drawings(
    drawings: dict[Style, Floats], kernel: Callable[[Floats], Floats]
) -> None:
    """They are further from 40 line drawings than other line drawings are; of half as many pictures, not reliably."""
    print("seed", seed := 0)
    generator, told = np.random.default_rng(seed), {}
    for count in (FEWEST_PICTURES, FEWEST_PICTURES // 2):
        told[count] = 0
        for _ in range(300):
            held_out, lines = np.split(drawings["line"][generator.permutation(100)[: 40 + count]], [40])
            stickers = drawings["sticker"][generator.permutation(100)[:count]]
            line, sticker = (squared_mmd(kernel, one, held_out, np.arange(count)).whole for one in (lines, stickers))
            told[count] += sticker > line
    print("figures: told", told)
    assert told[FEWEST_PICTURES] >= 0.97 * 300
    assert told[FEWEST_PICTURES // 2] <= 0.94 * 300
