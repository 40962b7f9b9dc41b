"""The verdicts of a report as sentences, as a person would say them."""

from collections.abc import Mapping, Sequence

from job.report.factors import CAPTIONS, SEED_OFFSET
from job.report.members import Trained
from job.report.schema import MemberReport, Pair
from lora_engine.evaluation import statistics
from lora_engine.evaluation.statistics import FEWEST_GROUPS
from lora_engine.evaluation.verdicts import Code, Evidence

BEATS = {
    "loser_own": "under its own captions",
    "loser_same": "under {lower}'s captions",
    "loser_none": "without a prompt",
}
CELLS = {
    "as_trained": "as each was trained",
    "under_a": "under {a}'s captions",
    "under_b": "under {b}'s captions",
    "no_prompt": "without a prompt",
}


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
    a, b = pair.a, pair.b
    if code == "identical":
        return f"{a} and {b} are the same adapter: their weights are equal"
    if code == "nothing_measurable":
        return f"training changed nothing measurable in {a} or {b}"
    if code == "cannot_tell" and pair.groups < FEWEST_GROUPS:
        are = "image is" if pair.groups == 1 else "images are"
        return f"{pair.groups} independent held-out {are} too few to tell {a} from {b}: {FEWEST_GROUPS} are needed"
    cells = evidence.cells
    lower, other = (a, b) if cells["as_trained"].mean <= 0 else (b, a)
    effect = _effect(pair)
    outside = [CELLS[name].format(a=a, b=b) for name in cells if name not in evidence.within]
    match code:
        case "lower":
            return f"{lower} has a lower denoising loss than {other}, however they are prompted: {effect}"
        case "lower_but_depends":
            return (
                f"{lower} has a lower denoising loss than {other} as each was trained, even against {other} prompted "
                f"its best: {effect}; {_exceptions(pair, cells, other)}"
            )
        case "lower_by_captions":
            held = [name for name, beat in evidence.beats.items() if beat.sign != -1 or name in evidence.within]
            ways = dict.fromkeys(BEATS[name].format(lower=lower) for name in held)
            cause = "but by its captions: " if CAPTIONS in pair.factor else "but "
            return (
                f"{lower} has a lower denoising loss than {other} as each was trained ({effect}), {cause}{other} is "
                f"not found to be worse {_listed(list(ways))}"
            )
        case "different_within_margin":
            more = f"; {_listed(outside)} it may matter" if outside else ""
            return (
                f"{lower} has a lower denoising loss than {other}, but the difference is too small to matter: "
                f"{effect}, within {share:.0%} of the gain{more}"
            )
        case "equivalent":
            return f"there is no difference that matters between {a} and {b}, however they are prompted: {effect}"
        case "equivalent_as_trained":
            return (
                f"as trained there is no difference that matters between {a} and {b} ({effect}); {_listed(outside)} "
                "there may be one"
            )
    return f"{a} and {b} cannot be told apart: {effect}{_what_would_tell(pair, share, wanted)}"


def _exceptions(pair: Pair, cells: Mapping[str, statistics.Interval], other: str) -> str:
    """Where the difference is not as it is as trained."""
    sign = cells["as_trained"].sign
    turned, lost = (
        [CELLS[name].format(a=pair.a, b=pair.b) for name, cell in cells.items() if cell.sign == wanted]
        for wanted in (-sign, 0)
    )
    told = [f"{_listed(turned)} {other} has the lower"] if turned else []
    return ", and ".join(told + ([f"{_listed(lost)} they cannot be told apart"] if lost else []))


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
    return f"Of these {'strategies' if CAPTIONS in pair.factor else 'settings'} (over {pair.seeds} seeds)"


def _remarks(pair: Pair, adapters: Sequence[tuple[Trained, Trained]], code: Code) -> list[str]:
    """Further sentences that one should not miss."""
    remarks = []
    if pair.factor == [SEED_OFFSET]:
        remarks.append("They differ in their training seeds alone: this is the study's noise floor.")
    elif pair.factor not in ([], [CAPTIONS]):
        remarks.append(f"They differ in {', '.join(pair.factor)}.")
    measured = code not in ("identical", "nothing_measurable") and pair.groups >= FEWEST_GROUPS
    if measured and pair.margin is None:
        remarks.append("Together they are not found to be better than the untouched base model, prompted well.")
    remarks += [
        f"With seed {a.seed}, {a.skipped_steps} and {b.skipped_steps} of their updates were refused."
        for a, b in ((both[0].report, both[1].report) for both in adapters)
        if a.skipped_steps != b.skipped_steps
    ]
    return remarks


def _listed(phrases: Sequence[str]) -> str:
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)


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
