"""The samples of a run as pictures: what each adapter draws, step by step, and which samples are copies."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from PIL import Image

from job import layout
from job.errors import ExitCode, JobError
from job.layout import Member
from job.report.grid import Block, Grid, Picture, Row, Tile, draw_grid, largest_that_fits
from job.report.picture_schema import Copy, MemorisedReport
from job.report.pictures import Pictures
from job.report.schema import Comparison
from job.run.samples import SampleIndex, SampleRow
from job.storage.folder import RunFolder
from lora_engine.records import SampleSetting

_STEPS = 8  # that the grid shows at most
_HEADINGS = {0: "base model"}
_LARGEST_SIDE = 2048  # pixels, as large as a sample can be
_PROMPTED = {"bare": "bare", "as_trained": "as trained", "both": "bare, and so as trained"}


def plot_grid(run: RunFolder, pictures: Pictures, headings: Mapping[int, str] = _HEADINGS) -> bytes | None:
    """The samples of a set as a PNG: a column a step from the base model on, a block of rows a variant.

    It shows the members of the first training seed, at most eight steps, among them the first and the last, and as many
    prompts and seeds as fit. Where a variant has no sample of a step, its place stays white. None where there is none.

    Args:
        headings: step to what stands above its column instead of its number.
    """
    shown = [member for member, indices in pictures.indices.items() if indices]
    if not shown:
        return None
    first = [member for member in shown if member.seed == shown[0].seed]
    steps = _spread(sorted({step for member in first for step in pictures.indices[member]}))
    wanted = {member: _order(pictures.indices[member]) for member in first}
    most = max(map(len, wanted.values()))
    keys = {key for member in first for key, _ in run.list(layout.all_samples(member, pictures.set_name))}

    def grid_of(count: int) -> Grid:
        notes = [f"{count} of {most} prompts and seeds are shown."] if count < most else []
        if len(first) < len(shown):
            others = sorted({member.seed for member in shown} - {shown[0].seed})
            notes.append(f"The adapters are those of seed {shown[0].seed}; there are more of {others}.")
        blocks = tuple(
            Block(member.variant, _rows(run, pictures, member, steps, wanted[member][:count], keys)) for member in first
        )
        columns = tuple(headings.get(step, f"step {step}") for step in steps)
        return Grid(columns, blocks, tuple(notes), _LARGEST_SIDE)

    return draw_grid(largest_that_fits(grid_of, most))


def _spread(steps: Sequence[int]) -> list[int]:
    """As many of the steps as the grid has columns, evenly spread from the first to the last."""
    at = np.unique(np.linspace(0, len(steps) - 1, min(_STEPS, len(steps))).round().astype(int))
    return [steps[i] for i in at]


def _order(indices: dict[int, SampleIndex]) -> list[tuple[int, int]]:
    """The prompt, by its place, and the seed of all samples: those with the first seed of each prompt come first."""
    drawn = sorted({pair for index in indices.values() for pair in index.drawn})
    seeds: dict[int, list[int]] = {}
    for prompt, seed in drawn:
        seeds.setdefault(prompt, []).append(seed)
    return sorted(drawn, key=lambda pair: (seeds[pair[0]].index(pair[1]), pair[0]))


def _rows(
    run: RunFolder,
    pictures: Pictures,
    member: Member,
    steps: Sequence[int],
    wanted: Sequence[tuple[int, int]],
    keys: set[str],
) -> tuple[Row, ...]:
    """A member's rows: of each prompt and seed one bare, and one as it was trained where that is another text."""
    indices, set_name = pictures.indices[member], pictures.set_name
    settings = indices[max(indices)].settings
    found = {
        (row.prompt, row.seed, row.prompting, step): row for step, index in indices.items() for row in index.images
    }
    result = []
    for prompt, seed in wanted:
        for prompting in ("both", "bare", "as_trained"):
            samples = {step: found.get((prompt, seed, prompting, step)) for step in steps}
            if not any(samples.values()):
                continue
            text = settings.as_trained[prompt] if prompting == "as_trained" else settings.prompts[prompt]
            size = (settings.settings[prompt].width, settings.settings[prompt].height) if settings.settings else None
            folders = [layout.samples(member, step, set_name) for step in steps]
            tiles = [_tile(run, folder, row, keys, size) for folder, row in zip(folders, samples.values(), strict=True)]
            detail = " · ".join([f"seed {seed}", _PROMPTED[prompting], *own_settings(settings.settings, prompt)])
            result.append(Row(text or "(empty prompt)", detail, tuple(tiles)))
    return tuple(result)


