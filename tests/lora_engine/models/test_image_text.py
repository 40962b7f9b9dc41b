"""A model whose files lack weights, which the library would draw at random, or hold no numbers is refused."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_engine import miniature
from lora_engine.config.models import CaptionerConfig
from lora_engine.errors import ModelError
from lora_engine.models.captioner import load_captioner
from lora_engine.models.clip import load_clip
from lora_engine.models.files import LocalModel

CPU = torch.device("cpu")
CAPTIONER = CaptionerConfig(source="x")


@pytest.mark.parametrize(
    ("name", "layer", "load"),
    [
        (
            "blip",
            "text_decoder.cls.predictions.transform.dense.bias",
            lambda model: load_captioner(model, CAPTIONER, CPU),
        ),
        ("clip", "visual_projection.weight", lambda model: load_clip(model, CPU)),
    ],
)
def test_a_file_that_lacks_a_layer_or_its_numbers_is_refused(
    tmp_path: Path, name: str, layer: str, load: Callable[[Path], object]
) -> None:
    folder = tmp_path / name
    shutil.copytree(miniature.folder(name), folder)
    load(LocalModel(folder))
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights[layer].view(-1)[0] = float("nan")
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ModelError, match=rf"cannot be loaded.*{re.escape(layer)} .*not finite"):
        load(LocalModel(folder))
    del weights[layer]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ModelError, match=rf"cannot be loaded.*lack {re.escape(layer)}"):
        load(LocalModel(folder))
