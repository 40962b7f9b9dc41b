from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPModel, CLIPProcessor

from drawings import SEEDS, draw, geometry, with_article
from lora_engine import miniature
from lora_engine.errors import ModelError
from lora_engine.evaluation.clip_score import retrieval, score
from lora_engine.models.clip import load_clip
from lora_engine.models.files import LocalModel
from subjects import SUBJECTS

CPU = torch.device("cpu")
PICTURES = [draw(geometry(subject, SEEDS["validation"][7]), "line", 64) for subject in SUBJECTS]
TEXTS = [with_article(subject) for subject in SUBJECTS]


def test_cosines_are_those_of_transformers() -> None:
    found = load_clip(LocalModel(miniature.folder("clip")), CPU).cosines(PICTURES[:3], TEXTS)
    model = CLIPModel.from_pretrained(miniature.folder("clip"), dtype=torch.float32)
    processor = CLIPProcessor.from_pretrained(miniature.folder("clip"))
    inputs = processor(text=TEXTS, images=PICTURES[:3], return_tensors="pt", padding=True, truncation=True)
    with torch.inference_mode():
        expected = model(**inputs).logits_per_image / model.logit_scale.exp()
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


def test_the_miniature_knows_most_drawings_that_it_has_not_seen() -> None:
    cosines = load_clip(LocalModel(miniature.folder("clip")), CPU).cosines(PICTURES, TEXTS)
    assert retrieval(cosines, range(len(SUBJECTS))) >= 0.9


def test_long_texts_are_cut_not_refused() -> None:
    assert load_clip(LocalModel(miniature.folder("clip")), CPU).cosines(PICTURES[:1], ["a heart " * 100]).shape == (
        1,
        1,
    )


def test_score_and_retrieval_by_hand() -> None:
    cosines = np.array([[0.5, 0.1], [0.4, -0.2]])
    assert score(cosines, [0, 1]) == pytest.approx(25)
    assert retrieval(cosines, [0, 1]) == 0.5


def test_what_is_no_clip_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights"):
        load_clip(LocalModel(tmp_path), CPU)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_clip(LocalModel(miniature.folder("blip")), CPU)
