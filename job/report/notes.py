"""What to keep in mind when reading the numbers of a report, in sentences."""

from collections.abc import Sequence

from job.report.agreement import disagreement
from job.report.schema import MemberReport, Pair
from job.run.resolved import Resolved
from lora_engine.evaluation.statistics import FEWEST_SEEDS, SKEW_GROUPS, STRONG_SKEW


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
        result.append(
            f"With fewer than {FEWEST_SEEDS} seeds, a verdict is that of these adapters, not of the caption strategies."
        )
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
    for pack in resolved.packs:
        if pack.differs:
            names = ", ".join(dict.fromkeys(member.variant for member in pack.members))
            result.append(f"Not in captions alone: {names} also differ in {', '.join(pack.differs)}.")
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
