from collections import Counter, defaultdict
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from job.manifest.load import load_manifest
from lora_engine import miniature
from lora_engine.images.sidecars import read_sidecars
from lora_engine.images.sources import list_files
from planted_effect import MANIFEST, captioned, shuffled, subject, write


def test_every_drawing_has_the_caption_of_another(tmp_path: Path) -> None:
    records, texts = captioned(load_manifest(MANIFEST.read_bytes(), MANIFEST.name))
    others = shuffled(texts, [record.id for record in records])
    write(tmp_path, records, others)
    read = read_sidecars(list(list_files(tmp_path))).first
    assert [read[record.source] for record in records] == others
    for record in records:
        assert (tmp_path / record.source).read_bytes() == (miniature.folder("drawings") / record.source).read_bytes()
    assert len(records) == 120
    assert sum(record.split == "validation" for record in records) >= 20
    rightly, wrongly = (
        sum(subject(record) in text.split() for record, text in zip(records, found, strict=True))
        for found in (texts, others)
    )
    assert rightly >= 110
    assert wrongly <= 2
    names = defaultdict(set)
    for record, text in zip(records, others, strict=True):
        names[subject(record)].add(text)
    assert min(map(len, names.values())) >= 3  # with one name for all anchors there would be something to learn


@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=40))
def test_no_image_keeps_its_text_if_it_can(texts: list[str]) -> None:
    found = shuffled(texts, [str(at) for at in range(len(texts))])
    assert Counter(found) == Counter(texts)
    kept = sum(text == other for text, other in zip(texts, found, strict=True))
    assert kept == max(0, 2 * max(Counter(texts).values()) - len(texts))
