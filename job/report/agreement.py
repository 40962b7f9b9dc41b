"""Whose pictures are the better ones, by the measures of which it is known which way is better."""

from collections.abc import Sequence

from job.report.picture_schema import PictureDifference
from job.report.schema import Pair

# 1 where more is better, and how the better pictures are said.
_BETTER = {
    "clip_score": (1, "fit their prompts better"),
    "clip_retrieval": (1, "show what was asked for more often"),
    "line_art_distance": (-1, "are nearer to the held-out images in style"),
}
_KINDS = {"clip_score": "CLIP", "clip_retrieval": "CLIP", "line_art_distance": "line art"}


def better_pictures(pair: Pair) -> dict[str, list[str]]:
    """What is better in the pictures of `a`, and in those of `b`, each prompted as it was trained, in words.

    Told is what holds even among all that was looked at. Empty where there are no pictures that were measured so.
    """
    drawn = pair.pictures.as_trained if pair.pictures else None
    measured = {name: drawn[name] for name in _BETTER if name in drawn} if drawn else {}
    if not measured:
        return {}
    better: dict[str, list[str]] = {pair.a: [], pair.b: []}
    for name, difference in measured.items():
        sign = _told(difference) * _BETTER[name][0]
        if sign:
            better[pair.a if sign > 0 else pair.b].append(f"{_BETTER[name][1]} ({name})")
    return better


def _told(difference: PictureDifference) -> int:
    """1 or -1 where the difference is told from 0 even among all that were looked at, else 0."""
    low, high = difference.simultaneous_low, difference.simultaneous_high
    return 0 if low is None or high is None else (low > 0) - (high < 0)


def agreement(rows: Sequence[Pair]) -> str | None:
    """Whether the pictures agree with the losses, over the rows of one pair of variants; None without pictures."""
    said = dict.fromkeys(_agreement(pair) for pair in rows)
    return next(iter(said)) if len(said) == 1 else "What their pictures say differs by seed."


def _agreement(pair: Pair) -> str | None:
    better = better_pictures(pair)
    if not better:
        return None
    found = [f"those of {variant} {' and '.join(how)}" for variant, how in better.items() if how]
    winner = pair.verdict.winner if pair.verdict else None
    if not found:
        return _not_told(pair)
    if winner is None:
        return f"Their pictures differ: {', but '.join(found)}."
    if len(found) > 1:
        return f"The pictures agree in part: {', but '.join(found)}."
    return f"The pictures {'agree' if better[winner] else 'disagree'}: {found[0]}."


def _not_told(pair: Pair) -> str:
    """What is said where nothing is told even among all that was looked at: maybe single measures would tell."""
    assert pair.pictures is not None
    assert pair.pictures.as_trained is not None
    drawn = pair.pictures.as_trained
    alone: dict[str, list[str]] = {pair.a: [], pair.b: []}
    for name, (sign, how) in _BETTER.items():
        found = drawn.get(name)
        if found is not None and found.low is not None and found.high is not None and found.low * found.high > 0:
            alone[pair.a if found.mean * sign > 0 else pair.b].append(f"{how} ({name})")
    seen = [f"those of {variant} {' and '.join(how)}" for variant, how in alone.items() if how]
    if seen:
        return f"Their pictures look different: {', but '.join(seen)}. More prompts would tell whether that is chance."
    kinds = dict.fromkeys(kind for name, kind in _KINDS.items() if name in drawn)
    return f"By {' and '.join(kinds)}, their pictures cannot be told apart."


def disagreement(pair: Pair) -> str | None:
    """A note where the pictures of the one with the higher loss are better in something; None where they are not."""
    winner = pair.verdict.winner if pair.verdict else None
    loser = pair.b if winner == pair.a else pair.a
    better = better_pictures(pair)
    if winner is None or not better or not better[loser]:
        return None
    part = " in part" if better[winner] else ""
    return (
        f"Loss and pictures disagree{part}: {winner} has a lower loss than {loser}, but the pictures of {loser} "
        f"{' and '.join(better[loser])}, each prompted as it was trained."
    )
