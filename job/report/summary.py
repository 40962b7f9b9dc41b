"""The report as a text that fits a screen, for a pull request or a chat: `report/summary.md`."""

from collections.abc import Sequence

from job.report import table
from job.report.notes import fits_of_winner
from job.report.pictures import Pictures
from job.report.schema import Comparison, Pair
from job.report.templating import environment
from job.storage.folder import RunFolder

_NOTES = 8  # of those of the report, at most, so that the summary fits a screen


def render_summary(_run: RunFolder, comparison: Comparison, pictures: Pictures) -> bytes:
    """The verdict, what it rests on, a table, a picture and the notes, in Markdown."""
    adapters = table.adapters(comparison)
    template = environment().get_template("summary.md.j2")
    return template.render(
        name=comparison.name,
        sentence=comparison.verdict.sentence,
        basis=basis(comparison),
        columns=adapters.columns,
        rows=table.texts(adapters),
        has_samples=any(pictures.indices.values()),
        notes=comparison.notes[:_NOTES],
        more_notes=max(0, len(comparison.notes) - _NOTES),
    ).encode()


def basis(comparison: Comparison) -> list[str]:
    """What the verdict rests on, in sentences: images, seeds, margin, and whether pictures say the same."""
    images, seeds = comparison.data.validation, len({member.seed for member in comparison.members})
    groups = comparison.pairs[0].groups if comparison.pairs else None
    independent = "" if groups is None else f", {groups} of them independent,"
    told = [f"It rests on {_counted(images, 'held-out image')}{independent} and {_counted(seeds, 'training seed')}."]
    judged = [pair for pair in comparison.pairs if pair.verdict is not None]
    return [*told, _margins(judged), _agreement(judged)] if judged else told


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _margins(pairs: Sequence[Pair]) -> str:
    """The differences of loss that matter, over the pairs."""
    margins = sorted(pair.margin for pair in pairs if pair.margin is not None)
    if not margins:
        return "From where on a difference of loss matters, the data cannot tell."
    ends = [f"{margin:.2g}" for margin in (margins[0], margins[-1])]
    said = " to ".join(dict.fromkeys(ends))
    lost = len(pairs) - len(margins)
    more = f" (by the pair; of {lost} the data cannot tell)" if lost else " (by the pair)" if len(set(ends)) > 1 else ""
    return f"A difference of loss matters from {said} on{more}."


def _agreement(pairs: Sequence[Pair]) -> str:
    """Whether the pictures of those with the lower loss fit their prompts better."""
    if all(pair.pictures is None for pair in pairs):
        return "There are no pictures to agree with it."
    won = [pair for pair in pairs if pair.verdict is not None and pair.verdict.winner is not None]
    if not won:
        return "No loss is the lower one, so that pictures have nothing to agree with."
    better, worse = (any(fits_of_winner(pair)[which] for pair in won) for which in (0, 1))
    if worse:
        return "Pictures disagree with the loss: see the notes."
    if better:
        return "Pictures agree: those of the lower loss fit their prompts better."
    return "Whether pictures agree, the data cannot tell."
