"""What is said of a dataset's files: every file once, and a warning of what is odd."""

from lora_engine.images.fates import data_warnings, fates_of, sentence
from lora_engine.images.kinds import HIDDEN, LEFT_BEHIND, REGULARISATION
from lora_engine.records import ImageRecord


def used(at: int, split: str = "train", group: str | None = None, side: int = 64, **more: bool) -> ImageRecord:
    name = f"{at:064x}"
    return ImageRecord(name, f"{at}.png", 9, side, side + 1, group or name, split, **more)  # type: ignore[arg-type]


def ignored(source: str, why: str | None) -> ImageRecord:
    return ImageRecord("", source, 9, ignored=True, why_ignored=why)


def rejected(source: str, why: str) -> ImageRecord:
    return ImageRecord("", source, 9, rejected=why)


def warnings(records: list[ImageRecord]) -> list[str]:
    return list(data_warnings(records, fates_of(records, 64)))


def test_a_plain_dataset_is_one_plain_sentence() -> None:
    records = [used(0, "validation"), *map(used, range(1, 9))]
    assert sentence(records, fates_of(records, 64)) == "Data: 9 images used, 8 trained on and 1 held out."
    assert warnings(records) == []


def test_every_kind_of_file_is_counted_once_and_named() -> None:
    records = [
        used(0, "validation", side=63),
        used(1, uniform=True),
        *(used(at, group="g") for at in (2, 3, 4)),
        used(5),
    ]
    records += [rejected("a.png", "truncated"), rejected("b.png", "truncated"), rejected("c.png", "the file is empty")]
    records += [ignored("README.md", "not an image (.md)"), ignored("Thumbs.db", None), ignored(".x", HIDDEN)]
    records += [ignored("d.npz", "not an image (.npz)"), ignored("e.npz", "not an image (.npz)")]
    records.append(ImageRecord("0", "copy.png", 9, 64, 64, duplicate_of="0.png"))
    fates = fates_of(records, 64)
    assert (fates.files, fates.train, fates.validation, fates.duplicates) == (len(records), 5, 1, 1)
    assert (fates.groups, fates.near_duplicate_groups, fates.uniform, fates.enlarged) == (4, 1, 1, 1)
    assert fates.rejected == {"the file is empty": 1, "truncated": 2}
    assert (fates.ignored, fates.ignored_because[LEFT_BEHIND]) == (5, 1)  # an earlier version knew one reason alone
    assert fates.ignored == sum(fates.ignored_because.values())
    assert sentence(records, fates) == (
        "Data: 6 images used, 5 trained on and 1 held out; "
        "5 ignored (2 not an image (.npz), such as d.npz; "
        "1 hidden, as its name or its folder's begins with a dot, such as .x; "
        "1 left behind by a system, such as Thumbs.db; 1 for other reasons, see data/images.jsonl of a run); "
        "3 rejected (2 truncated, such as a.png; 1 the file is empty, such as c.png); "
        "1 copy of another file; 1 group of near-duplicates; 1 all of one colour; "
        "1 smaller than the resolution, so enlarged."
    )


def test_what_is_odd_is_warned_of() -> None:
    plain = [used(at) for at in range(10)]
    assert warnings([*plain, *(ignored(f"{at}.md", "not an image (.md)") for at in range(40))]) == []
    (closed,) = warnings([*plain, ignored("more.zip", "an archive; archives within the dataset are not opened")])
    assert "more.zip" in closed
    (blank,) = warnings([*plain, used(10, uniform=True)])
    assert blank == "1 image all of one colour: remove what shows nothing, such as 10.png."
    (small,) = warnings([*plain, *(used(at, side=32) for at in range(10, 21))])
    assert small.startswith("11 of 21 images are smaller than preprocess.resolution")
    (aside,) = warnings([*plain, *(ignored(f"reg/{at}.png", REGULARISATION) for at in range(20))])
    assert aside.startswith("20 pictures in a folder of regularisation images")


def test_names_that_are_no_plain_text_do_not_make_more_lines() -> None:
    records = [used(0), rejected("x" * 500 + ".png", "reason " * 100)]
    assert len(sentence(records, fates_of(records, 64))) < 250
