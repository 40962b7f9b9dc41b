"""The table of a report: a row an adapter, and behind every number the place in `comparison.json` that it stands at."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from job.report.picture_schema import Memorised, PicturePoint
from job.report.schema import Comparison, ListeningReport, MemberReport

UNKNOWN = "-"
PLAIN = "plain MSE"
TRAINED_WITH = "trained with"  # the column that is there where not all adapters were trained as they are scored
CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Cell:
    """A value of the report and how it is shown."""

    path: str  # in comparison.json, such as members[0].final_loss
    value: str | float | bool | None
    text: str


Entry = tuple[Cell | str, ...]  # what stands in one place of a table: values, and words between them


@dataclass(frozen=True)
class Table:
    """Rows of as many entries as there are columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]


def rounded(value: float, digits: int, *, signed: bool = False) -> str:
    """A number to so many digits that count, zeros at its end too."""
    return f"{value:{'+' if signed else ''}#.{digits}g}".rstrip(".")


def percent(value: float) -> str:
    """A share as a whole percentage."""
    return f"{value:.0%}"


def loss_text(value: float) -> str:
    """A loss as tables show it."""
    return rounded(value, 3)


def gain_text(value: float) -> str:
    """A difference of losses as tables show it."""
    return rounded(value, 2, signed=True)


def measure_text(name: str, value: float) -> str:
    """A measure of pictures as tables show it."""
    if name == "clip_retrieval":
        return percent(value)
    return rounded(value, 3 if name == "clip_score" else 2)


def text_of(entry: Entry) -> str:
    """An entry as plain text."""
    return "".join(part if isinstance(part, str) else part.text for part in entry)


def adapters(comparison: Comparison) -> Table:
    """The last checkpoint of each adapter: its loss, whether it reads its prompt, and its pictures as trained.

    Each training seed has its row, since a report has no loss over seeds.
    """
    columns: tuple[str, ...] = (
        "variant",
        "seed",
        "loss as trained",
        "gain",
        "listens",
        "CLIP score",
        "retrieval",
        "line-art distance",
        "copies",
        "best step",
    )
    members = [(member, f"members[{at}]") for at, member in enumerate(comparison.members)]
    rows = [_row(member, path) for member, path in members]
    if any(member.trained_with is not None for member, _ in members):
        columns = (*columns, TRAINED_WITH)
        rows = [(*row, _trained_with(member, path)) for row, (member, path) in zip(rows, members, strict=True)]
    return Table(columns, tuple(rows))


def _trained_with(member: MemberReport, path: str) -> Entry:
    what = member.trained_with
    return (PLAIN,) if what is None else (Cell(f"{path}.trained_with", what, what),)


def _row(member: MemberReport, path: str) -> tuple[Entry, ...]:
    at, drawn = last_pictures(member)
    pictures = f"{path}.samples[{at}].as_trained.measures"
    return (
        (Cell(f"{path}.variant", member.variant, member.variant),),
        (Cell(f"{path}.seed", member.seed, str(member.seed)),),
        _loss(member, path),
        _gain(member, path),
        _listens(member.listening, f"{path}.listening"),
        *(_measure(drawn, name, pictures) for name in ("clip_score", "clip_retrieval", "line_art_distance")),
        _copies(member, f"{path}.memorised.as_trained", has_pictures=drawn is not None),
        _best(member, path),
    )


def last_pictures(member: MemberReport) -> tuple[int, PicturePoint | None]:
    """The place in `samples` of the pictures of an adapter's last step, and those that are prompted as trained.

    None where there are none of that step, or the adapter diverged.
    """
    at = len(member.samples) - 1
    if at < 0 or member.diverged_at is not None or member.samples[at].step != member.final.step:
        return at, None
    return at, member.samples[at].as_trained


def _loss(member: MemberReport, path: str) -> Entry:
    if member.diverged_at is not None:
        return ("diverged at step ", Cell(f"{path}.diverged_at", member.diverged_at, str(member.diverged_at)))
    if member.final_loss is None:
        return (UNKNOWN,)
    loss = Cell(f"{path}.final_loss", member.final_loss, loss_text(member.final_loss))
    found = member.final_loss_interval
    if found is None:
        return (loss,)
    return (loss, *ends(found.low, found.high, f"{path}.final_loss_interval", loss_text))


def _gain(member: MemberReport, path: str) -> Entry:
    if member.gain is None:
        return (UNKNOWN,)
    mean = Cell(f"{path}.gain.mean", member.gain.mean, gain_text(member.gain.mean))
    return (mean, *ends(member.gain.low, member.gain.high, f"{path}.gain", gain_text))


def ends(low: float | None, high: float | None, path: str, shown: Callable[[float], str]) -> Entry:
    """The ends of an interval, in brackets after a space; words where the data cannot tell them."""
    if low is None or high is None:
        return (f", {CANNOT_TELL}",)
    return (" [", Cell(f"{path}.low", low, shown(low)), ", ", Cell(f"{path}.high", high, shown(high)), "]")


def _listens(found: ListeningReport | None, path: str) -> Entry:
    """Whether an adapter reads its prompt, and what another image's caption costs it."""
    if found is None:
        return (UNKNOWN,)
    cost = Cell(f"{path}.mean", found.mean, gain_text(found.mean))
    told = found.flagged or (found.low is not None and found.low > 0)
    word = CANNOT_TELL if not told else "no" if found.flagged else "yes"
    return (Cell(f"{path}.flagged", found.flagged, word), " (", cost, ")")


def _measure(drawn: PicturePoint | None, name: str, path: str) -> Entry:
    found = None if drawn is None else drawn.measures.get(name)
    return (UNKNOWN,) if found is None else (Cell(f"{path}.{name}.mean", found.mean, measure_text(name, found.mean)),)


def _copies(member: MemberReport, path: str, *, has_pictures: bool) -> Entry:
    """The share of copies among the last pictures as trained, its interval, and how many pictures these are."""
    found: Memorised | None = None if member.memorised is None else member.memorised.as_trained
    if found is None or found.share is None:
        return (CANNOT_TELL if has_pictures else UNKNOWN,)
    return (
        Cell(f"{path}.share.mean", found.share.mean, percent(found.share.mean)),
        " of ",
        Cell(f"{path}.pictures", found.pictures, str(found.pictures)),
        *ends(found.share.low, found.share.high, f"{path}.share", percent),
    )


def _best(member: MemberReport, path: str) -> Entry:
    steps = Cell(f"{path}.steps", member.steps, str(member.steps))
    if member.best is None:
        return (UNKNOWN, " of ", steps)
    return (Cell(f"{path}.best.step", member.best.step, str(member.best.step)), " of ", steps)


def texts(table: Table) -> Sequence[Sequence[str]]:
    """The rows of a table as plain text."""
    return [[text_of(entry) for entry in row] for row in table.rows]