def own_settings(settings: Sequence[SampleSetting], prompt: int) -> list[str]:
    """The settings of a prompt in which not all prompts are alike, in words."""
    said = [
        (
            f"{each.width}x{each.height}",
            f"{each.steps} steps",
            f"guidance {each.guidance:g}",
            f"strength {each.strength:g}",
            f"negative: {each.negative or 'none'}",
        )
        for each in settings
    ]
    return [own[prompt] for own in zip(*said, strict=True) if len(set(own)) > 1]


def _tile(run: RunFolder, folder: str, row: SampleRow | None, keys: set[str], size: tuple[int, int] | None) -> Tile:
    """A sample's picture, or the words in its place; None where none was drawn.

    Args:
        size: of the picture, which is then read only when it is drawn; None where an earlier version did not keep it.
    """
    if row is None:
        return None
    key = f"{folder}/{row.file}"
    if row.file is None or key not in keys:
        return "not finite" if row.file is None else "file is missing"
    return (
        _picture(run, key, "PNG")
        if size is None
        else Picture(size, partial(read_picture, run, key, "PNG", size, row.sha256))
    )


def _picture(run: RunFolder, key: str, kind: str) -> Tile:
    """The picture in a file of that kind; words where there is none.

    Raises:
        JobError: 46 when the file is of another kind.
    """
    if not run.exists(key):
        return "file is missing"
    size = read_picture(run, key, kind).size
    return Picture(size, partial(read_picture, run, key, kind, size))


def read_picture(
    run: RunFolder, key: str, kind: str, size: tuple[int, int] | None = None, sha256: str = ""
) -> Image.Image:
    """The picture in a file.

    Args:
        size: that it has to have; None for any that a sample can have.
        sha256: of the file, or its start; empty where an earlier version did not note it.

    Raises:
        JobError: 46 where the file is lost, another one, of another kind or of another size.
    """
    data = run.read(key) or b""
    try:
        if sha256 and not hashlib.sha256(data).hexdigest().startswith(sha256):
            raise ValueError("another file")
        with Image.open(io.BytesIO(data), formats=(kind,)) as opened:
            if size not in (None, opened.size) or max(opened.size) > _LARGEST_SIDE:
                raise ValueError(f"a picture of {opened.size} pixels")
            return opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise JobError(
            ExitCode.CONFLICT,
            f"{run.uri(key)} is not the {kind} of a sample that a run writes there.",
            "Remove it and run the manifest again.",
        ) from error


def plot_copies(run: RunFolder, comparison: Comparison) -> bytes | None:
    """The last samples that are copies beside the training images that they copy, as a PNG; None without any."""
    return draw_copies(run, {f"{m.variant}, seed {m.seed}": m.memorised for m in comparison.members})


def draw_copies(run: RunFolder, memorised: Mapping[str, MemorisedReport | None]) -> bytes | None:
    """As `plot_copies`, of reports by what each block is called."""
    blocks = []
    for title, found in memorised.items():
        copies = [] if found is None else [*found.bare.copies, *(found.as_trained.copies if found.as_trained else [])]
        different = {copy.file: copy for copy in copies}  # one that was prompted both ways is in both
        if different:
            blocks.append(Block(title, tuple(_copy_row(run, copy) for copy in different.values())))
    if not blocks:
        return None
    most = max(len(block.rows) for block in blocks)

    def grid_of(count: int) -> Grid:
        shown = tuple(Block(block.title, block.rows[:count]) for block in blocks)
        notes = (f"Of {most} copies of an adapter, {count} are shown.",) if count < most else ()
        return Grid(("sample", "training image"), shown, notes, _LARGEST_SIDE)

    return draw_grid(largest_that_fits(grid_of, most))


def _copy_row(run: RunFolder, copy: Copy) -> Row:
    how = [copy.source, *(["mirrored"] if copy.mirrored else []), *(["cropped"] if copy.crop else [])]
    tiles = (_picture(run, copy.file, "PNG"), _picture(run, layout.thumbnail(copy.image), "WEBP"))
    return Row(copy.prompt or "(empty prompt)", f"seed {copy.seed} · {', '.join(how)}", tiles)
