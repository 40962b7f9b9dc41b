"""A real browser, headless, for pages of the report."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def started() -> Iterator[Browser]:
    """Chromium as the system has it, or else as playwright has installed it."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(_ARGUMENTS))
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page, and what it did that a page of ours must not do."""

    page: Page
    complaints: list[str] = field(default_factory=list)  # of the console, uncaught errors, dialogs
    requests: list[str] = field(default_factory=list)  # but for data that the page holds


def open_page(browser: Browser, path: Path, *, width: int = 1440, scheme: str = "light") -> Opened:
    """Open a file in a window of that width."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    opened = Opened(context.new_page())
    page = opened.page
    page.on("console", lambda message: opened.complaints.append(message.text))
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.on("dialog", lambda dialog: (opened.complaints.append(dialog.message), dialog.dismiss())[1])
    page.on("request", lambda each: None if each.url.startswith("data:") else opened.requests.append(each.url))
    page.goto(path.as_uri())
    return opened
