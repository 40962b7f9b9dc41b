"""Writes runs side by side into a folder of this machine."""

import re
from collections.abc import Sequence

from job.errors import ExitCode, JobError
from job.report.side_by_side.build import build_side_by_side
from job.report.side_by_side.page import render_markdown, render_page
from job.report.side_by_side.runs import FinishedRun, read_run, require_different, require_unaltered
from job.storage import StorageSettings, is_remote, open_storage
from job.storage.folder import RunFolder, json_bytes

JSON, MARKDOWN, PAGE = "side-by-side.json", "side-by-side.md", "side-by-side.html"
_LONGEST_NAME = 120  # characters of a folder that is not given


def publish_side_by_side(folders: Sequence[RunFolder], output: str | None) -> tuple[str, str]:
    """Put finished runs side by side, and write that. Nothing is written into the runs.

    Args:
        output: the folder; None for one beside the working directory's files that is named after the runs.

    Returns:
        Where the page is, and what it says in a sentence.

    Raises:
        JobError: 2 where a run is named twice or the folder is on no disk of this machine, 46 where a run has no report
            or a file of it is damaged or altered.
    """
    require_different(folders)
    if output is not None and is_remote(output):
        raise JobError(ExitCode.USAGE, f"{output} is not a folder of this machine.", "Name a local one with --output.")
    runs = [read_run(folder) for folder in folders]
    for folder in folders:
        require_unaltered(folder)
    found = build_side_by_side(runs)
    page = render_page(found, runs)
    root = output or _named_after(runs)
    place = RunFolder(open_storage(root, StorageSettings()), root)
    place.write(JSON, json_bytes(found.model_dump(mode="json")))
    place.write(MARKDOWN, render_markdown(found))
    place.write(PAGE, page)
    return place.uri(PAGE), found.sentence


def _named_after(runs: Sequence[FinishedRun]) -> str:
    names = "-".join(re.sub(r"[^A-Za-z0-9._-]", "_", run.comparison.name) for run in runs)
    return f"side-by-side-{names[:_LONGEST_NAME]}"
