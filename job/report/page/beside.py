"""Pictures beside a page of the report, of which report.html holds as many itself as it has room for."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping

from job import layout
from job.report.elements import webp_uri
from job.storage.folder import RunFolder
from job.threads import Check, as_finished

_OURS = re.compile(r"(image-)?[0-9a-f]{16}\.webp")  # names of files that a report writes into its folders of pictures
_WORKERS = 8  # pictures that are made at a time


def publish_beside(run: RunFolder, folder: str, wanted: Mapping[str, Callable[[], bytes]], check: Check) -> None:
    """Have these pictures in a folder beside the page.

    Args:
        folder: its key.
        wanted: name to what gives the WebP. A name says what the picture shows, so one that is there is left.
        check: called now and then; it may raise.
    """
    there = {key for key, _ in run.list(folder)}
    missing = [name for name in wanted if layout.picture_in(folder, name) not in there]

    def make(name: str) -> None:
        run.write(layout.picture_in(folder, name), wanted[name]())

    for _ in as_finished(make, missing, _WORKERS, check):
        pass


def remove_others(run: RunFolder, folder: str, wanted: Collection[str]) -> None:
    """Remove pictures that an earlier page showed; what somebody else has put into the folder stays."""
    kept = {layout.picture_in(folder, name) for name in wanted}
    for key in [key for key, _ in run.list(folder)]:
        if key not in kept and _OURS.fullmatch(key.removeprefix(f"{folder}/")):
            run.delete(key)


def embedded(run: RunFolder, names: Iterable[str], room: int) -> dict[str, str]:
    """The first of the pictures as URIs that hold them, of `room` characters together."""
    found: dict[str, str] = {}
    for name in names:
        data = run.read(layout.report_picture(name)) or b""
        uri = webp_uri(data)
        room -= len(uri)
        if room < 0:
            break
        found[name] = uri
    return found


def relative(name: str) -> str:
    """Where the page finds a picture that it does not hold."""
    return layout.report_picture(name).removeprefix(f"{layout.REPORT}/")
