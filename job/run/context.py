"""The attempt, and the workplace that it is part of: the values that every stage is given."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from job import layout
from job.manifest.limits import LimitsConfig
from job.manifest.packs import Pack, ResolvedVariant, packs_of, resolve_variants
from job.manifest.schema import Manifest
from job.process.progress import Progress
from job.process.stop import StopFlag
from job.run.tracking import Tracking
from job.storage import Patience, open_storage
from job.storage.folder import RunFolder
from job.storage.uris import join


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where one process works: the folder of results, the folder for scratch files, and how it is seen and stopped."""

    run: RunFolder  # the run's folder in storage, or the one that results go to
    workdir: Path  # the folder for scratch files on this machine; may vanish between attempts
    progress: Progress
    stop: StopFlag
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    fenced: bool = True  # whether the store can keep a second writer out
    tracking: Tracking = field(default_factory=Tracking)
    epoch: int | None = None  # epoch of the lease that is held on a unit; None where none is held
    # Of each source, the URIs or names of the files that came without a checksum; see `job.run.unverified`.
    unverified: dict[str, frozenset[str]] = field(default_factory=dict)

    @property
    def patience(self) -> Patience:
        """How long this process waits for a store that is down."""
        return patience_of(self.limits, self.progress, self.stop)


@dataclass(frozen=True, kw_only=True)
class Attempt(Workplace):
    """One try of one process at a run. `new_attempt` makes one, and `unit_of` a copy that may write a unit's files."""

    manifest: Manifest
    variants: tuple[ResolvedVariant, ...]
    packs: tuple[Pack, ...]
    cache: RunFolder  # the cache's, which may be shared with other runs

    def cache_folder(self, kind: str, key: str) -> RunFolder:
        """The folder in storage for values of one kind under one key."""
        return RunFolder(self.cache.storage, self.cache.uri(f"{kind}/{key}"))

    def cache_scratch(self, kind: str, key: str) -> Path:
        """The folder on this machine for copies of what `cache_folder` holds, where that lies behind a network."""
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
    """Make the attempt at the manifest's run that this process is.

    Args:
        workdir: the folder for scratch files; it exists.
        fenced: whether the store can keep a second writer out.
        moved: called in any thread whenever bytes of a large object have been transferred, as a sign of life.
    """
    variants, packs = resolve_variants(manifest), packs_of(manifest)
    patience = patience_of(manifest.limits, progress, stop)
    run, cache = open_run(manifest, moved, patience), open_cache(manifest, moved, patience)
    return Attempt(
        run=run,
        workdir=workdir,
        progress=progress,
        stop=stop,
        limits=manifest.limits,
        fenced=fenced,
        manifest=manifest,
        variants=variants,
        packs=packs,
        cache=cache,
    )


def patience_of(limits: LimitsConfig, progress: Progress, stop: StopFlag) -> Patience:
    """How long a process with these limits waits for a store that is down, and that it says so."""
    return Patience(limits.storage_wait_minutes, stop.check, progress.say, progress.excuse)


def open_run(
    manifest: Manifest, moved: Callable[[], None] = lambda: None, patience: Patience | None = None
) -> RunFolder:
    """The folder of the manifest's run; `moved` and `patience` are as in `open_storage`."""
    settings = manifest.output_storage()
    storage = open_storage(manifest.output.destination, settings, moved, patience)
    folder = RunFolder(storage, manifest.output.destination)
    return RunFolder(storage, folder.uri(manifest.name))


def open_cache(
    manifest: Manifest, moved: Callable[[], None] = lambda: None, patience: Patience | None = None
) -> RunFolder:
    """The cache's folder, which all runs of a destination share by default; else as `open_run`."""
    settings = manifest.output_storage()
    root = manifest.output.cache
    if root is None:
        destination = manifest.output.destination
        root = join(destination, layout.CACHE)
    return RunFolder(open_storage(root, settings, moved, patience), root)
