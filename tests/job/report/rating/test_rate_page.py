"""The page for blind rating in a real browser: by keys and by taps, kept, saved, read again; what it hides."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from job import layout
from job.report.publish import publish_report
from lora_engine.evaluation.ratings.trials import Trials
from lora_engine.text import printable
from tests.browser import Opened, of_a_person, open_page, opened_in, started
from tests.job.report.rating.drawn_run import drawn_run, trials_of
from tests.job.report.rating.rater import (
    Choice,
    as_text,
    begin,
    by_taps,
    choice_of,
    expect_file,
    expect_trial,
    file_of,
    rate,
)

HOSTILE = [
    "a heart",
    "</script><script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 2">',
    "right \u202eto left, 'quoted' & \U0001f5a4 \u05d0\u05d1",
    "",
    "<!-- {{ 7 * 7 }} & " + "long " * 60,
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as browser:
        yield browser


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trials]:
    """The folder of a report, and the trials that its page has to ask."""
    made = drawn_run(tmp_path_factory.mktemp("rated"), HOSTILE, seeds=(1,))
    publish_report(made.run)
    return made.folder / layout.REPORT, trials_of(made)


@pytest.fixture
def page_of(browser: Browser, study: tuple[Path, Trials]) -> Iterator[Opened]:
    """The page, which must have asked for nothing and complained of nothing when the test ends."""
    folder, _ = study
    opened = open_page(browser, folder / "rate.html")
    yield opened
    assert opened.complaints == []
    assert all(url.startswith((folder.as_uri(), "blob:")) for url in opened.requests), opened.requests
    assert opened.page.evaluate("window.hacked") is None
    opened.page.context.close()


def all_choices(trials: Trials, salt: int = 0) -> dict[int, Choice]:
    return {at: choice_of(trials, at, salt) for at in range(len(trials.trials))}


def test_a_session_by_keys_is_saved_to_the_byte(page_of: Opened, study: tuple[Path, Trials], tmp_path: Path) -> None:
    page, (_, trials) = page_of.page, study
    choices = all_choices(trials)
    begin(page, "anna")
    rate(page, trials, choices)
    expect(page.locator("#finished")).to_have_text("All answered. Thank you!")
    expect(page.locator("#finished")).to_be_focused()
    expect_file(page, trials, "anna", choices)
    page.keyboard.press("Tab")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == f"ratings-{trials.run}-anna.json"
    download.value.save_as(tmp_path / "saved.json")
    assert (tmp_path / "saved.json").read_bytes() == file_of(trials, "anna", choices).encode()


def test_a_session_by_taps_on_a_phone(browser: Browser, study: tuple[Path, Trials]) -> None:
    folder, trials = study
    opened = open_page(browser, folder / "rate.html", width=390, has_touch=True, is_mobile=True)
    page, choices = opened.page, all_choices(trials, salt=1)
    page.locator("#name").fill("\u00c5sa \u4e2d \U0001f600")
    page.get_by_role("button", name="Begin").tap()
    for trial in list(choices)[:2]:
        expect_trial(page, trials, trial)
        sizes = [box for button in page.locator("button:visible").all() if (box := button.bounding_box())]
        assert all(box["height"] >= 44 and box["width"] >= 44 for box in sizes)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        by_taps(page, choices[trial])
    rate(page, trials, dict(list(choices.items())[2:]), by_taps)
    expect_file(page, trials, "\u00c5sa \u4e2d \U0001f600", choices)
    page.locator("#copy").tap()
    expect(page.locator("#copied")).to_have_text("Copied.")
    assert opened.complaints == []
    page.context.close()


def test_any_number_of_answers_is_taken_back(page_of: Opened, study: tuple[Path, Trials]) -> None:
    page, (_, trials) = page_of.page, study
    begin(page, "anna")
    rate(page, trials, {at: Choice(0, 1) for at in range(4)})
    expect_trial(page, trials, 4)
    page.keyboard.press("2")
    expect(page.locator("button.best[aria-pressed=true]")).to_have_count(1)
    page.keyboard.press("ArrowLeft")  # takes off the mark alone
    expect(page.locator("button.best[aria-pressed=true]")).to_have_count(0)
    for trial, undo in ((3, "ArrowLeft"), (2, "Backspace"), (1, None), (0, "ArrowLeft")):
        if undo is None:
            page.locator("#undo").click()
        else:
            page.keyboard.press(undo)
        expect_trial(page, trials, trial)
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#undo")).to_have_attribute("aria-disabled", "true")
    choices = all_choices(trials, salt=2)
    rate(page, trials, choices)
    expect_file(page, trials, "anna", choices)
    last = len(trials.trials) - 1
    page.locator("#change").click()
    rate(page, trials, {last: Choice()})
    expect_file(page, trials, "anna", choices | {last: Choice()})


def test_half_a_session_goes_on_once_the_browser_was_closed(
    browser: Browser, study: tuple[Path, Trials], tmp_path: Path
) -> None:
    folder, trials = study
    choices = all_choices(trials)
    half = dict(list(choices.items())[:5])
    with of_a_person(browser, tmp_path / "person") as context:
        page = opened_in(context, folder / "rate.html").page
        begin(page, "anna")
        rate(page, trials, half)
        expect_trial(page, trials, 5)
    with of_a_person(browser, tmp_path / "person") as context:
        opened = opened_in(context, folder / "rate.html")
        page = opened.page
        begin(page, "another")  # has a session of their own
        expect_trial(page, trials, 0)
        page.reload()
        page.get_by_role("button", name=f"Go on as anna: 5 of {len(choices)} answered").click()
        rate(page, trials, {at: choice for at, choice in choices.items() if at not in half})
        expect_file(page, trials, "anna", choices)
        assert opened.complaints == []


def test_a_file_goes_on_in_another_browser_and_comes_out_as_it_went_in(
    browser: Browser, page_of: Opened, study: tuple[Path, Trials], tmp_path: Path
) -> None:
    folder, trials = study
    choices = all_choices(trials, salt=3)
    half = dict(list(choices.items())[:6])
    begin(page_of.page, "anna")
    rate(page_of.page, trials, half)
    expect_trial(page_of.page, trials, 6)
    page_of.page.locator("#pause").click()
    expect_file(page_of.page, trials, "anna", half)
    saved = tmp_path / "half.json"
    with page_of.page.expect_download() as download:
        page_of.page.locator("#download").click()
    download.value.save_as(saved)
    other = open_page(browser, folder / "rate.html")
    other.page.locator("#import").set_input_files(saved)
    expect_trial(other.page, trials, 6)
    other.page.locator("#pause").click()
    expect(other.page.locator("#file")).to_have_value(saved.read_text())
    other.page.locator("#go-on").click()
    rate(other.page, trials, {at: choice for at, choice in choices.items() if at not in half})
    expect_file(other.page, trials, "anna", choices)
    assert other.complaints == []
    other.page.context.close()


def test_files_that_are_not_of_this_page_are_refused(
    page_of: Opened, study: tuple[Path, Trials], tmp_path: Path
) -> None:
    page, (_, trials) = page_of.page, study
    good = json.loads(file_of(trials, "anna", {0: Choice(0, 1), 2: Choice()}))
    vote = good["votes"][0]
    refused = {
        "no JSON": "not a file of answers",
        "[1]": "not a file of answers",
        json.dumps({"format": "another"}): "not a file of answers",
        as_text(good | {"format": "lora-job/ratings/2"}): "another version",
        as_text(good | {"page": "0" * 64}): "another page",
        as_text(good | {"question": "Another?"}): "altered",
        json.dumps(good | {"rater": "bert"}): "altered",
        as_text(good | {"rater": "two\nlines"}): "characters that print",
        as_text(good | {"trials": 1}): "altered",
        as_text(good | {"more": 1}): "altered",
        as_text(good | {"votes": None}): "altered",
        as_text(good | {"votes": [vote, vote]}): "altered",
        as_text(good | {"votes": good["votes"][::-1]}): "altered",
    } | {
        as_text(good | {"votes": [vote | change]}): "altered"
        for change in ({"best": 1}, {"best": 3}, {"worst": "1"}, {"trial": 999}, {"trial": "length"}, {"pictures": []})
    }
    for text, why in refused.items():
        (tmp_path / "file.json").write_text(text)
        page.locator("#refused").evaluate("element => { element.textContent = ''; }")
        page.locator("#import").set_input_files(tmp_path / "file.json")
        expect(page.locator("#refused")).to_contain_text(why)
        expect(page.locator("#begin")).to_be_visible()
    (tmp_path / "file.json").write_text(as_text(good))
    page.locator("#import").set_input_files(tmp_path / "file.json")
    expect_trial(page, trials, 1)


def test_names_that_cannot_be_kept_are_refused(page_of: Opened) -> None:
    page = page_of.page
    for name, why in (("   ", "enter a name"), ("n" * 65, "at most 64"), ("a\u202eb", "print")):
        page.locator("#name").fill(name)
        page.keyboard.press("Enter")
        expect(page.locator("#refused")).to_contain_text(why)
        expect(page.locator("#begin")).to_be_visible()


def test_prompts_are_shown_as_they_are(page_of: Opened, study: tuple[Path, Trials]) -> None:
    page, (_, trials) = page_of.page, study
    begin(page, "anna")
    seen = set()
    for at, trial in enumerate(trials.trials):
        expect_trial(page, trials, at)
        prompt = trials.prompts[trial.prompt]
        expect(page.locator("#prompt")).to_have_text(printable(prompt) or "(empty prompt)")
        seen.add(prompt)
        shown = page.locator("#pictures figure:visible img").evaluate_all("images => images.map(i => i.src)")
        assert [source.rpartition("/")[2] for source in shown] == [f"{p.name}.webp" for p in trial.pictures]
        page.keyboard.press("0")
    assert seen == set(HOSTILE)
    assert page.locator("main script, main iframe, main link, main style, img[src=x]").count() == 0


def test_a_browser_that_keeps_nothing_says_so_and_saves_all_the_same(
    browser: Browser, study: tuple[Path, Trials]
) -> None:
    folder, trials = study
    context = browser.new_context()
    context.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } });"
    )
    opened = opened_in(context, folder / "rate.html")
    begin(opened.page, "anna")
    expect(opened.page.locator("#unkept")).to_be_visible()
    choices = all_choices(trials)
    rate(opened.page, trials, choices)
    expect_file(opened.page, trials, "anna", choices)
    assert opened.complaints == []
    with opened.page.expect_event("dialog") as asked:
        opened.page.close(run_before_unload=True)
    assert asked.value.type == "beforeunload"
    context.close()


def test_two_tabs_of_one_rater_do_not_lose_answers(browser: Browser, study: tuple[Path, Trials]) -> None:
    folder, trials = study
    context = browser.new_context()
    first, second = (opened_in(context, folder / "rate.html").page for _ in range(2))
    begin(first, "anna")
    rate(first, trials, {0: Choice(0, 1)})
    begin(second, "anna")
    rate(second, trials, {1: Choice(1, 0)})
    expect_trial(first, trials, 2)
    rate(first, trials, {2: Choice()})
    expect_trial(second, trials, 3)
    second.locator("#pause").click()
    expect_file(second, trials, "anna", {0: Choice(0, 1), 1: Choice(1, 0), 2: Choice()})
    context.close()


def test_a_trial_without_all_its_pictures_cannot_be_answered(
    browser: Browser, study: tuple[Path, Trials], tmp_path: Path
) -> None:
    folder, trials = study
    shutil.copytree(folder, tmp_path / "report")
    (tmp_path / "report" / "rating" / f"{trials.trials[0].pictures[1].name}.webp").unlink()
    opened = open_page(browser, tmp_path / "report" / "rate.html")
    begin(opened.page, "anna")
    expect(opened.page.locator("#lost")).to_be_visible()
    opened.page.keyboard.press("0")
    opened.page.locator("#pause").click()
    expect_file(opened.page, trials, "anna", {})
    opened.page.context.close()


def test_its_policy_lets_nothing_else_run_and_nothing_out(browser: Browser, study: tuple[Path, Trials]) -> None:
    opened = open_page(browser, study[0] / "rate.html")
    page = opened.page
    page.evaluate("""() => {
      const script = document.createElement("script");
      script.textContent = "window.hacked = 3";
      document.body.append(script);
      document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.hacked = 4'>");
    }""")
    assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    assert page.evaluate("window.hacked") is None
    assert any("Content Security Policy" in each for each in opened.complaints)
    page.context.close()


def test_its_hash_is_that_of_others(page_of: Opened) -> None:
    texts = ["", "abc", "\u00e4\u4e2d\U0001f600", *("x" * length for length in (55, 56, 63, 64, 65, 119, 120, 5000))]
    found = page_of.page.evaluate("texts => texts.map(sha256)", texts)
    assert found == [hashlib.sha256(text.encode()).hexdigest() for text in texts]


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "dark"),
        pytest.param(1440, "light", marks=pytest.mark.slow),
        pytest.param(390, "light", marks=pytest.mark.slow),
        pytest.param(1440, "dark", marks=pytest.mark.slow),
    ],
)
def test_it_fits_and_is_accessible(browser: Browser, study: tuple[Path, Trials], width: int, scheme: str) -> None:
    folder, trials = study
    opened = open_page(browser, folder / "rate.html", width=width, scheme=scheme, reduced_motion="reduce")
    page = opened.page

    def check(state: str) -> None:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), state
        violations = Axe().run(page).response["violations"]
        assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in violations] == [], state

    check("begin")
    begin(page, "anna")
    expect_trial(page, trials, 0)
    check("trial")
    page.keyboard.press("1")
    expect(page.locator("button.best[aria-pressed=true]")).to_have_count(1)
    check("marked")
    outline = page.locator("#none")
    outline.focus()
    assert outline.evaluate("element => getComputedStyle(element).outlineStyle") != "none"
    page.locator("#pause").click()
    check("end")
    page.reload()
    expect(page.locator("#sessions button")).to_have_count(1)
    check("again")
    assert opened.complaints == []
    page.context.close()
