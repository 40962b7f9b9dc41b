"""The tables that show runs side by side; behind every number stands its place in `side-by-side.json`."""

import json
import re
from collections.abc import Iterator, Sequence

from job.report.parts import Interval
from job.report.picture_schema import PictureMeasures
from job.report.settings import shown
from job.report.side_by_side.likeness import COPIES
from job.report.side_by_side.schema import (
    Alike,
    Copies,
    MemberLosses,
    RunPictures,
    SideBySide,
    VariantLosses,
)
from job.report.table import (
    CANNOT_TELL,
    UNKNOWN,
    Cell,
    Entry,
    Table,
    ends,
    gain_text,
    loss_text,
    measure_text,
    percent,
)
from lora_engine.text import shortened

_LONGEST = 100  # characters of a setting's value
_SHOWN = ("clip_score", "clip_retrieval", "line_art_distance", "line_art_gap", "diversity", "similarity")


def settings_table(found: SideBySide) -> Table:
    """The settings in which the runs differ, a column a run."""
    rows = tuple(
        (
            (Cell(f"settings[{at}].key", setting.key, setting.key),),
            *((_setting(f"settings[{at}].values[{of}]", value),) for of, value in enumerate(setting.values)),
        )
        for at, setting in enumerate(found.settings)
    )
    return Table(("setting", *(run.label for run in found.runs)), rows)


def _setting(path: str, value: str | None) -> Cell:
    text = UNKNOWN if value is None else shown(json.loads(value))
    text = re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1...", text)  # a hash
    return Cell(path, value, shortened(text, _LONGEST))


def loss_tables(found: SideBySide) -> Iterator[Table]:
    """The losses that are like for like: a table for each group of runs."""
    groups = dict.fromkeys(tuple(group) for each in found.losses for group in each.alike.groups if len(group) > 1)
    for group in groups:
        rows = [
            row
            for at, each in enumerate(found.losses)
            if list(group) in each.alike.groups
            for row in _loss_rows(found, each, group, f"losses[{at}]")
        ]
        yield Table(("variant", "run", "seed", "base model", "loss as trained (gain)", "best step"), tuple(rows))


def _loss_rows(
    found: SideBySide, losses: VariantLosses, group: Sequence[int], path: str
) -> Iterator[tuple[Entry, ...]]:
    for place, of in enumerate(losses.runs):
        for at, member in enumerate(of.members if of.run in group else []):
            here = f"{path}.runs[{place}].members[{at}]"
            yield (
                (Cell(f"{path}.variant", losses.variant, losses.variant),),
                _label(found, of.run),
                (Cell(f"{here}.seed", member.seed, str(member.seed)),),
                (Cell(f"{here}.base_loss", member.base_loss, loss_text(member.base_loss)),),
                _loss(member, here),
                (
                    UNKNOWN
                    if member.best_step is None
                    else Cell(f"{here}.best_step", member.best_step, str(member.best_step)),
                    " of ",
                    Cell(f"{here}.steps", member.steps, str(member.steps)),
                ),
            )


def _label(found: SideBySide, run: int) -> Entry:
    return (Cell(f"runs[{run}].label", found.runs[run].label, found.runs[run].label),)


def _loss(member: MemberLosses, path: str) -> Entry:
    if member.final_loss is None:
        return ("diverged",)
    loss = Cell(f"{path}.final_loss", member.final_loss, loss_text(member.final_loss))
    if member.gain is None:
        return (loss,)
    mean = Cell(f"{path}.gain.mean", member.gain.mean, gain_text(member.gain.mean))
    return (loss, " (", mean, *ends(member.gain.low, member.gain.high, f"{path}.gain", gain_text), ")")


def picture_table(found: SideBySide) -> Table:
    """What the last pictures measure: a row for each variant, way to prompt and run."""
    columns = ("variant", "prompted", "run", "pictures", *_SHOWN, COPIES)
    rows = [
        row
        for at, each in enumerate(found.pictures)
        for prompted in ("bare", "as_trained")
        for place, of in enumerate(each.runs)
        if (
            row := _picture_row(
                found,
                of,
                prompted,
                Cell(f"pictures[{at}].variant", each.variant, each.variant),
                f"pictures[{at}].runs[{place}]",
            )
        )
    ]
    return Table(columns, tuple(rows))


def _picture_row(
    found: SideBySide, of: RunPictures, prompted: str, variant: Cell, path: str
) -> tuple[Entry, ...] | None:
    pictures = of.bare if prompted == "bare" else of.as_trained
    if pictures is None:
        return None
    copies = of.copies_bare if prompted == "bare" else of.copies_as_trained
    return (
        (variant,),
        (prompted.replace("_", " "),),
        _label(found, of.run),
        (Cell(f"{path}.{prompted}.images", pictures.images, str(pictures.images)),),
        *(_measure(pictures, name, f"{path}.{prompted}.measures.{name}") for name in _SHOWN),
        _copied(copies, f"{path}.copies_{prompted}"),
    )


def _measure(pictures: PictureMeasures, name: str, path: str) -> Entry:
    interval: Interval | None = pictures.measures.get(name)
    if interval is None:
        return (UNKNOWN,)

    def text(value: float) -> str:
        return measure_text(name, value)

    return (Cell(f"{path}.mean", interval.mean, text(interval.mean)), *ends(interval.low, interval.high, path, text))


def _copied(copies: Copies | None, path: str) -> Entry:
    if copies is None or copies.share is None:
        return (CANNOT_TELL,)
    share = copies.share
    return (
        Cell(f"{path}.share.mean", share.mean, percent(share.mean)),
        *ends(share.low, share.high, f"{path}.share", percent),
    )


def withheld(found: SideBySide) -> list[str]:
    """Why losses are withheld, in sentences."""
    told: dict[tuple[tuple[int, ...], tuple[str, ...]], list[str]] = {}
    for each in found.losses:
        for pair in each.alike.unlike:
            told.setdefault((tuple(pair.runs), tuple(pair.reasons)), []).append(each.variant)
    return [
        f"{', '.join(variants)}: the losses of {_both(found, runs)} are withheld, since {' and '.join(reasons)}."
        for (runs, reasons), variants in told.items()
    ]


def incomparable(found: SideBySide) -> list[str]:
    """Which measures of pictures cannot be compared, and why, in sentences."""
    told: dict[tuple[tuple[int, ...], tuple[str, ...]], list[str]] = {}
    for measure, alike in found.measures.items():
        for pair in alike.unlike:
            told.setdefault((tuple(pair.runs), tuple(pair.reasons)), []).append(measure)
    drawn = {at for alike in found.measures.values() for group in alike.groups for at in group}
    without = [run.label for at, run in enumerate(found.runs) if at not in drawn]
    said = [f"{', '.join(without)}: no pictures of the last step."] if without else []
    return said + [
        f"{_both(found, runs)} cannot be compared in {_measures(measures, found.measures)}: {', '.join(reasons)}."
        for (runs, reasons), measures in told.items()
    ]


def _measures(measures: Sequence[str], every: dict[str, Alike]) -> str:
    return "any measure" if len(measures) == len(every) else ", ".join(measures)


def _both(found: SideBySide, runs: Sequence[int]) -> str:
    return " and ".join(found.runs[at].label for at in runs)
