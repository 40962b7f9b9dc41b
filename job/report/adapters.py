"""Puts the adapters to use at the run's top: the files of the best checkpoints, byte for byte, and an index of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import TypeAdapter, ValidationError

from job import layout
from job.errors import ExitCode, JobError
from job.layout import Member
from job.report.artefacts import stored
from job.report.schema import MemberReport
from job.run.adapters import AdapterEntry, AdapterIndex
from job.run.checkpoints import read_commit
from job.run.resolved import Resolved
from job.storage import Digest, ObjectInfo
from job.storage.files import DamagedObjectError, MissingObjectError
from job.storage.folder import RunFolder, json_bytes
from lora_engine.adapters.names import DIFFUSERS_NAME, kohya_name
from lora_engine.captions.prompts import template_as_trained
from lora_engine.config.captions import CaptionsConfig
from lora_engine.records import FileEntry

_CAPTIONS: TypeAdapter[CaptionsConfig] = TypeAdapter(CaptionsConfig)
_LAST = "the last checkpoint, since none is called the best"  # the rule, where there is no best checkpoint


def publish_adapters(
    run: RunFolder,
    members: Sequence[MemberReport],
    scratch: Path | None = None,
    check: Callable[[], None] = lambda: None,
) -> AdapterIndex:
    """Copy each adapter's best checkpoint, or its last one where there is no best, to `adapters/`, and index them.

    Files that are there already, with the right content, stay. While others are written there is no index.

    Args:
        members: as the report has them.
        scratch: the folder through which files are copied, one at a time; None for the system's.
        check: called before every file; it may raise.

    Raises:
        JobError: 46 when a checkpoint's file is not what its commit lists.
    """
    resolved = stored(run, layout.RESOLVED, Resolved)
    several_seeds = len({member.variant for member in members}) < len(members)
    names = [layout.adapter_name(Member(m.variant, m.seed), several_seeds=several_seeds) for m in members]
    entries = [_entry(run, resolved, member, name) for member, name in zip(members, names, strict=True)]
    there = dict(run.list(layout.ADAPTERS))
    with TemporaryDirectory(dir=scratch) as folder:
        passing = Path(folder) / "adapter"
        for entry in entries:
            for source, file in zip(_sources(entry), entry.files, strict=True):
                check()
                if not _is_there(run, file, there, passing):
                    if there.pop(layout.ADAPTER_INDEX, None):
                        run.delete(layout.ADAPTER_INDEX)
                    _copy(run, source, file, passing)
    index = AdapterIndex(run_id=resolved.run_id, adapters=tuple(entries))
    data = json_bytes(index.model_dump(mode="json", by_alias=True))
    if run.read(layout.ADAPTER_INDEX) != data:
        run.write(layout.ADAPTER_INDEX, data)
    return index


def _entry(run: RunFolder, resolved: Resolved, member: MemberReport, name: str) -> AdapterEntry:
    of, chosen = Member(member.variant, member.seed), member.best or member.final
    commit = read_commit(run, of, chosen.step, resolved.run_id)
    kohya, diffusers = commit.file(kohya_name(member.variant)), commit.file(DIFFUSERS_NAME)
    why_last = "no checkpoint could be scored"
    if member.diverged_at is not None:
        why_last = f"it diverged at step {member.diverged_at}, and {why_last}"
    return AdapterEntry(
        name=name,
        variant=member.variant,
        seed=member.seed,
        step=chosen.step,
        rule=chosen.rule or _LAST,
        reason=chosen.reason or why_last,
        kohya=FileEntry(layout.adapter(name), kohya.size, kohya.sha256),
        diffusers=FileEntry(layout.diffusers_adapter(name), diffusers.size, diffusers.sha256),
        prompt=_prompt(run, resolved, member.variant),
    )


def _prompt(run: RunFolder, resolved: Resolved, variant: str) -> str:
    """How the variant's adapters are prompted as they were trained: a text with {prompt}."""
    templates = {each.name: each.prompt_template for each in resolved.manifest.variants}
    try:
        captions = _CAPTIONS.validate_json(json.dumps(resolved.identity.variants[variant].captions))
    except ValidationError as error:
        raise JobError(
            ExitCode.CONFLICT,
            f"{run.uri(layout.RESOLVED)} has captions of {variant} that this version does not know.",
            "Use the version that made the run, or a later one.",
        ) from error
    return template_as_trained(captions, templates.get(variant))


def _sources(entry: AdapterEntry) -> tuple[str, str]:
    """The files of the checkpoint that the adapter's files are copies of."""
    folder = layout.checkpoint(Member(entry.variant, entry.seed), entry.step)
    return f"{folder}/{kohya_name(entry.variant)}", f"{folder}/{DIFFUSERS_NAME}"


def _is_there(run: RunFolder, file: FileEntry, there: Mapping[str, ObjectInfo], passing: Path) -> bool:
    """Whether the file is there with the right content, for which it is read if it has the right size."""
    found = there.get(file.path)
    if found is None or found.size != file.size:
        return False
    return run.download(file.path, passing) == Digest(file.size, file.sha256)


def _copy(run: RunFolder, source: str, file: FileEntry, passing: Path) -> None:
    """Copy a checkpoint's file by way of the path `passing`, if it is what its commit lists."""
    expected = Digest(file.size, file.sha256)
    try:
        run.download(source, passing, expected)
    except (DamagedObjectError, MissingObjectError) as error:
        raise JobError(
            ExitCode.CONFLICT,
            f"{run.uri(source)} is not the file that the {layout.COMMIT_NAME} beside it lists: {error.cause}",
            "Restore it from a copy, or start under another name: --set name=...",
        ) from error
    if run.upload(passing, file.path) != expected:
        raise JobError(
            ExitCode.STORAGE_RETRIES, f"{file.path} changed while it was uploaded.", "Start the same command again."
        )
