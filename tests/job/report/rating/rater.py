"""Somebody who rates in the browser, and the file that has to come out of it, made by Python."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Page, expect

from lora_engine.evaluation.ratings.trials import Trials


@dataclass(frozen=True)
class Choice:
    """What somebody says of a trial: places of pictures, from 0."""

    best: int | None = None
    worst: int | None = None


def choice_of(trials: Trials, trial: int, salt: int = 0) -> Choice:
    """A choice of every kind, one after the other."""
    if len(trials.trials[trial].pictures) == 2:
        return (Choice(0), Choice(), Choice(1))[(trial + salt) % 3]
    return (Choice(0, 2), Choice(1), Choice(), Choice(None, 0), Choice(2, 1))[(trial + salt) % 5]


def file_of(trials: Trials, rater: str, choices: Mapping[int, Choice]) -> str:
    """The file that the page has to write."""
    file: dict[str, Any] = {
        "format": "lora-job/ratings/1",
        "run": trials.run,
        "run_id": trials.run_id,
        "page": trials.page_sha256,
        "question": trials.question,
        "rater": rater,
        "trials": len(trials.trials),
        "votes": [
            {
                "trial": at,
                "pictures": [picture.name for picture in trials.trials[at].pictures],
                "best": choices[at].best,
                "worst": choices[at].worst,
            }
            for at in sorted(choices)
        ],
    }
    return as_text(file)


def as_text(file: Mapping[str, Any]) -> str:
    """The file with its hash."""
    content = {key: value for key, value in file.items() if key != "sha256"}
    compact = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(compact.encode()).hexdigest()
    return json.dumps(content | {"sha256": digest}, indent=2, ensure_ascii=False) + "\n"


def begin(page: Page, name: str) -> None:
    """Begin by keys: the field has the focus."""
    expect(page.locator("#name")).to_be_focused()
    page.keyboard.type(name)
    page.keyboard.press("Enter")


def expect_trial(page: Page, trials: Trials, trial: int) -> None:
    """Wait for a trial, and for its pictures."""
    expect(page.locator("#said")).to_have_text(f"{trial + 1} of {len(trials.trials)}")
    expect(page.locator("#pictures")).to_have_attribute("aria-busy", "false")


def by_keys(page: Page, choice: Choice) -> None:
    if choice == Choice():
        page.keyboard.press("0")
        return
    if choice.best is not None:
        page.keyboard.press(str(choice.best + 1))
    if choice.worst is not None:
        page.keyboard.press(str(choice.worst + 1) if choice.best is not None else f"Shift+Digit{choice.worst + 1}")
    if (choice.best is None or choice.worst is None) and page.locator("#rest").is_visible():
        page.keyboard.press("ArrowRight")


def by_taps(page: Page, choice: Choice) -> None:
    figures = page.locator("#pictures figure")
    if choice == Choice():
        page.locator("#none").tap()
        return
    if choice.worst is not None:
        figures.nth(choice.worst).locator("button.worst").tap()
    if choice.best is not None:
        figures.nth(choice.best).locator("button.picture").tap()
    if choice.worst is None or choice.best is None:
        page.locator("#rest").tap()


def rate(page: Page, trials: Trials, choices: Mapping[int, Choice], how: Any = by_keys) -> None:
    """Answer these trials, the first of which is shown."""
    for trial, choice in choices.items():
        expect_trial(page, trials, trial)
        how(page, choice)


def expect_file(page: Page, trials: Trials, rater: str, choices: Mapping[int, Choice]) -> None:
    """Wait for the end, and compare the file with the one that Python makes."""
    expect(page.locator("#how-many")).to_have_text(f"{len(choices)} of {len(trials.trials)} answered by {rater}.")
    expect(page.locator("#file")).to_have_value(file_of(trials, rater, choices))
