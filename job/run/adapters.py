"""`adapters/index.json`: the adapters of a run that are to be used as they are. It is written after their files."""

from collections.abc import Iterator

from pydantic import Field

from job.storage.stored import StoredJson
from lora_engine.records import FileEntry


class AdapterEntry(StoredJson):
    """One adapter: the checkpoint that was chosen, as a file in each format, and how it is prompted."""

    name: str  # of its files, without their suffix
    variant: str
    seed: int
    step: int  # of the checkpoint
    rule: str  # by which the checkpoint was chosen
    reason: str  # why the rule chooses this one
    kohya: FileEntry  # for A1111, Forge and ComfyUI; paths are relative to the run's folder
    diffusers: FileEntry
    prompt: str  # as it was trained: a text with {prompt}
    strength: float = 1.0  # at which it was scored

    @property
    def files(self) -> tuple[FileEntry, FileEntry]:
        """Its files."""
        return self.kohya, self.diffusers


class AdapterIndex(StoredJson):
    """All adapters, in the order of the report."""

    schema_version: int = Field(default=1, alias="schema")
    run_id: str | None = None  # the run's in `resolved.json`
    adapters: tuple[AdapterEntry, ...]

    def files(self) -> Iterator[FileEntry]:
        """The files of all adapters."""
        for entry in self.adapters:
            yield from entry.files
