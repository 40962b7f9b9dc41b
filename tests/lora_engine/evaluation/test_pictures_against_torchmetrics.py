"""The arithmetic of KID and of the CLIP score against torchmetrics', whose import takes seconds."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import nn
from torchmetrics.image.kid import KernelInceptionDistance, poly_mmd
from torchmetrics.multimodal.clip_score import CLIPScore
from transformers import CLIPModel, CLIPProcessor

from lora_engine import miniature
from lora_engine.evaluation import clip_score
from lora_engine.evaluation.distribution import kid_kernel, squared_mmd
from lora_engine.evaluation.pictures import PictureSet, References, estimates
from lora_engine.models.clip import load_clip
from lora_engine.models.files import LocalModel
from tests.lora_engine.evaluation.synthetic_pictures import unit, world

Floats = npt.NDArray[np.float64]

DRAWINGS = sorted(miniature.folder("drawings").glob("*.png"))[::20]


def features(embeddings: Floats) -> torch.Tensor:
    """What torchmetrics' kernel is to be given: x.x / D is 1."""
    return torch.from_numpy(embeddings * np.sqrt(embeddings.shape[1]))


@pytest.mark.parametrize(("count", "dimensions"), [(8, 16), (40, 64), (100, 512)])
def test_kid_is_torchmetrics_discrepancy_of_polynomials(count: int, dimensions: int) -> None:
    generator = np.random.default_rng(count)
    ours, theirs = (
        unit(mean + generator.normal(0, 1, (count, dimensions))) for mean in generator.normal(0, 0.5, (2, dimensions))
    )
    found = squared_mmd(kid_kernel, ours, theirs, np.arange(count)).whole
    expected = poly_mmd(features(theirs), features(ours), degree=3, gamma=1 / dimensions, coef=1.0)
    assert found == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save all extracted features:UserWarning")
def test_kid_of_pictures_is_that_of_torchmetrics_over_one_subset_of_all() -> None:
    here = world(1, held_out=42)
    (pictures,) = here.sets(prompts=14, seeds=3, shifts=(0.4,))
    held_out = here.references.held_out_embeddings
    assert held_out is not None
    assert pictures.embeddings is not None
    metric = KernelInceptionDistance(feature=nn.Identity(), subsets=1, subset_size=42).set_dtype(torch.float64)
    metric.update(features(held_out), real=True)
    metric.update(features(pictures.embeddings), real=False)
    found = estimates([pictures], here.references)["kid"]
    assert not isinstance(found, str)
    assert found.mean == pytest.approx(float(metric.compute()[0]), rel=1e-6)


class Features:
    """A CLIP model whose features are bare tensors, as transformers 5 no longer gives them and torchmetrics expects."""

    def __init__(self, folder: Path) -> None:
        self._model = CLIPModel.from_pretrained(folder, dtype=torch.float32)
        self.config = SimpleNamespace()

    def to(self, device: torch.device) -> "Features":
        self._model.to(device)
        return self

    def get_image_features(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self._model.get_image_features(*inputs).pooler_output

    def get_text_features(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self._model.get_text_features(*inputs).pooler_output


def clip_parts() -> tuple[Any, Any]:
    folder = miniature.folder("clip")
    return Features(folder), CLIPProcessor.from_pretrained(folder)


@pytest.mark.filterwarnings(
    "ignore:`max_length` is ignored when `padding`=`True`:UserWarning"
)  # it pads to the longest
@torch.inference_mode()
def test_the_clip_score_is_that_of_torchmetrics() -> None:
    pictures = [Image.open(path).convert("RGB") for path in DRAWINGS]
    texts = [path.with_suffix(".txt").read_text("utf-8").strip() for path in DRAWINGS]
    cosines = load_clip(LocalModel(miniature.folder("clip")), torch.device("cpu")).cosines(pictures, texts)
    pixels = [torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures]
    metric, count = CLIPScore(clip_parts), len(texts)
    metric.update(pixels, texts)
    # of as many prompts as pictures, whose scores are all above 0: torchmetrics cuts off their mean, not each
    found = estimates(
        [PictureSet(np.arange(count), np.zeros(count, dtype=np.int64), np.zeros((count, 6)), cosines, None)],
        References(None, np.zeros((1, 6)), None),
    )["clip_score"]
    assert not isinstance(found, str)
    assert cosines.diagonal().min() > 0
    assert found.mean == pytest.approx(float(metric.compute()), abs=1e-4)
    # each with the next one's text, a picture at a time, where some are below 0
    others = np.roll(np.arange(count), -1)
    for scored, at in zip(clip_score.scores(cosines, others), range(count), strict=True):
        metric.reset()
        metric.update(pixels[at], texts[others[at]])
        assert scored == pytest.approx(float(metric.compute()), abs=1e-4)
    assert clip_score.scores(cosines, others).min() == 0
