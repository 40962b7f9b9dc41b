"""The files of votes that raters give: what they must hold to be counted, and which are refused, by their names."""

import codecs
import hashlib
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from job.errors import ExitCode, JobError
from job.storage import open_from_environment
from job.storage.folder import first_problem
from job.storage.uris import local_path, scheme_of
from lora_engine.evaluation.ratings.trials import Trial, Trials, canonical
from lora_engine.text import shortened

LARGEST = 1_000_000  # bytes of a file; one of a hundred trials has some twenty thousand
_SHOWN = 60  # characters of a name in a message
_ONE_RATER = (
    "Give one of the two. Names that differ in nothing but case and spaces are one rater: of two people, one has to "
    "rate under another name."
)
_NOTHING_DONE = "No vote was counted, and no report written."
_Place = Annotated[int, Field(ge=0)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Vote(_Strict):
    """What was chosen in one trial."""

    trial: _Place
    pictures: tuple[str, ...]  # names, in the order in which they were shown
    best: _Place | None  # a place in `pictures`; None where none is better than another one that is not the worst
    worst: _Place | None


class Sheet(_Strict):
    """A file of votes. The order of the fields is that of the file."""

    format: Literal["lora-job/ratings/1"]
    run: str
    run_id: str
    page: _Sha256  # what the page showed, `Trials.page_sha256`
    question: str
    rater: Annotated[str, Field(min_length=1, max_length=200)]
    trials: _Place  # how many the page has
    votes: tuple[Vote, ...]
    sha256: _Sha256  # of all the others

    @property
    def is_whole(self) -> bool:
        """Whether it says what it did when the digest was made."""
        try:
            content = canonical(self.model_dump(mode="json", exclude={"sha256"})).encode()
        except UnicodeEncodeError:  # Half of a character, which JSON can name and a page never writes.
            return False
        return hashlib.sha256(content).hexdigest() == self.sha256


@dataclass(frozen=True)
class Refused:
    """A file that is not counted."""

    what: str  # is wrong with it, and what is to be done, after its name
    is_missing: bool = False
    is_of_another_page: bool = False  # whole, of this run, and about other pictures than are shown now


def read_sheet(data: bytes, trials: Trials) -> Sheet | Refused:
    """A file of votes. How its text is laid out does not matter: it may have been copied, or sent by mail.

    Args:
        data: its bytes.
        trials: what the run's page shows.
    """
    if len(data) > LARGEST:
        return Refused(f"is no file of votes: it has more than {LARGEST} bytes.")
    try:
        sheet = Sheet.model_validate_json(data.removeprefix(codecs.BOM_UTF8))
    except ValidationError as error:
        return Refused(f"is no file of votes as the page exports it{first_problem(error)}.")
    return checked(sheet, trials)


def checked(sheet: Sheet, trials: Trials) -> Sheet | Refused:
    """The votes if they are whole, and on the pictures of that page."""
    if not sheet.is_whole:
        return Refused("was altered after the page exported it. Export it once more; its rater's browser has it.")
    if sheet.run_id != trials.run_id:
        named = shortened(sheet.run, _SHOWN)
        whose = f"{named!r} ({shortened(sheet.run_id, _SHOWN)})"
        return Refused(f"is of another run, {whose}. Give it to the report of that one.")
    if sheet.page != trials.page_sha256:
        return Refused(
            "is of another page: its pictures or its question are not those of report/rate.html now. Have these rated.",
            is_of_another_page=True,
        )
    if not sheet.votes:
        return Refused("holds no vote: its rater had answered nothing yet. Leave it out.")
    problem = _problem(sheet, trials)
    return sheet if problem is None else Refused(f"was altered: {problem}. Export it once more.")


def _problem(sheet: Sheet, trials: Trials) -> str | None:
    """What a file says that no page of those trials would; None where there is nothing."""
    if (sheet.trials, sheet.question, sheet.run) != (len(trials.trials), trials.question, trials.run):
        return "its run, its question or its number of trials is not the page's"
    places = [vote.trial for vote in sheet.votes]
    if len(set(places)) < len(places):
        return f"trial {next(place for place in places if places.count(place) > 1)} stands in it twice"
    if places != sorted(places):
        return "its votes are not in the order of the trials"
    for vote in sheet.votes:
        if vote.trial >= len(trials.trials):
            return f"the page has no trial {vote.trial}"
        problem = _problem_of_vote(vote, trials.trials[vote.trial])
        if problem is not None:
            return f"{problem} in trial {vote.trial}"
    return None


def _problem_of_vote(vote: Vote, trial: Trial) -> str | None:
    shown = len(trial.pictures)
    if vote.pictures != tuple(picture.name for picture in trial.pictures):
        return "the pictures are not the page's"
    if any(place is not None and place >= shown for place in (vote.best, vote.worst)):
        return "a picture is chosen that was not shown"
    if vote.best is not None and vote.best == vote.worst:
        return "one picture is both the best and the worst"
    if shown == 2 and vote.worst is not None:
        return "a worst picture is named of two"
    return None


@dataclass(frozen=True)
class GivenFile:
    """A file that is given as one of votes."""

    place: str  # as it was named: a path or a URI
    data: bytes | Refused  # its bytes, or why there are none


def read_files(places: Sequence[str], environ: Mapping[str, str]) -> list[GivenFile]:
    """The files at these places, each once: paths or URIs, in the storages that the environment says how to reach.

    Raises:
        JobError: 40 for a scheme that no storage has, 50 when a store fails.
    """
    return [GivenFile(place, _read(place, environ)) for place in dict.fromkeys(places)]


def _read(place: str, environ: Mapping[str, str]) -> bytes | Refused:
    storage = open_from_environment(place, environ)
    try:
        there = storage.head(place)
        if there is not None and there.size > LARGEST:
            return Refused(f"is no file of votes: it has {there.size} bytes.")
        data = None if there is None else storage.read(place)
    except JobError as error:
        if error.code != ExitCode.STORAGE_ACCESS:
            raise
        return Refused(f"cannot be read. {error.cause}", is_missing=True)
    if data is None:
        is_something_else = scheme_of(place) == "file" and os.path.lexists(local_path(place))
        what = "is no file: name the files of votes themselves." if is_something_else else "is not there."
        return Refused(what, is_missing=True)
    return data


def sheets_of(files: Sequence[GivenFile], trials: Trials | None) -> list[Sheet]:
    """The votes in these files; those of files with the same votes once.

    Args:
        trials: what the run's page shows; None where there is nothing to rate.

    Raises:
        JobError: 42 when no file is at one of the places, or it cannot be read, 46 when one is not to be counted; all
            such are named at once.
    """
    if trials is None:
        raise JobError(
            ExitCode.CONFLICT,
            "There is nothing to rate in the run: no two contenders have different pictures of one prompt.",
            "Name the run whose report/rate.html was rated.",
        )
    found = [(f.place, f.data if isinstance(f.data, Refused) else read_sheet(f.data, trials)) for f in files]
    refused = [(place, each) for place, each in found if isinstance(each, Refused)]
    sheets = [(place, each) for place, each in found if isinstance(each, Sheet)]
    refused += of_one_rater(sheets)
    if refused:
        raise refusal(refused)
    return list({sheet.sha256: sheet for _, sheet in sheets}.values())


def of_one_rater(sheets: Iterable[tuple[str, Sheet]]) -> list[tuple[str, Refused]]:
    """Those of a rater of whom there are other votes before, by the places that they are at."""
    first: dict[str, tuple[str, Sheet]] = {}
    found = []
    for place, sheet in sheets:
        before, other = first.setdefault(_who(sheet.rater), (place, sheet))
        if other.sha256 != sheet.sha256:
            found.append((place, Refused(f"is of the same rater as {before}. {_ONE_RATER}")))
    return found


def _who(rater: str) -> str:
    """A rater's name as it is told from others: case, width and spaces around it do not matter."""
    return unicodedata.normalize("NFKC", rater).strip().casefold()


def refusal(refused: Sequence[tuple[str, Refused]]) -> JobError:
    """The error that names all files that are not counted, at least one, and says why."""
    code = ExitCode.STORAGE_ACCESS if all(each.is_missing for _, each in refused) else ExitCode.CONFLICT
    if len(refused) == 1:
        place, one = refused[0]
        return JobError(code, f"{shortened(place, 4 * _SHOWN)} {one.what}", _NOTHING_DONE)
    return JobError(
        code,
        f"{len(refused)} files of votes cannot be counted:",
        _NOTHING_DONE,
        [f"{shortened(place, 4 * _SHOWN)} {each.what}" for place, each in refused],
    )
