"""`_SUCCESS`: written last, with the size and SHA-256 of every record of a finished run."""

import hashlib
import re

from pydantic import Field

from job import layout
from job.storage.folder import RunFolder
from job.storage.stored import StoredJson
from job.threads import Check, as_finished
from lora_engine.records import FileEntry

READERS = 16  # files at a time
# What a finished run consists of, but for files whose hashes stand in a commit, in `samples.json` or in the index of
# adapters, for thumbnails, and for what may change afterwards: units, the source's stamp, sets of samples.
_RECORD = re.compile(
    r"manifest\.yaml|resolved\.json|environment\.json|report/.+|adapters/index\.json"
    r"|data/(?!source\.json)[^/]+\.(jsonl?|safetensors)|data/(captions|clip)/[^/]+\.(jsonl|safetensors)"
    r"|variants/[^/]+/seed-\d+/"
    r"([^/]+\.jsonl?|validation/(step-\d+|start)\.safetensors|checkpoints/step-\d+/COMMIT\.json|samples/step-\d+/samples\.json)"
)


class Success(StoredJson):
    """What `_SUCCESS` holds."""

    schema_version: int = Field(default=1, alias="schema")
    files: tuple[FileEntry, ...] = ()  # by paths below the run's folder; none where an earlier version finished the run


def is_always_listed(key: str) -> bool:
    """Whether `_SUCCESS` lists the file if there is one. Beside the report others may have put files of their own."""
    ours = (layout.COMPARISON, layout.PAGE, layout.RATING_PAGE, layout.VOTES)
    is_of_report = key.startswith(f"{layout.REPORT}/") and key not in ours
    return _RECORD.fullmatch(key) is not None and not is_of_report


def read_success(run: RunFolder) -> Success | None:
    """What a finished run lists; None where the run is not finished. 46 when the file holds something else."""
    data = run.read(layout.SUCCESS)
    if not data:
        return None if data is None else Success()
    return run.read_stored(layout.SUCCESS, Success)


def write_success(run: RunFolder, check: Check = lambda: None) -> None:
    """Call the run finished, and list its records as they are now.

    Args:
        check: called now and then; it may raise.
    """
    keys = [key for key, _ in run.list() if _RECORD.fullmatch(key)]

    def entry(key: str) -> FileEntry:
        data = run.read(key) or b""
        return FileEntry(key, len(data), hashlib.sha256(data).hexdigest())

    files = sorted(as_finished(entry, keys, READERS, check), key=lambda file: file.path)
    run.write_stored(layout.SUCCESS, Success(files=tuple(files)))
