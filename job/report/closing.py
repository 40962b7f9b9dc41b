"""The end of a run, for a person and for a log: the answer, what each adapter came to, and where everything lies."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, TypeVar

from pydantic import ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from job import layout
from job.process.stage import duration
from job.report.table import gain_text, loss_text
from job.run.adapters import AdapterIndex
from job.run.status import spent_seconds
from job.storage import StorageSettings, is_remote, name_of
from job.storage.backends import backend_of
from job.storage.folder import RunFolder
from job.storage.stored import StoredJson
from lora_engine.text import printable

Value = TypeVar("Value")


def _if_known(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """The value; None where another version wrote something else under its key."""
    try:
        return read(value)
    except ValidationError:
        return None


Known = Annotated[Value | None, WrapValidator(_if_known)]


class _Gain(StoredJson):
    mean: float
    low: float | None = None
    high: float | None = None


class _Best(StoredJson):
    step: int


class _Pictures(StoredJson):
    pictures: int
    copies: tuple[Any, ...]


class _Memorised(StoredJson):
    bare: Known[_Pictures] = None
    as_trained: Known[_Pictures] = None


class _Member(StoredJson):
    variant: str
    seed: int
    base_loss: Known[float] = None
    final_loss: Known[float] = None
    gain: Known[_Gain] = None
    best: Known[_Best] = None
    memorised: Known[_Memorised] = None
    diverged_at: Known[int] = None


class _Verdict(StoredJson):
    sentence: str
    headline: Known[str] = None
    pictures: Known[str] = None
    people: Known[str] = None


class _Report(StoredJson):
    """What the end of a run tells of `comparison.json`, of whatever version."""

    verdict: Known[_Verdict] = None
    members: Known[tuple[Known[_Member], ...]] = None


@dataclass(frozen=True)
class ClosingMember:
    """One adapter, as the report has it. Values are None where the report has none."""

    variant: str
    seed: int
    loss: float | None  # of the last checkpoint as trained, at the final timesteps
    base_loss: float | None  # the same of the base model
    gain: dict[str, float | None] | None  # mean, low and high of base_loss less loss
    best_step: int | None
    copies: int | None  # of training images among its last pictures as trained
    pictures: int | None  # its last pictures
    diverged_at: int | None


@dataclass(frozen=True)
class Closing:
    """All that is said at the end of a run. Places are URIs, None where there is nothing."""

    run: str
    verdict: str | None
    headline: str | None  # the same in a plain sentence
    agreement: str | None  # whether pictures agree
    people: str | None  # what they prefer, where there are votes
    report: str | None
    page: str | None  # the report to be opened in a browser
    pictures: str | None
    adapters: str | None  # a folder
    collect: str | None  # the command that brings adapters and report here, where they are behind a network
    make_adapters: str | None  # the command, where an earlier version made none
    elapsed_seconds: float  # of all attempts
    members: tuple[ClosingMember, ...]

    def facts(self) -> dict[str, Any]:
        """The values by name, as a log has them."""
        return asdict(self)

    def shown(self) -> RenderableType:
        """The same for a terminal."""
        lines = {
            "took": f"{duration(self.elapsed_seconds)}, over all attempts",
            "look at": self.page or self.pictures or self.report,
            "adapters": self.adapters or f"none; to make them: {self.make_adapters}",
            "fetch": self.collect,
        }
        parts: list[RenderableType] = []
        told = [(self.headline, "bold"), (self.agreement, ""), (self.people, ""), (self.verdict, "dim")]
        parts += [Text(printable(text), style=style) for text, style in told if text is not None]
        parts += [Text()] if parts else []
        if self.members:
            parts += [_table(self.members), Text()]
        parts += [_unbroken(f"{what:<9} {line}") for what, line in lines.items() if line is not None]
        return Group(*parts)


def closing_of(run: RunFolder, settings: StorageSettings) -> Closing:
    """The end of a finished run.

    Args:
        settings: of the store that holds it.

    Raises:
        JobError: 46 when the report is no JSON object, or the index of adapters no such index.
    """
    found = _Report.model_validate(run.read_json(layout.COMPARISON) or {})
    index = run.read_stored(layout.ADAPTER_INDEX, AdapterIndex)
    there = {key for key, _ in run.list(layout.ADAPTERS)}
    if index is not None and any(file.path not in there for file in index.files()):
        index = None  # Some were removed, and the report makes them anew.
    report, page, pictures = (
        run.uri(key) if run.exists(key) else None for key in (layout.COMPARISON, layout.PAGE, layout.GRID)
    )
    return Closing(
        run=run.root,
        verdict=found.verdict.sentence if found.verdict else None,
        headline=found.verdict.headline if found.verdict else None,
        agreement=found.verdict.pictures if found.verdict else None,
        people=found.verdict.people if found.verdict else None,
        report=report,
        page=page,
        pictures=pictures,
        adapters=run.uri(layout.ADAPTERS) if index else None,
        collect=_command(run, settings, "collect", name_of(run.root), "--adapters")
        if index and is_remote(run.root)
        else None,
        make_adapters=None if index else _command(run, settings, "report"),
        elapsed_seconds=round(spent_seconds(run), 1),
        members=tuple(_closing_member(member) for member in found.members or () if member is not None),
    )


def _closing_member(member: _Member) -> ClosingMember:
    drawn = member.memorised
    pictures = (drawn.as_trained or drawn.bare) if drawn else None
    return ClosingMember(
        variant=member.variant,
        seed=member.seed,
        loss=member.final_loss,
        base_loss=member.base_loss,
        gain=member.gain.model_dump() if member.gain else None,
        best_step=member.best.step if member.best else None,
        copies=len(pictures.copies) if pictures else None,
        pictures=pictures.pictures if pictures else None,
        diverged_at=member.diverged_at,
    )


def _command(run: RunFolder, settings: StorageSettings, *words: str) -> str:
    """A command on the run for a shell, with the variables that say how its store is reached."""
    variables = backend_of(run.root).variables(settings)
    command = shlex.join(("lora-job", words[0], run.root, *words[1:]))
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in variables.items()), command])


def _table(members: Sequence[ClosingMember]) -> Table:
    """A row for each adapter; seeds are shown where there are several."""
    several_seeds = len({member.seed for member in members}) > 1
    columns = ["variant", *(["seed"] if several_seeds else []), "loss as trained", "base"]
    columns += ["below base [95%]", "best step", "copies"]
    table = Table(
        *(Column(Text(name), overflow="fold") for name in columns), box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    table.columns[-3].no_wrap = True
    for member in members:
        loss = _number(member.loss)
        if member.diverged_at is not None:
            loss = f"diverged at step {member.diverged_at}"
        cells = [
            member.variant,
            *([str(member.seed)] if several_seeds else []),
            loss,
            _number(member.base_loss),
            _interval(member.gain),
            "" if member.best_step is None else str(member.best_step),
            "" if member.copies is None else f"{member.copies}/{member.pictures}",
        ]
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else loss_text(value)


def _interval(gain: Mapping[str, float | None] | None) -> str:
    if gain is None or gain["mean"] is None:
        return ""
    ends = [gain_text(end) for name in ("low", "high") if (end := gain[name]) is not None]
    return f"{gain_text(gain['mean'])} [{', '.join(ends)}]" if len(ends) == 2 else gain_text(gain["mean"])


def _unbroken(line: str) -> Text:
    """A line that can be copied whole from a terminal that is narrower."""
    return Text(printable(line), no_wrap=True, overflow="ignore")
