"""Captioning in batches against a loop over single images.

Usage: python -m benchmarks.captioning [--images 16] [--batch 8] [--tokens 20] [--rounds 3] [--model FOLDER]

Without a model: one of BLIP base's size with random weights, which says nothing but takes as long. Both ways search
greedily in the same precision and read the same prepared squares; the model is loaded before.
"""

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.machine import describe
from benchmarks.rounds import table, take_turns
from lora_engine.config.models import CaptionerConfig
from lora_engine.images.squares import read_square, write_square
from lora_engine.models.captioner import Captioner, load_captioner
from lora_engine.models.files import LocalModel
from lora_engine.system.device import find_device
from lora_engine.system.malloc import keep_freed_blocks
from scripts.miniature.architecture import make_blip

_Items = Sequence[tuple[str, Path]]


def main() -> None:
    """Make model and images, take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    device = find_device()
    if device.type == "cpu":
        keep_freed_blocks()  # as the job does
    print(describe(str(device)))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if options.model is None:
            make_blip(folder / "blip", full_size=True)
        model = options.model or folder / "blip"
        items = make_squares(folder / "squares", options.images)
        config = CaptionerConfig(source=str(model), batch_size=options.batch, max_new_tokens=options.tokens)
        captioner = load_captioner(LocalModel(model), config, device)
        loop = SingleImages(model, captioner.dtype, options.tokens, device)
        print(f"{len(items)} images, up to {options.tokens} tokens, {captioner.dtype}, batches of {options.batch}")
        ways = {"single images": partial(loop.caption, items), "captioning": partial(_caption, captioner, items)}
        laps = take_turns(ways, options.rounds)
    print(table(laps, len(items), "single images"))


def make_squares(folder: Path, count: int, seed: int = 0) -> _Items:
    """Prepared squares of coloured blotches."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    items = [(str(at), folder / f"{at}.ppm") for at in range(count)]
    for _, path in items:
        blotches = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        write_square(blotches.resize((384, 384), Image.Resampling.BICUBIC), path)
    return items


class SingleImages:
    """The loop of a model's documentation: open an image, process, generate, decode; then the next."""

    def __init__(self, folder: Path, dtype: torch.dtype, tokens: int, device: torch.device) -> None:
        self._model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).to(device).eval()
        self._processor = AutoProcessor.from_pretrained(folder)
        self._tokens, self._device, self._dtype = tokens, device, dtype

    def caption(self, items: _Items) -> list[str]:
        """Every image's caption."""
        texts = []
        for _, path in items:
            inputs = self._processor(images=read_square(path), return_tensors="pt").to(self._device, self._dtype)
            with torch.inference_mode():
                tokens = self._model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=self._tokens)
            texts.append(self._processor.decode(tokens[0], skip_special_tokens=True))
        return texts


def _caption(captioner: Captioner, items: _Items) -> list[tuple[str, str]]:
    return list(captioner.caption(items))


if __name__ == "__main__":
    main()
