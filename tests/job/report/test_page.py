"""The report's page in a real browser: what it shows, does, asks for, and how it takes hostile texts."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser

from job.report.page.gallery import Gallery
from lora_engine import miniature as miniature_data
from tests.browser import Opened, open_page, started
from tests.job.small_run import arguments
from tests.lora_job import lora_job

HOSTILE = [
    "<script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 2">',
    "</script><script>window.hacked = 3</script>",
    "{{ 7 * 7 }} {% raw %}",
    "right \u202eto left, 'quoted' & more",
]
SAMPLES = json.dumps({"prompts": ["a heart", *HOSTILE], "steps": 1, "seeds": [0]})
NAMED = "<img src=x onerror=window.hacked=4>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as browser:
        yield browser


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, miniature: Path) -> Path:
    """A finished run of two variants and two seeds, with prompts, captions and file names that mean harm."""
    folder = tmp_path_factory.mktemp("page")
    images = folder / "images"
    images.mkdir()
    for at, path in enumerate(sorted(miniature_data.folder("drawings").glob("*-100000.png"))[:12]):
        name = f"{NAMED} {at}" if at < 3 else path.stem
        shutil.copy(path, images / f"{name}.png")
        (images / f"{name}.txt").write_text(HOSTILE[at % len(HOSTILE)])
    (images / "broken <b>.png").write_bytes(b"no picture")
    own = "{name: own, captions: {strategy: existing}}"
    vanilla = "{name: vanilla, captions: {strategy: constant, text: a <b>drawing</b>}}"
    lines = [
        f"dataset.source={images}",
        f"variants=[{vanilla}, {own}]",
        f"evaluation.samples={SAMPLES}",
        "seeds=[1, 2]",
        "preprocess.max_rejected_fraction=0.5",
    ]
    done = lora_job("run", *arguments(miniature, folder, *lines))
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "small"


@pytest.fixture
def opened(browser: Browser, run: Path) -> Iterator[Opened]:
    """The page, which must have asked for nothing and complained of nothing when the test ends."""
    opened = open_page(browser, run / "report" / "report.html")
    yield opened
    assert opened.complaints == []
    assert all(url.startswith((run / "report").as_uri()) for url in opened.requests), opened.requests
    assert opened.page.evaluate("window.hacked") is None
    opened.page.context.close()


def at(comparison: Any, path: str) -> Any:
    """The value at a path as the page writes it."""
    found = comparison
    for key, index, quoted in re.findall(r'\.?(\w+)|\[(\d+)\]|\["((?:[^"\\]|\\.)*)"\]', path):
        found = found[int(index)] if index else found[key or quoted.replace('\\"', '"').replace("\\\\", "\\")]
    return found


def number(text: str) -> tuple[float, float]:
    """A number as the page shows it, and how far that may be from the number itself by rounding."""
    plain = text.replace("\u2212", "-").replace(",", "")
    share = plain.endswith("%")
    mantissa, _, exponent = plain.rstrip("%").lower().partition("e")
    digits = len(mantissa.partition(".")[2])
    unit = 10.0 ** (int(exponent or 0) - digits) * (0.01 if share else 1)
    return float(plain.rstrip("%")) * (0.01 if share else 1), 0.5000001 * unit


def test_every_number_is_that_of_the_comparison(opened: Opened, run: Path) -> None:
    comparison = json.loads((run / "report" / "comparison.json").read_text())
    shown = opened.page.evaluate(
        "[...document.querySelectorAll('data[data-path]')].map(e => [e.dataset.path, e.value, e.textContent])"
    )
    assert len(shown) > 100
    for path, value, text in shown:
        stored = at(comparison, path)
        assert float(value) == stored, path
        near, rounding = number(text)
        assert abs(near - stored) <= rounding, (path, text, stored)


def test_every_other_text_with_a_path_is_that_of_the_comparison(opened: Opened, run: Path) -> None:
    comparison = json.loads((run / "report" / "comparison.json").read_text())
    shown = opened.page.evaluate(
        "[...document.querySelectorAll(':not(data):not(g)[data-path]')].map(e => [e.dataset.path, e.textContent])"
    )
    assert ["verdict.headline", comparison["verdict"]["headline"]] in shown
    for path, text in shown:
        stored = at(comparison, path)
        if isinstance(stored, str) and stored.isprintable():
            assert text == stored, path
        elif stored is None:
            assert text == "-", path


def test_no_number_stands_on_the_page_without_its_path(opened: Opened) -> None:
    found = opened.page.evaluate("""() => {
      const texts = [];
      const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
      while (walker.nextNode()) {
        const node = walker.currentNode;
        if (!/[0-9]/.test(node.data)) continue;
        if (node.parentElement.closest('[data-path], [data-verbatim], svg, script, select, output')) continue;
        texts.push(node.data.trim());
      }
      return texts;
    }""")
    allowed = {"smallest difference that 8 of 10 such studies find"}
    assert [text for text in found if text not in allowed and not re.search("line at 0|below 0|Show all", text)] == []


def pictures(opened: Opened) -> list[str]:
    """What the cells of the table of pictures show: the source of an image, or words."""
    return opened.page.evaluate(
        "[...document.querySelectorAll('button.picture')].map(b => b.querySelector('img')?.src ?? b.textContent)"
    )


def widths(opened: Opened) -> list[int]:
    """How many pixels wide the pictures of the table are, once they are there."""
    load = "async images => { await Promise.all(images.map(i => i.decode())); return images.map(i => i.naturalWidth); }"
    return opened.page.locator(".picture img").evaluate_all(load)


def test_slider_and_switch_change_every_picture(opened: Opened) -> None:
    page = opened.page
    last = pictures(opened)
    assert len(last) == 2 * (1 + len(HOSTILE))
    assert all(source.startswith("data:image/webp") for source in last)
    page.locator("#step").fill("0")
    assert page.locator("#step-name").inner_text() == "base model"
    base = pictures(opened)
    assert all(ours != theirs for ours, theirs in zip(base, last, strict=True))
    page.locator("#step").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#step-name").inner_text() == "step 2"
    middle = pictures(opened)
    assert all("/report/pictures/" in source for source in middle)
    assert set(widths(opened)) == {64}
    page.locator(".picture").first.focus()
    page.keyboard.press("ArrowRight")
    assert pictures(opened) == last
    page.get_by_label("bare", exact=True).check()
    bare = pictures(opened)
    assert bare[0] != last[0], "vanilla draws another picture bare"
    assert bare[1] == last[1], "own captions have no text around them"
    page.locator("#training-seed").select_option("2")
    assert all(ours != theirs for ours, theirs in zip(pictures(opened), bare, strict=True))


def test_a_picture_is_enlarged_beside_another(opened: Opened) -> None:
    page = opened.page
    assert not page.locator("dialog").is_visible()
    page.locator(".picture").nth(2).click()
    assert page.locator("#zoom-title").inner_text() == HOSTILE[0]
    sources = page.locator(".frame img").evaluate_all("images => images.map(i => i.src)")
    assert len(set(sources)) == 2
    assert [page.locator(f"#{side} select.step").input_value() for side in ("left", "right")] == ["2", "2"]
    assert [page.locator(f"#{side} select.variant").input_value() for side in ("left", "right")] == ["0", "1"]
    assert page.locator(".frame img").evaluate_all("images => images.map(i => i.src)") == pictures(opened)[2:4]
    page.locator("#right select.step").select_option("0")
    assert page.locator(".frame img").evaluate_all("images => images.map(i => i.src)")[1] != pictures(opened)[3]
    page.keyboard.press("Escape")
    page.locator(".picture").first.press("Enter")
    page.keyboard.press("ArrowRight")
    assert page.locator("#zoom-title").inner_text() == HOSTILE[0]
    page.locator("#close").click()
    assert not page.locator("dialog").is_visible()


def test_texts_of_others_are_shown_as_they_are(opened: Opened) -> None:
    page = opened.page
    rows = page.locator("table.pictures tbody th bdi").all_inner_texts()
    assert rows == ["a heart", *(text.replace("\u202e", "\\u202e") for text in HOSTILE)]
    captions = page.locator("table.images tbody").inner_text()
    assert all(text in captions for text in [NAMED, *HOSTILE[:4]])
    assert "broken <b>.png" in page.locator("#captions").inner_text()
    assert page.locator("main script, main iframe, main object, main link, main style").count() == 0
    assert page.locator("main img[src='x']").count() == 0


def test_captions_can_be_searched(opened: Opened) -> None:
    rows = opened.page.locator("table.images tbody tr")
    every = rows.count()
    opened.page.locator("#search").fill("7 * 7")
    assert 0 < rows.filter(visible=True).count() < every
    opened.page.locator("#search").fill("")
    assert rows.filter(visible=True).count() == every


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "dark"),
        (1440, "light"),
        pytest.param(390, "light", marks=pytest.mark.slow),
        pytest.param(1440, "dark", marks=pytest.mark.slow),
    ],
)
def test_it_fits_and_is_accessible(browser: Browser, run: Path, width: int, scheme: str) -> None:
    opened = open_page(browser, run / "report" / "report.html", width=width, scheme=scheme)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for details in page.locator("details").all():
        details.evaluate("element => { element.open = true; }")
    for state in ("page", "zoom"):
        if state == "zoom":
            page.locator(".picture").first.click()
        violations = Axe().run(page).response["violations"]
        assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in violations] == [], state
    assert opened.complaints == []
    page.context.close()


def test_the_folder_of_the_report_is_whole(browser: Browser, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "report", tmp_path / "elsewhere")
    opened = open_page(browser, tmp_path / "elsewhere" / "report.html")
    opened.page.locator("#step").fill("1")
    assert set(widths(opened)) == {64}
    assert opened.complaints == []
    opened.page.context.close()


def test_a_page_alone_says_which_pictures_it_lacks(browser: Browser, run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "report" / "report.html", tmp_path / "alone.html")
    opened = open_page(browser, tmp_path / "alone.html")
    assert set(widths(opened)) == {64}
    opened.page.locator("#step").fill("1")
    opened.page.get_by_text("not beside this page").first.wait_for()
    opened.page.context.close()


def test_a_report_is_rebuilt_to_the_byte_and_leaves_no_pictures_behind(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    stale = copy / "report" / "pictures" / "0123456789abcdef.webp"
    stale.write_bytes(b"of an earlier report")
    before = (copy / "report" / "report.html").read_bytes()
    assert lora_job("report", copy).returncode == 0
    assert (copy / "report" / "report.html").read_bytes() == before
    assert not stale.exists()


@pytest.mark.slow
def test_a_page_of_large_pictures_is_below_five_megabytes(browser: Browser, run: Path, tmp_path: Path) -> None:
    copy, random = tmp_path / "run", np.random.default_rng(0)
    shutil.copytree(run, copy)
    for index in (copy / "variants").glob("*/seed-1/samples/*/samples.json"):
        found = json.loads(index.read_text())
        for image in found["images"]:
            pixels = random.integers(0, 256, (512, 512, 3), np.uint8)
            Image.fromarray(pixels).save(index.parent / image["file"], compress_level=0)
            image["sha256"] = ""  # as an earlier version left it
        for setting in found["settings"]["settings"]:
            setting |= {"width": 512, "height": 512}
        index.write_text(json.dumps(found))
    assert lora_job("report", copy).returncode == 0
    page = copy / "report" / "report.html"
    assert 4_000_000 < page.stat().st_size < 5_000_000
    opened = open_page(browser, page)
    sources = pictures(opened)
    assert sources[0].startswith("data:image/webp")
    assert sources[-1].startswith((copy / "report" / "pictures").as_uri())
    assert set(widths(opened)) == {512}
    assert opened.complaints == []
    opened.page.context.close()


def test_what_somebody_else_put_beside_the_page_stays(run: Path, tmp_path: Path) -> None:
    copy, others = tmp_path / "run", tmp_path / "others"
    shutil.copytree(run, copy)
    others.mkdir()
    (others / "mine.txt").write_text("mine")
    shutil.rmtree(copy / "report" / "pictures")
    (copy / "report" / "pictures").symlink_to(others)
    (others / "below").mkdir()
    (others / "below" / "0123456789abcdef.webp").write_bytes(b"mine, too")
    assert lora_job("report", copy).returncode == 0
    assert (others / "mine.txt").read_text() == "mine"
    assert (others / "below" / "0123456789abcdef.webp").exists()


def test_a_sample_that_is_not_the_one_in_its_index_is_named(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    first, second = sorted((copy / "variants").glob("own/seed-1/samples/step-000004/prompt-0[01]-*.png"))
    shutil.copy(second, first)
    shutil.rmtree(copy / "report")
    done = lora_job("report", copy)
    assert (done.returncode, str(first) in done.stderr) == (46, True), done.stderr


def test_a_large_seed_of_training_is_not_rounded_by_the_script() -> None:
    assert Gallery(seeds=(2**53 + 1,)).as_json({})["seeds"] == ["9007199254740993"]
