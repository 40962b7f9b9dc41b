"""Prepares a dataset's images on all cores, one by one, so that memory does not grow with the dataset."""

import hashlib
import io
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence, Set
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path

from PIL import Image

from lora_engine.config.data import PreprocessConfig
from lora_engine.errors import DataError, EngineError, ResourceError, UnsafeError
from lora_engine.images.decode import decode_with_size, to_square, upright_size
from lora_engine.images.kinds import why_ignored, why_unread
from lora_engine.images.perceptual_hash import perceptual_hash
from lora_engine.images.squares import SUFFIX, read_square, write_square
from lora_engine.images.unread import RejectedImageError
from lora_engine.records import SourceFile
from lora_engine.system.cores import usable_cores
from lora_engine.system.limits import raise_if_limit
from lora_engine.system.malloc import keep_freed_blocks
from lora_engine.system.scratch import make_folder

_DECODER_VERSION = 7  # raised whenever the same file and settings come to give other pixels
_THUMBNAIL_SIDE = 128  # pixels at least, where the square has as many
_WINDOW = 16  # files under way for each worker
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)  # how a decoder goes wrong
_KEPT_BLOCK = 32 * 2**20  # bytes of the largest block that a worker keeps for reuse; a huge image's go back at once


@dataclass(frozen=True)
class PreparedImage:
    """A file of the dataset after a worker prepared it: a square image, or the reason why there is none."""

    id: str  # SHA-256 of the file's bytes, hexadecimal; empty where it is ignored, or they could not be read
    source: str  # the file's key
    size_bytes: int
    width: int | None = None  # of the whole upright image, in pixels
    height: int | None = None
    path: Path | None = None  # where the square image lies
    thumbnail: bytes | None = None  # a WebP file
    perceptual_hash: bytes | None = None
    ignored: str | None = None  # why it is no image of the dataset, see `why_ignored`
    rejected: str | None = None  # why it is one, and cannot be used
    uniform: bool = False  # whether the square is all of one colour
    copy_of: str | None = None  # id of an image with the same bytes, from which this one is told by its own

    @property
    def content(self) -> str:
        """The SHA-256 of the file's bytes, which copies that are told apart share."""
        return self.copy_of or self.id


def check_rejected(files: Sequence[PreparedImage], limit: float) -> None:
    """Refuse a dataset without images, or of which more than the fraction `limit` of the files cannot be used.

    Raises:
        DataError: it is such a one.
    """
    counted = [file for file in files if file.ignored is None]
    rejected = [file for file in counted if file.rejected is not None]
    if not counted:
        examples = "; ".join(f"{file.source}: {file.ignored}" for file in files[:5])
        raise DataError(f"The dataset holds no images{': ' * bool(files)}{examples}.", "Check dataset.source.")
    if len(rejected) / len(counted) > limit:
        examples = "; ".join(f"{file.source}: {file.rejected}" for file in rejected[:5])
        raise DataError(
            f"{len(rejected)} of {len(counted)} files cannot be used, more than preprocess.max_rejected_fraction "
            f"({limit:g}) allows: {examples}.",
            "Remove or mend them, or raise preprocess.max_rejected_fraction.",
        )


def pixels_key(config: PreprocessConfig) -> str:
    """A name for all that decides the pixels of a prepared image, apart from its file."""
    settings = config.model_dump_json(include={"resolution", "crop", "background"})
    return hashlib.sha256(f"{_DECODER_VERSION} {settings}".encode()).hexdigest()[:16]


