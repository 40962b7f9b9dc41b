"""What every stage is given."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from job import layout
from job.manifest.packs import Pack, ResolvedVariant, packs_of, resolve_variants
from job.manifest.schema import Manifest
from job.process.progress import Progress
from job.process.stop import StopFlag
from job.storage import open_storage
from job.storage.folder import RunFolder


@dataclass(frozen=True)
class Attempt:
    """One try of one process at a run. `new_attempt` makes one."""

    manifest: Manifest
    variants: tuple[ResolvedVariant, ...]
    packs: tuple[Pack, ...]
    run: RunFolder
    cache: RunFolder
    workdir: Path  # scratch of this machine; may vanish between attempts
    progress: Progress
    stop: StopFlag
    fenced: bool = True  # whether the store can keep a second writer out
    epoch: int | None = None  # of the lease on the unit at work

    def cache_folder(self, kind: str, key: str) -> RunFolder:
        """Where values of one kind under one key are kept."""
        return RunFolder(self.cache.storage, self.cache.uri(f"{kind}/{key}"))

    def cache_scratch(self, kind: str, key: str) -> Path:
        """Where this machine keeps copies of them, if they have to cross a network."""
        return self.workdir / "cache" / kind / key


def new_attempt(
    manifest: Manifest,
    workdir: Path,
    progress: Progress,
    stop: StopFlag,
    *,
    fenced: bool = True,
    moved: Callable[[], None] = lambda: None,
) -> Attempt:
    """An attempt at the manifest's run; `moved` is called, in any thread, as bytes of large objects move."""
    variants, packs = resolve_variants(manifest), packs_of(manifest)
    run, cache = open_run(manifest, moved), open_cache(manifest, moved)
    return Attempt(manifest, variants, packs, run, cache, workdir, progress, stop, fenced)


def open_run(manifest: Manifest, moved: Callable[[], None] = lambda: None) -> RunFolder:
    """The folder of the manifest's run; `moved` as `open_storage` has it."""
    settings = manifest.output_storage()
    storage = open_storage(manifest.output.destination, settings, moved)
    folder = RunFolder(storage, manifest.output.destination)
    return RunFolder(storage, folder.uri(manifest.name))


def open_cache(manifest: Manifest, moved: Callable[[], None] = lambda: None) -> RunFolder:
    """The cache that all runs of a destination share; `moved` as `open_storage` has it."""
    settings = manifest.output_storage()
    root = manifest.output.cache
    if root is None:
        destination = manifest.output.destination
        root = RunFolder(open_storage(destination, settings), destination).uri(layout.CACHE)
    return RunFolder(open_storage(root, settings, moved), root)
