"""Files of this machine that another process removes and renames while they are read."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from job.storage.files import MissingObjectError
from job.storage.local import LocalStorage


@contextmanager
def coming_and_going(path: Path) -> Iterator[None]:
    """Put the file there and take it away again, as fast as can be, while the block runs."""
    kept, done = path.with_name("kept"), threading.Event()
    kept.write_bytes(b"whole")

    def turn() -> None:
        while not done.is_set():
            os.link(kept, path)
            path.unlink()

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_a_file_that_goes_while_it_is_looked_at_is_missing_or_whole(tmp_path: Path) -> None:
    storage, source, copy = LocalStorage(), tmp_path / "source", tmp_path / "copy"
    with coming_and_going(source):
        for _ in range(3000):
            copy.unlink(missing_ok=True)
            try:
                storage.download(str(source), copy)
            except MissingObjectError:
                assert not copy.exists()
            else:
                assert copy.read_bytes() == b"whole"
