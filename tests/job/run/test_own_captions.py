"""What is used of the captions that came with images, and what is said of them."""

from pathlib import Path

from job.run.own_captions import FoundCaptions, find_own_captions
from lora_engine.records import ImageRecord, SourceFile


def used(source: str) -> ImageRecord:
    return ImageRecord(source, source, 1, group=source, split="train")


def copy_of(used_source: str, source: str) -> ImageRecord:
    return ImageRecord(used_source, source, 1, duplicate_of=used_source)


def find(tmp_path: Path, records: list[ImageRecord], texts: dict[str, str]) -> FoundCaptions:
    files = [SourceFile(record.source, str(tmp_path / "no image")) for record in records]
    for at, (key, text) in enumerate(texts.items()):
        (tmp_path / f"{at}").write_text(text)
        files.append(SourceFile(key, str(tmp_path / f"{at}")))
    return find_own_captions(files, records)


def test_all_is_counted(tmp_path: Path) -> None:
    records = [used(f"{name}.png") for name in "abcdef"]
    records.append(ImageRecord("", "broken.png", 1, rejected="broken"))
    texts = {"a.txt": "one\ntwo\nthree", "b.caption": "b", "c.txt": "", "broken.txt": "no image's\nthat is used"}
    texts["metadata.jsonl"] = (
        '{"file_name": "d.png", "text": "d"}\n{"file_name": "a.png", "text": "no"}\n{"file_name": "g.png", "text": "g"}'
    )
    texts["more/metadata.csv"] = "file_name,text\ne.png,e\ne.png,ee\n"
    texts["labels/metadata.csv"] = "image_id,label\n1,cat\n"
    found = find(tmp_path, records, texts)
    assert found.of == {"a.png": ("one", "two", "three"), "b.png": ("b",), "d.png": ("d",), "e.png": ("e", "ee")}
    assert found.without == ("c.png (c.txt is empty)", "f.png")
    facts = found.facts
    assert facts.sources == {".caption": 1, ".txt": 1, "metadata.csv": 1, "metadata.jsonl": 1}
    assert (facts.images, facts.missing, facts.from_copies, facts.several, facts.further) == (6, 2, 0, 2, 3)
    assert (facts.contradicted, facts.rows, facts.stray_rows) == (1, 5, 1)
    assert facts.warnings == (
        "1 of 5 rows name no file of the dataset, such as g.png in metadata.jsonl",
        "labels/metadata.csv gives no captions: it needs a file_name and a text, caption, prompt, tags or tag_string "
        "in its rows",
        "of 1 image another file gives another caption, which does not count: a.png (a.txt counts, not metadata.jsonl)",
        "of 1 image the entry is there and gives no caption: c.png (c.txt)",
    )
    assert facts.text == (
        "4 of 6 images have one of their own (.caption: 1, .txt: 1, metadata.csv: 1, metadata.jsonl: 1); 2 missing; "
        "2 with several, 3 further lines or rows; 1 contradicted by another file; 1 of 5 rows name no file"
    )


def test_a_copy_gives_its_caption_to_an_image_that_has_none(tmp_path: Path) -> None:
    records = [used("a.png"), copy_of("a.png", "z/a.png"), copy_of("a.png", "z/b.png"), used("c.png")]
    records.append(copy_of("c.png", "z/c.png"))
    found = find(tmp_path, records, {"z/a.txt": "first", "z/b.txt": "second", "c.txt": "own", "z/c.txt": "own"})
    assert found.of == {"a.png": ("first",), "c.png": ("own",)}
    assert (found.facts.from_copies, found.facts.missing, found.facts.sources) == (1, 0, {".txt": 2})
    assert found.facts.warnings == (
        "of 1 image a copy has another caption, which is not used (preprocess.deduplicate): a.png (z/b.png)",
    )
    assert "; 1 from copies" in found.facts.text


def test_nothing_is_said_where_there_is_nothing_to_say(tmp_path: Path) -> None:
    facts = find(tmp_path, [used("a.png")], {}).facts
    assert (facts.text, facts.warnings) == ("0 of 1 images have one of their own; 1 missing", ())
    facts = find(tmp_path, [used("a.png")], {"a.txt": "a"}).facts
    assert (facts.text, facts.warnings) == ("1 of 1 images have one of their own (.txt: 1)", ())


def test_texts_that_lie_beside_no_image_are_told_where_images_have_none(tmp_path: Path) -> None:
    records = [used("a.png"), used("b.png")]
    texts = {"a.txt": "a", "captions/b.txt": "b", "README.txt": "read me"}
    (warning,) = find(tmp_path, records, texts).facts.warnings
    assert warning.startswith("2 files of captions may be meant for images that have none")
    assert warning.endswith(": captions/b.txt, README.txt")
    assert find(tmp_path, records, texts | {"b.txt": "b"}).facts.warnings == ()


def test_of_many_the_first_are_named(tmp_path: Path) -> None:
    records = [used(f"{at:02}.png") for at in range(12)]
    (warning,) = find(tmp_path, records, {f"{at:02}.txt": "" for at in range(12)}).facts.warnings
    assert warning.endswith("08.png (08.txt), 09.png (09.txt) and 2 more")


def test_links_out_of_the_dataset_are_named(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a key")
    files = [SourceFile("a.png", "no image"), SourceFile("a.txt", str(tmp_path / "secret"), leads_out=True)]
    found = find_own_captions(files, [used("a.png")])
    assert found.without == ("a.png (a.txt is a link out of the dataset)",)
    assert found.facts.warnings == (
        "1 caption file is a link out of the dataset, and left out: a.txt; dataset.follow_links: true reads such files",
    )
