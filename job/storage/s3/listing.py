"""What an answer lists, if it is a listing: one that is taken for empty would hide a run's checkpoints."""

from collections.abc import Mapping
from typing import Any

from job.storage.s3.errors import no_store


def entries_of(page: Mapping[str, Any], folder: str) -> list[dict[str, Any]]:
    """The entries of a page of a listing of the keys that begin with `folder`.

    Raises:
        JobError: 42, the answer is no such listing, such as a web page or nothing, or it leaves out how to go on.
    """
    if not page.keys() & {"Name", "IsTruncated", "KeyCount"}:
        raise no_store("its listing is none")
    if page.get("IsTruncated") and not page.get("NextContinuationToken"):
        raise no_store("its listing breaks off without saying how to go on")
    entries: list[dict[str, Any]] = list(page.get("Contents", ()))
    for entry in entries:
        if not str(entry.get("Key", "")).startswith(folder) or entry.get("Size", -1) < 0:
            raise no_store("its listing has an entry without a size, or that was not asked for")
    return entries
