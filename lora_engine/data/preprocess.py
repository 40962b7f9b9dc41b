"""Prepares a dataset's images on all cores: decode one, write one, so memory does not grow with the dataset."""

import hashlib
import multiprocessing
import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import imagehash
from PIL import Image

from lora_engine.config.data import PreprocessConfig
from lora_engine.data.decode import RejectedImageError, decode_image, to_square
from lora_engine.data.sources import is_leftover
from lora_engine.errors import DataError
from lora_engine.records import SourceFile

_HASH_SIDE = 16  # so 256 bits
_THUMBNAIL_SIDE = 160
_WINDOW = 16  # files under way for each worker


@dataclass(frozen=True)
class PreparedImage:
    """What one worker made of one file."""

    id: str  # SHA-256 of the file's bytes
    source: str  # the file's key
    size_bytes: int
    width: int | None = None
    height: int | None = None
    path: Path | None = None  # the square image
    thumbnail: Path | None = None
    perceptual_hash: bytes | None = None  # 256 bits
    ignored: bool = False
    rejected: str | None = None


def preprocess_images(
    files: Iterable[SourceFile], config: PreprocessConfig, out: Path, workers: int | None = None
) -> Iterator[PreparedImage]:
    """Prepare every file, in order. What is already there under the same settings is not made again.

    Raises:
        DataError: an image took the worker that decoded it down.
    """
    settings = hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16]
    folder = out / f"images-{settings}"
    folder.mkdir(parents=True, exist_ok=True)
    count = workers or len(os.sched_getaffinity(0))
    remaining, window = iter(files), deque[tuple[SourceFile, Future[PreparedImage]]]()
    # spawned workers inherit neither threads nor the memory of a large parent
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            for file in islice(remaining, count * _WINDOW):
                window.append((file, pool.submit(prepare, file, config, folder)))
            while window:
                _, done = window.popleft()
                prepared = done.result()
                for file in islice(remaining, 1):
                    window.append((file, pool.submit(prepare, file, config, folder)))
                yield prepared
        except BrokenProcessPool as error:
            names = ", ".join(file.key for file, future in window if not future.done() or future.exception())[:500]
            raise DataError(
                f"Decoding took a worker process down, at one of: {names}.",
                "Remove the image, or give the machine more memory.",
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def prepare(file: SourceFile, config: PreprocessConfig, folder: Path) -> PreparedImage:
    """Prepare one file: `<id>.png`, the square, and `<id>.webp`, the thumbnail, in `folder`."""
    path = Path(file.path)
    with path.open("rb") as opened:
        identity = hashlib.file_digest(opened, "sha256").hexdigest()
    size = path.stat().st_size
    if is_leftover(file.key):
        return PreparedImage(identity, file.key, size, ignored=True)
    square_path, thumbnail = folder / f"{identity}.png", folder / f"{identity}.webp"
    try:
        image = decode_image(path, config)
        width, height = _upright_size(path)
    except RejectedImageError as error:
        return PreparedImage(identity, file.key, size, rejected=str(error))
    square = to_square(image, config.resolution)
    _save(square, square_path, "PNG")
    if not thumbnail.exists():
        small = square.copy()
        small.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
        _save(small, thumbnail, "WEBP")
    bits = imagehash.phash(square, hash_size=_HASH_SIDE).hash
    packed = int("".join("1" if bit else "0" for bit in bits.flatten()), 2).to_bytes(_HASH_SIDE**2 // 8, "big")
    return PreparedImage(identity, file.key, size, width, height, square_path, thumbnail, packed)


def _upright_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        swapped = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return (image.height, image.width) if swapped else image.size


def _save(image: Image.Image, path: Path, kind: str) -> None:
    """Write a copy without metadata under a temporary name, then rename."""
    if path.exists():
        return
    clean = Image.new("RGB", image.size)
    clean.paste(image)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        clean.save(file, kind)
    Path(file.name).replace(path)
