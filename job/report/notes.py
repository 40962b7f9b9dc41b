"""What to keep in mind when reading the numbers of a report, in sentences."""

from collections.abc import Sequence

from job.report.agreement import disagreement
from job.report.factors import CAPTIONS
from job.report.objective import SCORED
from job.report.schema import MemberReport, Pair
from job.report.settings import listed
from job.report.sides import is_one_question
from job.report.words import refused
from job.run.resolved import Resolved
from lora_engine.evaluation.statistics import FEWEST_SEEDS, SKEW_GROUPS, STRONG_SKEW
from lora_engine.text import printable


def notes(resolved: Resolved, members: Sequence[MemberReport], pairs: Sequence[Pair], *, is_earlier: bool) -> list[str]:
    """All notes.

    Args:
        is_earlier: whether an earlier version began the run.
    """
    result = ["Loss is denoising error on held-out images, not picture quality: a lower loss need not look better."]
    if is_earlier:
        result.append(
            "An earlier version began this run. Its curve, and with it the choice of the best checkpoints, is the mean "
            "over all caption sets; whether adapters listen to their prompts was not measured."
        )
    if pairs and all(pair.seed is not None for pair in pairs):
        what = "the caption strategies" if all(pair.factor == [CAPTIONS] for pair in pairs) else "what they differ in"
        result.append(f"With fewer than {FEWEST_SEEDS} seeds, a verdict is that of these adapters, not of {what}.")
    result += [
        f"{m.variant}, seed {m.seed}, has stopped reading its prompt: another image's caption costs it "
        f"{m.listening.mean:.2g}, and the base model {m.listening.base:.2g}."
        for m in members
        if m.listening is not None and m.listening.flagged
    ]
    result += [
        f"The difference of {p.a} and {p.b}, seed {p.seed}, is strongly skewed over the held-out images (skew "
        f"{p.skew:.1f}): a few of them decide it, and its interval may be too narrow. More held-out images would tell."
        for p in pairs
        if p.seed is not None and p.skew is not None and abs(p.skew) > STRONG_SKEW and p.groups < SKEW_GROUPS
    ]
    if several := dict.fromkeys(key for pair in pairs if not is_one_question(pair) for key in pair.factor):
        result.append(
            f"Some pairs differ in more than one thing ({', '.join(several)}), so what made it cannot be told."
        )
    if unlike_plain := {m.variant: m.trained_with for m in members if m.trained_with is not None}:
        told = listed([f"{variant} was trained with {what}" for variant, what in unlike_plain.items()])
        result.append(f"{told}; all are scored by {SCORED}, which that need not make lower.")
    result += _starts(members)
    result += _refused(members, pairs)
    result += [
        f"{m.variant}, seed {m.seed}, diverged and was frozen at step {m.diverged_at}; it is not compared."
        for m in members
        if m.diverged_at is not None
    ]
    result += copies_found(members)
    result += [note for pair in pairs if (note := disagreement(pair)) is not None]
    if not resolved.fenced:
        result.append("The store ignores conditional writes: nothing kept a second process from writing this run.")
    result += [
        f"{p.a} and {p.b}, seed {p.seed}, did not see the same: {', '.join(p.withheld)}."
        for p in pairs
        if p.seed is not None and p.withheld
    ]
    return result


def _starts(members: Sequence[MemberReport]) -> list[str]:
    """A note on each adapter that started from a file: what of its loss is that file's."""
    result = []
    for member in members:
        if (start := member.start) is not None:
            text = (
                f"{member.variant}, seed {member.seed}, started from {printable(start.source)}, whose loss on the "
                f"curve's timesteps is {start.curve_loss:.4f}, where its curve begins, and the base model's "
                f"{member.curve_base_loss or 0:.4f}; what is told against the base model is in part that file's."
            )
            if start.gain is not None and not (start.gain.low is not None and start.gain.low > 0):
                text += " It is not found to be better than what it started from."
            result.append(text)
    return result


def _refused(members: Sequence[MemberReport], pairs: Sequence[Pair]) -> list[str]:
    """A note on each pair of variants of which the one was refused more updates than the other, with some seed."""
    of = {(member.variant, member.seed): member for member in members}
    seeds = dict.fromkeys(member.seed for member in members)
    result = []
    for a, b in dict.fromkeys((pair.a, pair.b) for pair in pairs):
        both = [(of[a, seed], of[b, seed]) for seed in seeds]
        told = [f"with seed {x.seed}, {refused(x, y)}" for x, y in both if x.skipped_steps != y.skipped_steps]
        result += [f"{a} and {b}: {'; '.join(told)}, since losses or gradients were not finite."] if told else []
    return result


def copies_found(members: Sequence[MemberReport]) -> list[str]:
    """A note on each adapter that draws copies of what it was trained on."""
    result = []
    for member in members:
        found = member.memorised
        drawn = {} if found is None else {"bare": found.bare, "as trained": found.as_trained}
        result += [
            f"{len(pictures.copies)} of the {pictures.pictures} last pictures of {member.variant}, seed {member.seed}, "
            f"prompted {how}, are copies of training images; report/copies.png shows them side by side."
            for how, pictures in drawn.items()
            if pictures is not None and pictures.copies
        ]
    return result