def preprocess_images(
    files: Sequence[SourceFile], config: PreprocessConfig, out: Path, workers: int | None = None
) -> Iterator[PreparedImage]:
    """Prepare every file, in order. A square that lies there already from the same settings is not made again.

    Args:
        out: the folder below which the squares are written.
        workers: processes; None takes one a core, or fewer where there are few files.

    Raises:
        DataError: a file cannot be read, or an image took the worker that decoded it down.
        ResourceError: the system killed a worker, or a limit of the process is reached.
    """
    folder = out / f"images-{pixels_key(config)}"
    make_folder(folder)
    # Starting a worker takes as long as decoding a dozen files, so few files get few workers.
    count = workers or min(usable_cores(), 1 + len(files) // _WINDOW)
    remaining, window = iter(files), deque[tuple[SourceFile, Future[PreparedImage]]]()
    processes: set[BaseProcess] = set()
    with _pool_of(count) as pool:

        def submit(files: Iterable[SourceFile]) -> None:
            for file in files:
                window.append((file, pool.submit(prepare, file, config, folder)))
                processes.update(multiprocessing.active_children())

        try:
            submit(islice(remaining, count * _WINDOW))
            while window:
                prepared = _result(*window[0])
                window.popleft()
                submit(islice(remaining, 1))
                yield prepared
        except BrokenProcessPool as error:
            # Workers take files in order, so the fatal one is among the first that are not done.
            undone = [file.key for file, future in window if not future.done() or future.exception()]
            pool.shutdown(wait=True, cancel_futures=True)  # Until then a process may not be known to have ended.
            codes = {process.exitcode for process in processes}
            raise _worker_error(codes, ", ".join(undone[: 2 * count])) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _pool_of(workers: int) -> ProcessPoolExecutor:
    """Processes that prepare images.

    Raises:
        ResourceError: the system does not let them take turns, for which it needs shared memory.
    """
    # Spawned workers, unlike forked ones, inherit neither threads nor the memory of a large parent.
    context = multiprocessing.get_context("spawn")
    try:
        return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    except OSError as error:
        raise_if_limit(error)
        raise ResourceError(
            f"No process can be started that prepares images: /dev/shm cannot be used: {error.strerror}.",
            "Let it be there, writable and not full: `docker run --shm-size 64m`, or in Kubernetes an emptyDir of the "
            "medium Memory that is mounted at /dev/shm.",
        ) from error


def _worker_error(codes: Set[int | None], candidates: str) -> EngineError:
    """The error for a worker that ended: the data's fault where it crashed, else the machine's.

    Args:
        codes: the exit codes of all workers; a negative one is minus the signal that ended it.
        candidates: the files that it may have been at.
    """
    crashes = [signal.Signals(-code).name for code in codes if code is not None and -code in _CRASHES]
    if crashes:
        return DataError(
            f"Decoding took a worker process down ({crashes[0]}), at one of: {candidates}.", "Remove the image."
        )
    how = "was killed (SIGKILL), as the system does where memory is full" if -signal.SIGKILL in codes else "ended early"
    return ResourceError(
        f"A process that decodes images {how}, at one of: {candidates}.",
        "Raise the memory limit of the machine or the container (cgroup memory.max, `docker run --memory`), or give it "
        "fewer CPUs, for each of which there is such a process.",
    )


def _begin_worker() -> None:
    # Libraries below Pillow write of a file's faults there, between the lines of a log; what counts comes as an error.
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - it is no file
        os.dup2(nowhere.fileno(), 2)
    # A terminal sends its interrupt to the parent too, which ends the workers in good order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    keep_freed_blocks(up_to=_KEPT_BLOCK)


def _end_with_parent() -> None:
    """End this worker when its parent is killed, since it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "workers are started by a process"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _result(file: SourceFile, future: Future[PreparedImage]) -> PreparedImage:
    """Wait for a file to be prepared."""
    try:
        return future.result()
    except OSError as error:
        raise_if_limit(error)
        if error.filename != file.path:
            raise  # a fault of the disk that is written to, not of the file
        raise _unread(file, error) from error


def prepare(file: SourceFile, config: PreprocessConfig, folder: Path) -> PreparedImage:
    """Prepare one file: write the square `<id>.ppm` into `folder`, and make its thumbnail and perceptual hash.

    Raises:
        OSError: the disk fails, or the file is gone.
    """
    path = Path(file.path)
    if (ignored := why_ignored(file)) is not None:
        return _ignored(file, ignored)
    try:
        with path.open("rb") as opened:
            identity = hashlib.file_digest(opened, "sha256").hexdigest()
            size = opened.tell()
    except OSError as error:
        reason = why_unread(path, error)
        if reason is None:
            raise
        return PreparedImage("", file.key, 0, rejected=reason)
    square_path = folder / f"{identity}{SUFFIX}"
    stored = _stored(square_path)
    try:
        if stored is None:
            image, (width, height) = decode_with_size(path, config)
            square = to_square(image, config.resolution, (width, height))
        else:
            square, (width, height) = stored, upright_size(path, config)
    except RejectedImageError as error:
        return PreparedImage(identity, file.key, size, rejected=str(error))
    small = square.reduce(max(1, square.width // _THUMBNAIL_SIDE))
    if stored is None:
        write_square(square, square_path)
    uniform = square.getcolors(1) is not None  # there is one colour at most
    look = perceptual_hash(square)
    return PreparedImage(identity, file.key, size, width, height, square_path, _thumbnail(small), look, uniform=uniform)


def look_at(file: SourceFile, config: PreprocessConfig) -> PreparedImage:
    """What `prepare` would find of a file, as far as its header tells: no id, no square, nothing of damage behind it.

    Raises:
        DataError: the disk fails, or the file is gone.
    """
    path = Path(file.path)
    try:
        if (ignored := why_ignored(file)) is not None:
            return _ignored(file, ignored)
        with path.open("rb") as opened:
            size = opened.seek(0, os.SEEK_END)
        width, height = upright_size(path, config)
    except RejectedImageError as error:
        return PreparedImage("", file.key, size, rejected=str(error))
    except OSError as error:
        raise_if_limit(error)
        reason = why_unread(path, error)
        if reason is None:
            raise _unread(file, error) from error
        return PreparedImage("", file.key, 0, rejected=reason)
    return PreparedImage("", file.key, size, width, height)


def _ignored(file: SourceFile, why: str) -> PreparedImage:
    try:
        size = Path(file.path).stat().st_size
    except OSError:  # a link that leads nowhere, or to where this user may not look
        size = 0
    return PreparedImage("", file.key, size, ignored=why)


def _unread(file: SourceFile, error: OSError) -> DataError:
    return DataError(f"{file.key} cannot be read ({error.strerror}).", "Make it readable to this user, or remove it.")


def _thumbnail(small: Image.Image) -> bytes:
    # The thumbnail is not written to a file here: to make a file takes as long as to encode the thumbnail.
    encoded = io.BytesIO()
    small.save(encoded, "WEBP", method=0)  # four times as fast as the default method, for files a little larger
    return encoded.getvalue()


def _stored(path: Path) -> Image.Image | None:
    """The square that this user's earlier attempt wrote; None where there is none, or it is not as it was written."""
    try:
        return read_square(path) if path.lstat().st_uid == os.geteuid() else None
    except (OSError, UnsafeError):
        return None
