"""A page's trials and raters' files of votes, made by hand."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from lora_engine.evaluation.ratings.trials import Picture, Trial, Trials

Chosen = tuple[int | None, int | None]  # the places of the best and of the worst
Choose = Callable[[int, Trial], Chosen]  # of the trial of that place


def picture(contender: str, prompt: int) -> Picture:
    name = hashlib.sha256(f"{contender} {prompt}".encode()).hexdigest()[:16]
    return Picture(name, contender, 1 if contender else None)


def make(*contenders: str, prompts: int = 12, run: str = "study", run_id: str = "1" * 32) -> Trials:
    """A plain trial for each prompt, then two of these again and two with a twin."""
    plain = [Trial(at, at, tuple(picture(name, at) for name in contenders), "plain") for at in range(prompts)]
    again = [Trial(at, at, plain[at].pictures[::-1], "repeat", of=at) for at in (0, 1)]
    twins = [Trial(at, at, (plain[at].pictures[0], *plain[at].pictures[:-1]), "identical") for at in (2, 3)]
    texts = tuple(f"prompt {at}" for at in range(prompts))
    return Trials(run, run_id, "Which would you rather wear?", texts, (*plain, *again, *twins))


def prefers(*order: str) -> Choose:
    """Votes of one who likes the first contender best, and the last least; twins are all the same."""

    def choose(_: int, trial: Trial) -> Chosen:
        ranks = [order.index(picture.contender) for picture in trial.pictures]
        best, worst = ranks.index(min(ranks)), ranks.index(max(ranks))
        best_is_twin, worst_is_twin = ranks.count(min(ranks)) > 1, ranks.count(max(ranks)) > 1
        if len(ranks) == 2:
            return (None if best_is_twin else best), None
        return (None if best_is_twin else best), (None if worst_is_twin else worst)

    return choose


def sheet_of(trials: Trials, rater: str, choose: Choose, answered: int | None = None) -> dict[str, Any]:
    """What the page exports, as an object, of the first so many trials."""
    votes = []
    for at, trial in list(enumerate(trials.trials))[:answered]:
        best, worst = choose(at, trial)
        names = [one.name for one in trial.pictures]
        votes.append({"trial": at, "pictures": names, "best": best, "worst": worst})
    return signed(
        {
            "format": "lora-job/ratings/1",
            "run": trials.run,
            "run_id": trials.run_id,
            "page": trials.page_sha256,
            "question": trials.question,
            "rater": rater,
            "trials": len(trials.trials),
            "votes": votes,
        }
    )


def signed(sheet: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the digest that it should have."""
    content = {key: value for key, value in sheet.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return content | {"sha256": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()}


def as_file(sheet: Mapping[str, Any]) -> bytes:
    """The bytes that the page exports."""
    return f"{json.dumps(sheet, indent=2, ensure_ascii=False)}\n".encode("utf-8", "surrogatepass")
