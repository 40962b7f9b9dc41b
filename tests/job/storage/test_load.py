"""Many objects at once: nothing is lost where requests fail, and memory does not grow with their number."""

import hashlib
import json
import random
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from job.storage import Digest, Storage, join
from job.storage.transfer import download_all
from tests.http_fault_proxy import Answer, Drop, now_and_then

# What a listing holds of an object: it is sorted whole, since stores differ in their order. 20,000 take 12 MB.
LISTED_BYTES = 600
PAGE_BYTES = 2 * 2**20  # of a listing, 1000 objects, as it is parsed


@pytest.mark.parametrize("seed", [1])
def test_concurrent_checkpoints_lose_nothing(direct, through, tmp_path, seed):
    """200 checkpoints, of two files and the commit that names them, while one request in a hundred fails."""
    print(f"seed {seed}")
    faults = [
        Answer(503, "SlowDown"),
        Answer(500, "InternalError", applied=True),
        Drop("reset"),
        Drop("close", applied=True),
    ]
    faulty = through(now_and_then(seed, 0.01, faults), attempts=5)
    contents = random.Random(seed)
    checkpoints = {}
    for number in range(200):
        folder = tmp_path / f"step-{number:06}"
        folder.mkdir()
        for name in ("adapter", "state"):
            (folder / name).write_bytes(contents.randbytes(contents.randrange(1, 8000)))
        checkpoints[folder.name] = folder

    def commit(step: str) -> None:
        files = [(path, join(direct.root, step, path.name)) for path in sorted(checkpoints[step].iterdir())]
        digests = {uri: faulty.storage.upload(path, uri).sha256 for path, uri in files}
        faulty.storage.write(join(direct.root, step, "COMMIT.json"), json.dumps(digests).encode())

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(commit, checkpoints))
    print(f"{len(faulty.proxy.requests)} requests, failed: {faulty.proxy.injected()}")
    assert faulty.proxy.injected().total() >= 5

    commits = {step: json.loads(direct.storage.read(join(direct.root, step, "COMMIT.json"))) for step in checkpoints}
    promised = {uri: sha256 for digests in commits.values() for uri, sha256 in digests.items()}
    listed = [info for info in direct.storage.list(direct.root) if not info.uri.endswith("COMMIT.json")]
    assert {info.uri for info in listed} == set(promised)
    targets = ((info, tmp_path / "back" / str(number)) for number, info in enumerate(listed))
    assert {info.uri: digest.sha256 for info, digest in download_all(direct.storage, targets)} == promised
    sent = {join(direct.root, step, path.name): path for step in checkpoints for path in checkpoints[step].iterdir()}
    assert {uri: hashlib.sha256(path.read_bytes()).hexdigest() for uri, path in sent.items()} == promised


@pytest.mark.parametrize("count", [600, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_large_prefix_in_flat_memory(direct, tmp_path, count):
    """Four times the objects take no more than what the longer listing holds: a small part of their bytes."""
    uris = [join(direct.root, f"quarter-{number % 4}", f"{number:06}") for number in range(count)]
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda uri: direct.storage.write(uri, uri.encode() * 200), uris):
            pass
    quarter = join(direct.root, "quarter-0")
    _fetch(direct.storage, quarter, tmp_path / "first")  # what is loaded once, connections too
    few, few_bytes = _fetch(direct.storage, quarter, tmp_path / "few")
    many, many_bytes = _fetch(direct.storage, direct.root, tmp_path / "many")
    print(f"peak of {few_bytes} bytes for {few} objects, {many_bytes} for {many}")
    assert (few, many) == (count // 4, count)
    assert many_bytes - few_bytes < LISTED_BYTES * (many - few) + PAGE_BYTES


def _fetch(storage: Storage, prefix: str, folder: Path) -> tuple[int, int]:
    """List and download everything: how many objects, and the peak of memory in bytes."""
    tracemalloc.start()
    try:
        targets = ((info, folder / info.uri[-6:]) for info in storage.list(prefix))
        count = 0
        for info, digest in download_all(storage, targets):
            data = info.uri.encode() * 200
            assert digest == Digest(len(data), hashlib.sha256(data).hexdigest())
            count += 1
        return count, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
