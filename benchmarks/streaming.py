"""Training on more latents than are kept in memory: how much memory that takes, and what it costs.

Usage: python -m benchmarks.streaming FOLDER [--images 100000] [--resolution 384] [--width 32]
           [--updates 5] [--rounds 3]

Writes random latents and one text embedding for every ten of them to FOLDER, as the cache keeps them, unless they are
there. Reads all of them as training does, four at a time in random order, and says how much memory that takes: what no
file backs cannot be given back; pages of files are the kernel's to drop. Then trains three variants at batch 4 on them,
and on data that is kept on the device, in turns.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.loop import TEXT_TOKENS, TEXT_WIDTH, random_data, trainer, unet
from benchmarks.machine import describe
from benchmarks.rounds import table, take_turns
from lora_engine.config.training import TrainingConfig
from lora_engine.dataset.encoded import EMPTY_PROMPT, Encoded, TrainingData, text_name
from lora_engine.dataset.tensor_files import TensorFiles
from lora_engine.system.device import DTYPES, find_device, resolve_precision
from lora_engine.system.device import describe as describe_device
from lora_engine.training.trainer import PackTrainer

_SHARD_ITEMS = 256
_MEMBERS, _BATCH = 3, 4
_IMAGES_PER_TEXT = 10


def write_shards(folder: Path, names: list[str], shape: tuple[int, ...], dtype: torch.dtype) -> list[Path]:
    """Random tensors of these names, in files of a few hundred."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    paths = []
    for start in range(0, len(names), _SHARD_ITEMS):
        path = folder / f"{start:09}.safetensors"
        some = names[start : start + _SHARD_ITEMS]
        if not path.exists():
            values = torch.randn(len(some), *shape, generator=generator).to(dtype)
            save_file(dict(zip(some, values, strict=True)), path)
        paths.append(path)
    return paths


def streamed(folder: Path, images: int, resolution: int, device: torch.device, dtype: torch.dtype) -> TrainingData:
    """The data of so many images, none of it in memory."""
    ids = [f"{number:064x}" for number in range(images)]
    texts = [EMPTY_PROMPT, *(f"text {number}" for number in range(images // _IMAGES_PER_TEXT))]
    side = resolution // 8
    latents = write_shards(folder / "latents", ids, (2, 4, side, side), torch.float32)
    embeddings = write_shards(folder / "embeddings", [text_name(t) for t in texts], (TEXT_TOKENS, TEXT_WIDTH), dtype)
    encoded = Encoded(tuple(ids), (), TensorFiles(latents), {}, tuple(texts), {dtype: TensorFiles(embeddings)})
    return encoded.training_data(device, dtype, flips=False, resident=False)


def read_all(data: TrainingData) -> None:
    """Every image and a text with each, as a step reads them; prints what memory it takes."""
    order = np.random.default_rng(0).permutation(len(data.image_ids))
    before, start, peak = _unshared_mib(), time.perf_counter(), 0.0
    for batch in order.reshape(-1, _BATCH):
        data.moments.place(data.moments.read(batch))
        data.texts.place(data.texts.read(batch // _IMAGES_PER_TEXT))
        peak = max(peak, _unshared_mib())
    rate = len(order) / (time.perf_counter() - start)
    print(f"{len(order)} images read in random order, {rate:.0f} a second")
    print(f"memory that no file backs: {before:.0f} MiB before, {peak:.0f} MiB at most", flush=True)


def _unshared_mib() -> float:
    fields = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return next(int(words[1]) / 1024 for words in fields if words[0] == "RssAnon:")


def _updates(made: PackTrainer, count: int) -> Callable[[], None]:
    def run() -> None:
        for _ in made.run(made.step + count, lambda: False):
            pass

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--resolution", type=int, default=384)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device = find_device()
    dtype = DTYPES[resolve_precision("auto", device)]
    print(describe(describe_device(device)))
    config = TrainingConfig(steps=options.updates * options.rounds + 1, batch_size=_BATCH)

    def prepared(data: TrainingData) -> PackTrainer:
        made = trainer(unet(options.width, device, dtype), data, _MEMBERS, config)
        _updates(made, 1)()  # what is allocated once is
        return made

    start = time.perf_counter()
    data = streamed(options.folder, options.images, options.resolution, device, dtype)
    print(f"{options.images} latents and their texts, written or opened in {time.perf_counter() - start:.0f} s")
    read_all(data)
    kept, read = prepared(random_data(options.resolution, device, dtype)), prepared(data)
    ways = {"kept on the device": _updates(kept, options.updates), "streamed": _updates(read, options.updates)}
    laps = take_turns(ways, options.rounds)
    print(f"\n{table(laps, options.updates * _MEMBERS * _BATCH, 'kept on the device')}")


if __name__ == "__main__":
    main()
