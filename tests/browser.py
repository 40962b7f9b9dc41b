"""A real browser, headless, for pages of the report."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def _found() -> str | None:
    """Where the system has Chromium; None where only playwright may have installed it."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@contextmanager
def started() -> Iterator[Browser]:
    """Chromium as the system has it, or else as playwright has installed it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_found(), args=list(_ARGUMENTS))
        yield browser
        browser.close()


@contextmanager
def of_a_person(browser: Browser, folder: Path) -> Iterator[BrowserContext]:
    """Another browser of that kind, which keeps in the folder what a person's keeps, also once it is closed."""
    context = browser.browser_type.launch_persistent_context(
        folder, executable_path=_found(), args=list(_ARGUMENTS), viewport={"width": 1440, "height": 900}
    )
    yield context
    context.close()


@dataclass
class Opened:
    """A page, and what it did that a page of ours must not do."""

    page: Page
    complaints: list[str] = field(default_factory=list)  # of the console, uncaught errors, dialogs
    requests: list[str] = field(default_factory=list)  # but for data that the page holds


def open_page(browser: Browser, path: Path, *, width: int = 1440, scheme: str = "light", **more: Any) -> Opened:
    """Open a file in a window of that width.

    Args:
        more: what playwright is to know of the window besides.
    """
    viewport = {"width": width, "height": 900}
    return opened_in(browser.new_context(viewport=viewport, color_scheme=scheme, **more), path)  # type: ignore[arg-type]


def opened_in(context: BrowserContext, path: Path) -> Opened:
    """Open a file in a new window."""
    opened = Opened(context.new_page())
    page = opened.page
    page.on("console", lambda message: opened.complaints.append(message.text))
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.on("dialog", lambda dialog: (opened.complaints.append(dialog.message), dialog.dismiss())[1])
    page.on("request", lambda each: None if each.url.startswith("data:") else opened.requests.append(each.url))
    page.goto(path.as_uri())
    return opened
