"""The verdicts of a report as sentences, as a person would say them."""

from collections.abc import Mapping, Sequence

from job.report.members import Trained
from job.report.objective import SCORED
from job.report.schema import MemberReport, Pair
from job.report.settings import listed
from job.report.sides import Side, beats_of, cells_of, is_of_seeds, is_one_question, share_captions, sides
from lora_engine.evaluation import statistics
from lora_engine.evaluation.statistics import FEWEST_GROUPS
from lora_engine.evaluation.verdicts import Code, Evidence


def sentence(
    pair: Pair,
    adapters: Sequence[tuple[Trained, Trained]],
    code: Code,
    evidence: Evidence,
    why_not: str | None,
    share: float,
    wanted: tuple[int | None, int | None],
) -> str:
    """The verdict of a pair, with what it rests on.

    Args:
        pair: all of it but the verdict.
        adapters: those of the pair, of each seed.
        why_not: what stands in the way of a verdict, if anything does.
        share: the margin, as a share of the gain.
        wanted: more images and more seeds, with which such a study would tell.
    """
    if why_not is not None:
        return f"{why_not}; no verdict."
    told = _of_code(pair, code, evidence, share, wanted)
    return " ".join([f"{_scope(pair)}, {told}.", *_remarks(pair, adapters, code)])


def _of_code(pair: Pair, code: Code, evidence: Evidence, share: float, wanted: tuple[int | None, int | None]) -> str:
    a, b = sides(pair)
    if code == "identical":
        return f"{a.full} and {b.full} are the same adapter: their weights are equal"
    if code == "nothing_measurable":
        return f"training changed nothing measurable in {a.full} or {b.full}"
    if code == "cannot_tell" and pair.groups < FEWEST_GROUPS:
        are = "image is" if pair.groups == 1 else "images are"
        few = f"{pair.groups} independent held-out {are} too few to tell {a.full} from {b.full}"
        return f"{few}: {FEWEST_GROUPS} are needed"
    cells, told = evidence.cells, cells_of(pair)
    lower, other = (a, b) if cells["as_trained"].mean <= 0 else (b, a)
    better = f"{lower.full} has a lower denoising loss than {other.full}"
    no_difference = f"there is no difference that matters between {a.full} and {b.full}"
    effect = _effect(pair)
    outside = listed([words for name, words in told.items() if name not in evidence.within])
    match code:
        case "lower":
            return f"{better}, however they are prompted: {effect}"
        case "lower_but_depends":
            return (
                f"{better} as each was trained, even against {other.short} prompted its best: {effect}; "
                f"{_exceptions(pair, cells, other)}"
            )
        case "lower_by_captions":
            return f"{better} as each was trained ({effect}), {_by_captions(pair, evidence, lower, other)}"
        case "different_within_margin":
            more = f"; {outside} it may matter" if outside else ""
            return (
                f"{better}, but the difference is too small to matter: {effect}, within {share:.0%} of the gain{more}"
            )
        case "equivalent":
            return f"{no_difference}, however they are prompted: {effect}"
        case "equivalent_as_trained":
            return f"as trained {no_difference} ({effect}); {outside} there may be one"
    return f"{a.full} and {b.full} cannot be told apart: {effect}{_what_would_tell(pair, share, wanted)}"


def _by_captions(pair: Pair, evidence: Evidence, lower: Side, other: Side) -> str:
    """How the one with the higher loss has to be prompted to do as well."""
    ways, beats = beats_of(pair, lower.short), evidence.beats
    held = [words for name, words in ways.items() if beats[name].sign != -1 or name in evidence.within]
    cause = "but " if share_captions(pair) else "but by its captions: "
    return f"{cause}{other.short} is not found to be worse {listed(list(dict.fromkeys(held)))}"


def _exceptions(pair: Pair, cells: Mapping[str, statistics.Interval], other: Side) -> str:
    """Where the difference is not as it is as trained."""
    sign = cells["as_trained"].sign
    turned, lost = (
        listed([words for name, words in cells_of(pair).items() if cells[name].sign == wanted]) for wanted in (-sign, 0)
    )
    told = [f"{turned} {other.short} has the lower"] if turned else []
    return ", and ".join(told + ([f"{lost} they cannot be told apart"] if lost else []))


