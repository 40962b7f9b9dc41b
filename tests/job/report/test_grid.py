"""What a grid of pictures shows: pictures as they are, texts whole, and as many rows as fit a budget."""

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib import get_data_path
from PIL import Image, ImageFont

from job.report.grid import Block, Grid, Picture, Row, Tile, draw_grid, grid_size, largest_that_fits
from job.report.lettering import DETAIL, HEADING, LABEL, TITLE, WORDS, Style, wrap

LONG = "a line drawing of an anchor, thin even lines, no shading, simple flat icon, centred, on white paper"
HOSTILE = {
    "control characters": "one\ntwo\r\nthree\0four\x1b[31m",
    "right to left": "עברית العربية \u202eback to front\u202c",
    "emoji": "an otter 🦦 and a family 👨‍👩‍👧 and a smile 😀",
    "no glyphs": "日本語のプロンプト",
    "lone surrogate": "half \ud83d of a pair",
    "markup": "{trigger} <script>alert(1)</script> &amp; $x^2$ %s \\n",
    "combining": "e" + "\u0301" * 500,
    "no space": "x" * 2000,
}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture of random pixels, which no other part of a grid looks like."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def tile(image: Image.Image) -> Picture:
    return Picture(image.size, lambda: image)


def grid_of(*tiles: Tile, label: str = "a prompt", detail: str = "seed 0", max_side: int = 512) -> Grid:
    """A grid of one row."""
    columns = tuple(f"step {100 * at}" for at in range(len(tiles)))
    return Grid(columns, (Block("variant", (Row(label, detail, tiles),)),), max_side=max_side)


def drawn(grid: Grid) -> npt.NDArray[np.uint8]:
    """The pixels [y, x, RGB] of the grid."""
    with Image.open(io.BytesIO(draw_grid(grid)), formats=("PNG",)) as image:
        return np.asarray(image)


def place(canvas: npt.NDArray[np.uint8], picture: Image.Image) -> tuple[int, int]:
    """Where the picture's top left corner is, as x and y; all of its pixels must be there once, and unchanged."""
    pixels = np.asarray(picture)
    height, width = pixels.shape[:2]
    corners = np.argwhere((canvas == pixels[0, 0]).all(axis=2))
    (found,) = [(x, y) for y, x in corners if np.array_equal(canvas[y : y + height, x : x + width], pixels)]
    return found


def ink(canvas: npt.NDArray[np.uint8]) -> int:
    """How many pixels are dark."""
    return int((canvas.max(axis=2) < 128).sum())


def test_pictures_are_shown_pixel_by_pixel_in_columns_and_rows() -> None:
    pictures = [[noise(64, 64, 3 * row + at) for at in range(3)] for row in range(2)]
    rows = tuple(Row(f"prompt {at}", "", tuple(map(tile, row))) for at, row in enumerate(pictures))
    canvas = drawn(Grid(("base model", "step 1", "step 2"), (Block("variant", rows),)))
    places = np.array([[place(canvas, picture) for picture in row] for row in pictures])
    assert (places[0, :, 1] == places[0, 0, 1]).all()  # a row is level
    assert (places[:, 0, 0] == places[0, 0, 0]).all()  # a column is plumb
    assert (np.diff(places[..., 0], axis=1) >= 64).all()
    assert (np.diff(places[..., 1], axis=0) >= 64).all()


def test_a_frame_tells_a_white_picture_from_the_paper_and_covers_none_of_it() -> None:
    picture = noise(64, 48)
    canvas = drawn(grid_of(tile(picture)))
    x, y = place(canvas, picture)
    around = canvas[y - 1 : y + 49, x - 1 : x + 65].copy()
    around[1:-1, 1:-1] = around[0, 0]
    assert (around == around[0, 0]).all()
    assert not (around[0, 0] == 255).all()
    assert (canvas[y - 2, x - 2 : x + 66] == 255).all()


def test_pictures_of_mixed_sizes_keep_theirs() -> None:
    pictures = [noise(512, 768, 1), noise(64, 64, 2), noise(300, 200, 3), noise(1, 1, 4)]
    canvas = drawn(grid_of(*map(tile, pictures), max_side=768))
    places = [place(canvas, picture) for picture in pictures]
    assert len({y for _, y in places}) == 1
    ends = [x + picture.width for (x, _), picture in zip(places, pictures, strict=True)]
    assert all(end < x for end, (x, _) in zip(ends, places[1:], strict=False))


