"""Notices that the captions that came with the images are others than when the run began."""

import hashlib
import json
from collections.abc import Iterator

from job import layout
from job.errors import ExitCode, JobError
from job.manifest.packs import caption_sets
from job.manifest.schema import Manifest
from job.run.context import Attempt
from job.run.dataset import Prepared
from job.run.identity import RESTORE_OR_RENAME, Identity
from lora_engine.captions.strategies import chosen_lines, needs_sidecars
from lora_engine.config.captions import CaptionsConfig, ExistingCaptions, plain_parts
from lora_engine.records import CaptionRecord, used_images
from lora_engine.text import shortened

_MOST_SHOWN = 3  # captions that changed


def own_captions_hash(manifest: Manifest, prepared: Prepared) -> str | None:
    """A hash of what strategies take of the captions that came with the images; None where none reads them.

    It stays when files move or are renamed.

    Raises:
        DataError: files of captions cannot be read.
    """
    sets = {name: config for name, config in caption_sets(manifest).items() if needs_sidecars([config])}
    if not sets:
        return None
    used, own = used_images(prepared.records), prepared.own
    taken = {
        name: [(record.id, _texts_now(config, own.of.get(record.source, ()))) for record in used]
        for name, config in sets.items()
    }
    return hashlib.sha256(json.dumps(taken, sort_keys=True).encode()).hexdigest()


def refuse_other_captions(attempt: Attempt, begun: Identity, prepared: Prepared) -> None:
    """Refuse captions that are others than when the run was begun.

    Args:
        begun: the run's identity. An earlier version did not keep a hash of them; its runs go on with what they read.

    Raises:
        JobError: 46, with what some of them were and are.
    """
    then, now = begun.own_captions, own_captions_hash(attempt.manifest, prepared)
    if then is None or now is None or then == now:
        return
    changed = list(dict.fromkeys(_changes(attempt, prepared)))
    shown = "; ".join(changed[:_MOST_SHOWN]) or f"SHA-256 {then[:12]}... -> {now[:12]}..."
    more = f"; and {len(changed) - _MOST_SHOWN} more" * (len(changed) > _MOST_SHOWN)
    raise JobError(
        ExitCode.CONFLICT,
        f"{attempt.run.root} holds a run of this name that was begun with other captions than dataset.source has now: "
        f"{shown}{more}.",
        RESTORE_OR_RENAME,
    )


def _changes(attempt: Attempt, prepared: Prepared) -> Iterator[str]:
    """Each image whose caption was another when it was written down for the run, with both."""
    sources = {record.id: record.source for record in used_images(prepared.records)}
    for name, config in caption_sets(attempt.manifest).items():
        for row in attempt.run.read_rows(layout.captions(name), CaptionRecord) or ():
            source = sources.get(row.id)
            if source is not None:
                then, now = _own_texts(config, row), _texts_now(config, prepared.own.of.get(source, ()))
                if then != now:
                    yield f"{source} ({_quoted(then)} -> {_quoted(now)})"


def _own_texts(config: CaptionsConfig, row: CaptionRecord) -> list[str]:
    """The texts of a row that came with the image."""
    parts = zip(plain_parts(config), row.places, strict=True)
    return [row.raw[at] or "" for (_, part), places in parts for at in places if isinstance(part, ExistingCaptions)]


def _texts_now(config: CaptionsConfig, existing: tuple[str, ...]) -> list[str]:
    parts = [part for _, part in plain_parts(config) if isinstance(part, ExistingCaptions)]
    return [text for part in parts for text in chosen_lines(part, existing) or (part.missing or "",)]


def _quoted(texts: list[str]) -> str:
    return shortened(repr(" | ".join(texts)), 80)
