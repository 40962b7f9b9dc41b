"""The samples of a run in its report: their measures at each step, and a grid of pictures."""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from job import layout
from job.errors import ExitCode, JobError
from job.layout import Member
from job.report.figures import plain_labels
from job.report.schema import Comparison, MemberReport, SamplePoint
from job.run.samples import SampleIndex
from job.storage.folder import RunFolder
from lora_engine.evaluation import clip_score
from lora_engine.evaluation.line_art import Measures, distances
from lora_engine.text import printable

_PROMPTS, _STEPS = 4, 8  # that the grid shows at most
_TILE = 96  # width and height of a picture in the grid, in pixels


def training_measures(run: RunFolder) -> list[Measures] | None:
    """The measures of every training image; None where the manifest asked for no samples."""
    return run.read_rows(layout.TRAINING_MEASURES, Measures)


def sample_points(run: RunFolder, member: Member, training: Sequence[Measures] | None) -> list[SamplePoint]:
    """A point for every step at which the adapter has samples of the same settings as at its last one, ascending.

    Samples of other prompts or settings cannot be compared to those, and are left out.

    Args:
        training: the measures of the training images; None where there are none.

    Raises:
        JobError: 46 when there are samples but no measures of the training images.
    """
    folder = layout.all_samples(member)
    steps = layout.steps_with(layout.SAMPLE_INDEX_NAME, folder, (key for key, _ in run.list(folder)))
    found = {step: _index(run, member, step) for step in steps}
    if found and not training:
        raise JobError(
            ExitCode.CONFLICT,
            f"{run.uri(layout.TRAINING_MEASURES)} is missing, so samples cannot be compared.",
            "Remove _SUCCESS and run the manifest again: it measures them anew.",
        )
    return [
        _point(step, found[step], training or [])
        for step in steps
        if found[step].settings == found[max(found)].settings
    ]


def _index(run: RunFolder, member: Member, step: int) -> SampleIndex:
    index = run.read_stored(layout.sample_index(member, step), SampleIndex)
    assert index is not None, "it was listed a moment ago"
    return index


def _point(step: int, index: SampleIndex, training: Sequence[Measures]) -> SamplePoint:
    """The measures of a step's samples together, compared with those of the training images."""
    images = [image for image in index.images if image.line_art is not None]
    measures = [image.line_art for image in images if image.line_art is not None]
    distance_of = distances(measures, training) if measures else {}
    own_prompts = [image.prompt for image in images]
    scored = bool(images) and all(image.clip_cosines is not None for image in images)
    cosines = np.array([image.clip_cosines for image in images]) if scored else None
    several = len(set(index.settings.prompts)) > 1
    return SamplePoint(
        step=step,
        images=len(images),
        not_finite=len(index.images) - len(images),
        clip_score=None if cosines is None else clip_score.score(cosines, own_prompts),
        clip_retrieval=clip_score.retrieval(cosines, own_prompts) if cosines is not None and several else None,
        clip_sha256=index.settings.clip_sha256,
        line_art_distance=sum(distance_of.values()) / len(distance_of) if distance_of else None,
        line_art=distance_of,
    )


def plot_grid(run: RunFolder, comparison: Comparison) -> bytes | None:
    """The samples as a PNG: a column a step from the base model on, a block of rows a variant; None where none exist.

    It shows the first seed, at most four prompts, and at most eight steps that include the first and the last. Where a
    variant has no samples of a step, its place stays white.
    """
    members = [m for m in comparison.members if m.seed == comparison.members[0].seed and m.samples]
    if not members:
        return None
    steps = _spread(sorted({point.step for member in members for point in member.samples}))
    blocks = [_block(run, member, steps) for member in members]
    pixels = np.concatenate([block for block, _ in blocks])
    return _figure(pixels, [m.variant for m in members], steps, [prompts for _, prompts in blocks])


def _spread(steps: Sequence[int]) -> list[int]:
    """As many of the steps as the grid has columns, evenly spread from the first to the last."""
    at = np.unique(np.linspace(0, len(steps) - 1, min(_STEPS, len(steps))).round().astype(int))
    return [steps[i] for i in at]


def _block(run: RunFolder, member: MemberReport, steps: Sequence[int]) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """The pixels [y, x, RGB] of one member's block, a row a prompt and a column a step, and the prompts."""
    sampled = [point.step for point in member.samples]
    where = Member(member.variant, member.seed)
    indices = {step: _index(run, where, step) for step in {*steps, sampled[-1]} if step in sampled}
    prompts = indices[sampled[-1]].settings.prompts[:_PROMPTS]
    columns = []
    for step in steps:
        index = indices.get(step)
        if index is None:
            columns.append(np.full((_TILE * len(prompts), _TILE, 3), 255, np.uint8))
            continue
        files = {image.prompt: image.file for image in reversed(index.images)}  # of each prompt, the first seed's
        folder = layout.samples(where, step)
        keys = [f"{folder}/{file}" if (file := files[at]) is not None else None for at in range(len(prompts))]
        columns.append(np.concatenate([_tile(run, key) for key in keys]))
    return np.concatenate(columns, axis=1), list(prompts)


def _tile(run: RunFolder, key: str | None) -> npt.NDArray[np.uint8]:
    """The pixels of one sample in a white frame; it is grey where its file is missing.

    Args:
        key: of its file; None where its pixels were not finite, as the tile then says.

    Raises:
        JobError: 46 when the file is no PNG.
    """
    data = None if key is None else run.read(key)
    try:
        picture = Image.new("RGB", (_TILE, _TILE), "grey")
        if data is not None:
            with Image.open(io.BytesIO(data), formats=("PNG",)) as sample:
                picture = sample.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise JobError(
            ExitCode.CONFLICT, f"{run.uri(key or '')} is no PNG.", "Remove it and run the manifest again."
        ) from error
    if key is None:
        ImageDraw.Draw(picture).text((_TILE / 2, _TILE / 2), "not finite", fill="black", anchor="mm")
    inner = picture.resize((_TILE - 4, _TILE - 4), Image.Resampling.LANCZOS)
    framed = Image.new("RGB", (_TILE, _TILE), "white")
    framed.paste(inner, (2, 2))
    return np.asarray(framed, dtype=np.uint8)


@plain_labels()
def _figure(
    pixels: npt.NDArray[np.uint8], variants: Sequence[str], steps: Sequence[int], prompts: Sequence[Sequence[str]]
) -> bytes:
    """The PNG of the blocks' pixels, labelled with steps, variants and each variant's prompts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = sum(map(len, prompts))
    figure = Figure(figsize=(2.6 + len(steps), 0.7 + rows), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(pixels, interpolation="none")
    texts = [printable(prompt) for block in prompts for prompt in block]
    labels = [text if len(text) <= 32 else f"{text[:31]}…" for text in texts]
    axes.set_yticks([_TILE * (row + 0.5) for row in range(rows)], labels)
    axes.set_xticks(
        [_TILE * (at + 0.5) for at in range(len(steps))], ["base model" if s == 0 else f"step {s}" for s in steps]
    )
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    top = 0
    for variant, block in zip(variants, prompts, strict=True):
        middle = top + _TILE * len(block) / 2
        axes.text(pixels.shape[1] + 8, middle, variant, rotation=270, va="center", ha="left", weight="bold")
        top += _TILE * len(block)
        axes.axhline(top, color="black", linewidth=0.8)
    data = io.BytesIO()
    canvas.print_figure(data, format="png", dpi=100, metadata={"Software": None})
    return data.getvalue()
