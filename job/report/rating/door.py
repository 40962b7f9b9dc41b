"""The ways into votes: people's files into a run, and what they say into its report."""

from collections.abc import Sequence

from job import layout
from job.report.pictures import Pictures
from job.report.rating.drawn import read_rating
from job.report.rating.found import find
from job.report.rating.given import GivenFile, sheets_of
from job.report.rating.kept import keep, read_kept
from job.report.rating_schema import Ratings
from job.report.schema import Pair
from job.run.resolved import Resolved
from job.storage.folder import RunFolder
from lora_engine.evaluation.ratings.trials import Trials


def give_votes(run: RunFolder, resolved: Resolved, pictures: Pictures, files: Sequence[GivenFile]) -> None:
    """Keep these files of votes in the run, instead of those that were given before.

    Raises:
        JobError: 42 and 46 as `sheets_of` says; nothing is changed then.
    """
    keep(run, sheets_of(files, _trials(run, resolved, pictures)))


def read_ratings(
    run: RunFolder, resolved: Resolved, pictures: Pictures, variants: Sequence[str], pairs: Sequence[Pair]
) -> Ratings | None:
    """What the votes say that the run keeps; None where there are none.

    Args:
        variants: of the run, in their order.
        pairs: of the report.

    Raises:
        JobError: 46 when a file of votes was altered, with its name.
    """
    if not run.exists(layout.VOTES):
        return None
    trials = _trials(run, resolved, pictures)
    kept = read_kept(run, trials)
    return None if trials is None or kept is None else find(kept, trials, variants, pairs)


def _trials(run: RunFolder, resolved: Resolved, pictures: Pictures) -> Trials | None:
    rating = read_rating(run, resolved, pictures)
    return None if rating is None else rating.trials