def test_only_a_picture_over_the_limit_is_scaled_and_a_note_says_so() -> None:
    small = noise(64, 64)
    at_limit, over = (grid_of(tile(small), tile(Image.new("RGB", (side, 2 * side), "red"))) for side in (256, 300))
    for grid in (at_limit, over):
        canvas = drawn(grid)
        place(canvas, small)
        red = np.argwhere((canvas == (255, 0, 0)).all(axis=2))
        assert (np.ptp(red, axis=0) + 1).tolist() == [512, 256]
    assert grid_size(over)[1] > grid_size(at_limit)[1]


def test_a_picture_of_any_mode_is_shown() -> None:
    grey = noise(64, 64).convert("L")
    place(drawn(grid_of(tile(grey))), grey.convert("RGB"))


def test_pictures_are_opened_one_by_one_and_only_to_be_drawn() -> None:
    opened = []

    def lazy(at: int) -> Picture:
        def open_it() -> Image.Image:
            opened.append(at)
            return noise(64, 64, at)

        return Picture((64, 64), open_it)

    grid = grid_of(*map(lazy, range(3)))
    grid_size(grid)
    assert opened == []
    draw_grid(grid)
    assert opened == [0, 1, 2]


def test_a_picture_of_another_size_than_it_was_to_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(64, 32\) pixels and was to be of \(64, 64\)"):
        draw_grid(grid_of(Picture((64, 64), lambda: noise(64, 32))))


def test_a_row_has_one_tile_a_column() -> None:
    with pytest.raises(ValueError, match="1 tiles for 2 columns"):
        draw_grid(Grid(("base model", "step 1"), (Block("variant", (Row("prompt", "", (None,)),)),)))


@pytest.mark.parametrize("words", ["not finite", "missing", "the file is missing", LONG, "x" * 200])
def test_words_are_whole_in_the_place_of_a_picture(words: str) -> None:
    picture = noise(64, 64)
    canvas = drawn(grid_of(tile(picture), words))
    x, y = place(canvas, picture)
    right_of_it = canvas[y:, x + 64 :]
    grey, dark = (right_of_it == (0xF3, 0xF3, 0xF3)).all(axis=2), right_of_it.max(axis=2) < 128
    (top, left), (bottom, right) = np.argwhere(grey).min(axis=0), np.argwhere(grey).max(axis=0)
    assert top == 0
    assert bottom == 63 if len(words) < 20 else bottom > 63
    assert dark[top : bottom + 1, left + 4 : right - 3].sum() == dark.sum() > 0


def test_words_have_as_much_room_as_the_pictures_beside_them() -> None:
    assert grid_size(grid_of("not finite", tile(noise(200, 300)))) == grid_size(
        grid_of(tile(noise(200, 300)), tile(noise(200, 300)))
    )


def test_an_empty_place_stays_white() -> None:
    picture = noise(64, 64)
    canvas = drawn(grid_of(tile(picture), None))
    x, y = place(canvas, picture)
    assert (canvas[y : y + 64, x + 66 :] == 255).all()


@pytest.mark.parametrize("style", [TITLE, HEADING, LABEL, DETAIL, WORDS], ids=lambda style: f"{style.size}")
@pytest.mark.parametrize("width", [68, 260])
@pytest.mark.parametrize("text", [LONG, LONG * 5, *HOSTILE.values()], ids=["long", "very long", *HOSTILE])
def test_lines_fit_and_together_are_the_whole_text(text: str, width: int, style: Style) -> None:
    lines = wrap(text, style, width)
    path = f"{get_data_path()}/fonts/ttf/{style.file}"
    font = ImageFont.truetype(path, style.size, layout_engine=ImageFont.Layout.BASIC)
    assert max(map(font.getlength, lines)) <= width
    assert all(line.isprintable() for line in lines)
    (whole,) = wrap(text, style, 10**6)
    assert "".join(lines).replace(" ", "") == whole.replace(" ", "")
    if text.isascii() and text.isprintable():
        assert whole == text


def test_lines_break_at_spaces() -> None:
    lines = wrap(LONG, LABEL, 260)
    assert len(lines) > 1
    assert " ".join(lines) == LONG


def test_what_has_no_glyph_is_told_apart() -> None:
    assert wrap("猫", LABEL, 260) == ("\\u732b",)
    assert wrap("犬\n🦦", LABEL, 260) == ("\\u72ac\\n\\U0001f9a6",)
    assert wrap("é ß Ж ש 😀", LABEL, 260) == ("é ß Ж ש 😀",)


def test_a_letter_wider_than_a_line_has_a_line() -> None:
    assert wrap("WWW", TITLE, 1) == ("W", "W", "W")


def test_blank_text_has_no_lines() -> None:
    assert wrap("", LABEL, 260) == wrap("   ", LABEL, 260) == ()


