"""The pictures of the page: files beside it, of which it holds as many itself as it has room for."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping

from job import layout
from job.report.elements import webp_uri
from job.storage.folder import RunFolder
from job.threads import Check, as_finished

_OURS = re.compile(re.escape(layout.REPORT_PICTURES) + r"/(image-)?[0-9a-f]{16}\.webp")  # keys that a report writes
_WORKERS = 8  # pictures that are made at a time


def publish_beside(run: RunFolder, wanted: Mapping[str, Callable[[], bytes]], check: Check) -> None:
    """Have these pictures beside the page.

    Args:
        wanted: name to what gives the WebP. A name says what the picture shows, so one that is there is left.
        check: called now and then; it may raise.
    """
    there = {key for key, _ in run.list(layout.REPORT_PICTURES)}
    missing = [name for name in wanted if layout.report_picture(name) not in there]

    def make(name: str) -> None:
        run.write(layout.report_picture(name), wanted[name]())

    for _ in as_finished(make, missing, _WORKERS, check):
        pass


def remove_others(run: RunFolder, wanted: Collection[str]) -> None:
    """Remove pictures that an earlier page showed; what somebody else has put into the folder stays."""
    kept = {layout.report_picture(name) for name in wanted}
    for key in [key for key, _ in run.list(layout.REPORT_PICTURES)]:
        if key not in kept and _OURS.fullmatch(key):
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
