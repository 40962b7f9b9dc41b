"""Shows runs side by side: as Markdown, and as a page that needs nothing but itself."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from job import layout
from job.layout import Member
from job.report.elements import policy_hash, webp_uri
from job.report.samples import read_picture
from job.report.side_by_side import tables
from job.report.side_by_side.runs import FinishedRun
from job.report.side_by_side.schema import SideBySide
from job.report.table import texts
from job.report.templating import environment
from job.run.samples import SampleRow

_PICTURE_BUDGET_BYTES = 4_000_000  # of all pictures as they stand in the page, which is to stay below 5 MB
_LARGEST_SIDE = 256  # pixels of a picture
_QUALITY = 80  # of WebP


@dataclass(frozen=True)
class Tile:
    """A picture in its place, or the words that stand there instead."""

    text: str  # the prompt that it was drawn from, and its seed
    uri: str  # with the picture's bytes; empty where there is none
    width: int = 0  # pixels
    height: int = 0


@dataclass(frozen=True)
class Shown:
    """A row of pictures: a prompt of all runs, with a place for each run and variant."""

    prompt: str
    prompted: str
    tiles: tuple[Tile, ...]


def render_markdown(found: SideBySide) -> bytes:
    """The runs side by side as Markdown."""
    settings, pictures = tables.settings_table(found), tables.picture_table(found)
    template = environment().get_template("side-by-side.md.j2")
    return template.render(
        found=found,
        settings=(settings.columns, texts(settings)),
        losses=[(each.columns, texts(each)) for each in tables.loss_tables(found)],
        pictures=(pictures.columns, texts(pictures)),
        withheld=tables.withheld(found),
        incomparable=tables.incomparable(found),
    ).encode()


def render_page(found: SideBySide, runs: Sequence[FinishedRun]) -> bytes:
    """The runs side by side as HTML with its style and pictures in it, below 5 MB, and with no script.

    Raises:
        JobError: 46 when a picture is not what a run writes there.
    """
    style = environment().get_template("side-by-side.css.j2").render()
    rows, prompts = pictures_of(runs), len(_shared_prompts(runs))
    page = environment().get_template("side-by-side.html.j2")
    return page.render(
        found=found,
        style=Markup(style),  # noqa: S704 - it is a file of this package
        style_hash=policy_hash(style),
        settings=tables.settings_table(found),
        losses=list(tables.loss_tables(found)),
        pictures=tables.picture_table(found),
        withheld=tables.withheld(found),
        incomparable=tables.incomparable(found),
        columns=[(found.runs[at].label, member.variant, member.seed) for at, member in _columns(runs)],
        rows=rows,
        prompts=prompts,
        shown=len({row.prompt for row in rows}),
    ).encode()


def _columns(runs: Sequence[FinishedRun]) -> list[tuple[int, Member]]:
    """The place of the run, and the adapter, of each column of pictures."""
    return [(at, member) for at, run in enumerate(runs) for member in run.drawn]


def _shared_prompts(runs: Sequence[FinishedRun]) -> list[str]:
    """The bare prompts that all runs have pictures of, in the order of the first."""
    each = [list(next(iter(run.drawn.values())).settings.prompts) if run.drawn else [] for run in runs]
    return [prompt for prompt in dict.fromkeys(each[0]) if all(prompt in others for others in each)]


def pictures_of(runs: Sequence[FinishedRun]) -> list[Shown]:
    """The last pictures of the prompts that all runs share, of as many of these as the page has room for."""
    result: list[Shown] = []
    size = 0
    for prompt in _shared_prompts(runs):
        rows = list(_rows(runs, prompt))
        size += sum(len(tile.uri) for row in rows for tile in row.tiles)
        if size > _PICTURE_BUDGET_BYTES:
            break
        result += rows
    return result


def _rows(runs: Sequence[FinishedRun], prompt: str) -> Iterator[Shown]:
    """A prompt's row as trained, and the bare one where that is of other pictures."""
    for prompted in ("as_trained", "bare"):
        rows = [_row(runs[at], member, prompt, prompted) for at, member in _columns(runs)]
        if any(row is not None and (prompted == "as_trained" or row.prompting == "bare") for row in rows):
            tiles = [_tile(runs[at], member, row) for (at, member), row in zip(_columns(runs), rows, strict=True)]
            yield Shown(prompt, prompted.replace("_", " "), tuple(tiles))


def _row(run: FinishedRun, member: Member, prompt: str, prompted: str) -> SampleRow | None:
    """The first picture of a prompt."""
    index = run.drawn[member]
    return next(
        (
            row
            for row in index.images
            if index.settings.prompts[row.prompt] == prompt and row.prompting in (prompted, "both")
        ),
        None,
    )


def _tile(run: FinishedRun, member: Member, row: SampleRow | None) -> Tile:
    if row is None:
        return Tile("not drawn", "")
    settings = run.drawn[member].settings
    drawn_from = settings.prompts if row.prompting == "bare" or not settings.as_trained else settings.as_trained
    text = f"{drawn_from[row.prompt] or '(empty prompt)'} · seed {row.seed}"
    if row.file is None:
        return Tile(f"{text} · not finite", "")
    step = next(each.final.step for each in run.members(member.variant) if each.seed == member.seed)
    key = f"{layout.samples(member, step, run.resolved.sample_set)}/{row.file}"
    if not run.folder.exists(key):
        return Tile(f"{text} · file is missing", "")
    size = (settings.settings[row.prompt].width, settings.settings[row.prompt].height) if settings.settings else None
    image = read_picture(run.folder, key, "PNG", size, row.sha256)
    image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    data = io.BytesIO()
    image.save(data, "WEBP", quality=_QUALITY)
    return Tile(text, webp_uri(data.getvalue()), image.width, image.height)