@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_any_text_is_drawn_anywhere(text: str) -> None:
    row = Row(text, text, (text, None))
    grid = Grid((text, "step 1"), (Block(text, (row,)),), (text,))
    canvas = drawn(grid)
    assert canvas.shape == (*reversed(grid_size(grid)), 3)
    assert ink(canvas) > 0
    assert (canvas[:, :10] == 255).all()  # the margins stay free
    assert (canvas[:, -10:] == 255).all()


def with_label(text: str) -> Grid:
    return grid_of(None, label=text)


def with_detail(text: str) -> Grid:
    return grid_of(None, detail=text)


def with_title(text: str) -> Grid:
    return Grid(("step 1",), (Block(text, (Row("prompt", "", (None,)),)),))


def with_heading(text: str) -> Grid:
    return Grid((text,), (Block("variant", (Row("prompt", "", (None,)),)),))


def with_words(text: str) -> Grid:
    return grid_of(text)


def with_note(text: str) -> Grid:
    return Grid(("step 1",), (Block("variant", ()),), (text,))


@pytest.mark.parametrize("made", [with_label, with_detail, with_title, with_heading, with_words, with_note])
def test_the_grid_grows_with_each_of_its_texts_and_shows_all_of_it(made: Callable[[str], Grid]) -> None:
    texts = ["word", LONG, LONG * 5, "x" * 2000]
    sizes = [grid_size(made(text)) for text in texts]
    assert len({width for width, _ in sizes}) == 1
    assert [height for _, height in sizes] == sorted({height for _, height in sizes})
    without, once, five_times = (ink(drawn(made(text))) for text in ("", LONG, LONG * 5))
    assert five_times - without == pytest.approx(5 * (once - without), rel=0.05)


def test_each_block_repeats_the_headings() -> None:
    row = Row("prompt", "", (None,))
    canvas = drawn(Grid(("base model",), tuple(Block(title, (row, row)) for title in ("a", "b", "c"))))
    headings = canvas[:, 290:].max(axis=2) < 128  # nothing else is right of the labels
    written = np.flatnonzero(headings.any(axis=1))
    groups = np.split(written, np.flatnonzero(np.diff(written) > 20) + 1)
    assert len(groups) == 3
    assert all(np.array_equal(headings[group], headings[groups[0]]) for group in groups)


def test_equal_grids_give_equal_bytes_without_metadata() -> None:
    first, second = (draw_grid(grid_of(tile(noise(64, 64)), "not finite", label=LONG)) for _ in range(2))
    assert first == second
    assert draw_grid(grid_of(tile(noise(64, 64)), "not finite", label=LONG[:-1])) != first
    with Image.open(io.BytesIO(first)) as image:
        assert (image.format, image.mode, image.info) == ("PNG", "RGB", {})


def test_what_is_empty_takes_no_room() -> None:
    row = Row("prompt", "", ())
    nothing, title, rows, note = (
        grid_size(Grid((), blocks, notes))[1]
        for blocks, notes in (
            ((), ()),
            ((Block("variant", ()),), ()),
            ((Block("variant", (row,)),), ()),
            ((), ("No samples.",)),
        )
    )
    assert nothing < title < rows
    assert nothing < note
    assert ink(drawn(Grid((), ()))) == 0
    assert ink(drawn(Grid((), (), ("No samples.",)))) > 0


def study(shown: int) -> Grid:
    """Three variants' samples of the first of 24 prompts, at eight steps."""
    tiles = tuple(Picture((512, 512), lambda: noise(512, 512)) for _ in range(8))
    rows = tuple(Row(f"prompt {at}: {LONG}", "seed 0", tiles) for at in range(shown))
    notes = () if shown == 24 else (f"{shown} of 24 prompts shown",)
    columns = tuple(f"step {100 * at}" for at in range(8))
    return Grid(columns, tuple(Block(name, rows) for name in ("a", "b", "c")), notes)


def pixels(grid: Grid) -> int:
    width, height = grid_size(grid)
    return width * height


def test_as_many_prompts_are_shown_as_fit_the_budget() -> None:
    found = largest_that_fits(study, 24)
    shown = len(found.blocks[0].rows)
    assert found.notes == (f"{shown} of 24 prompts shown",)
    assert 1 < shown < 24
    assert pixels(found) <= 24_000_000 < pixels(study(shown + 1))
    assert len(largest_that_fits(study, 24, pixels(study(7))).blocks[0].rows) == 7
    assert len(largest_that_fits(study, 24, pixels(study(7)) - 1).blocks[0].rows) == 6


def test_one_prompt_is_shown_though_it_does_not_fit() -> None:
    assert len(largest_that_fits(study, 24, 0).blocks[0].rows) == 1


def test_all_prompts_are_shown_where_they_fit() -> None:
    found = largest_that_fits(study, 24, 10**9, 10**6)
    assert len(found.blocks[0].rows) == 24
    assert found.notes == ()