def _effect(pair: Pair) -> str:
    """The difference as trained with its interval, from the side of the one that is lower."""
    assert pair.cells is not None, "a pair without numbers has an obstacle"
    found = pair.cells.as_trained
    mean, low, high = found.mean, found.low, found.high
    if mean > 0:
        mean, low, high = -mean, None if high is None else -high, None if low is None else -low
    ends = "" if low is None or high is None else f" [{low:+.2g}, {high:+.2g}]"
    of_gain = ""
    if pair.margin is not None and pair.gain is not None:
        of_gain = f", {abs(mean) / pair.gain.mean:.0%} of what training gained"
    return f"{mean:+.2g}{ends}{of_gain}"


def _what_would_tell(pair: Pair, share: float, wanted: tuple[int | None, int | None]) -> str:
    """What a study would need to tell a difference of the margin."""
    if pair.margin is None:
        return ""
    images, seeds = wanted
    more = [
        f"{count} more {what}" for count, what in ((images, "independent held-out images"), (seeds, "seeds")) if count
    ]
    if more:
        return f"; about {' and '.join(more)} would tell a difference of {share:.0%} of the gain"
    if pair.minimum_detectable is not None and pair.minimum_detectable <= pair.margin:
        if pair.gain is not None and (pair.gain.low is None or pair.gain.low <= 0):
            return f"; what training gained is not known well enough to say what {share:.0%} of it are"
        return f"; it is too near to {share:.0%} of the gain to say on which side of that it lies"
    return f"; no number of images would tell a difference of {share:.0%} of the gain"


def _scope(pair: Pair) -> str:
    if pair.seed is not None:
        return f"Of these adapters (seed {pair.seed})"
    what = "variants" if not is_one_question(pair) else "settings" if share_captions(pair) else "strategies"
    return f"Of these {what} (over {pair.seeds} seeds)"


def _remarks(pair: Pair, adapters: Sequence[tuple[Trained, Trained]], code: Code) -> list[str]:
    """Further sentences that one should not miss."""
    remarks = []
    if is_of_seeds(pair):
        remarks.append("They differ in their training seeds alone: this is the study's noise floor.")
    elif not is_one_question(pair):
        remarks.append(f"They differ in {unlike(pair)}, so what made it cannot be told.")
    elif pair.values:
        remarks.append("They share their captions, so that prompted as trained they are prompted alike.")
    remarks += _trained_with(adapters)
    measured = code not in ("identical", "nothing_measurable") and pair.groups >= FEWEST_GROUPS
    if measured and pair.margin is None:
        remarks.append("Together they are not found to be better than the untouched base model, prompted well.")
    remarks += [
        f"With seed {a.seed}, {refused(a, b)}."
        for a, b in ((both[0].report, both[1].report) for both in adapters)
        if a.skipped_steps != b.skipped_steps
    ]
    return remarks


def unlike(pair: Pair) -> str:
    """What the two of a pair differ in, as a sentence lists it."""
    return listed(pair.factor)


def refused(a: MemberReport, b: MemberReport) -> str:
    """How many updates of two adapters were refused, each up to its own last step."""
    return f"{a.skipped_steps} and {b.skipped_steps} of their updates were refused"


def _trained_with(adapters: Sequence[tuple[Trained, Trained]]) -> list[str]:
    """Which of the two of a pair were trained otherwise than they are scored, and with what."""
    told = {each.report.variant: each.report.trained_with for each in adapters[0]}
    with_what = [f"{variant} with {what}" for variant, what in told.items() if what is not None]
    return [f"Trained: {listed(with_what)}; scored by {SCORED}."] if with_what else []


def alone(members: Sequence[MemberReport], groups: int) -> str:
    """The answer of a study that compares nothing: what training did to each adapter's loss."""
    return " ".join(_own_gain(member, groups) for member in members)


def _own_gain(member: MemberReport, groups: int) -> str:
    name, gain = f"{member.variant} (seed {member.seed})", member.gain
    if gain is None:
        return f"{name} diverged at step {member.diverged_at}."
    if groups < FEWEST_GROUPS or gain.low is None or gain.high is None:
        return (
            f"{groups} independent held-out images are too few to tell what training did to {name}: {FEWEST_GROUPS} "
            "are needed."
        )
    change = f"{-gain.mean:+.2g} [{-gain.high:+.2g}, {-gain.low:+.2g}] from {member.base_loss:.3g}"
    if gain.low > 0 or gain.high < 0:
        return f"Training {'lowered' if gain.low > 0 else 'raised'} the loss of {name} as trained: {change}."
    return f"Training did not measurably change the loss of {name} as trained: {change}."
