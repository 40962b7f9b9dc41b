import hashlib
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_engine.config.data import PreprocessConfig, SplitConfig
from lora_engine.errors import DataError
from lora_engine.images.prepare import PreparedImage
from lora_engine.images.split import assign, data_sha256, tell_copies_apart
from lora_engine.records import ImageRecord

CONFIG = PreprocessConfig()
BY_FRACTION = SplitConfig(validation_fraction=0.2, validation_min=1)


def image(name: str, look: int | None = None, content: str | None = None) -> PreparedImage:
    """An image of its own look and content unless another's are given."""
    identity = hashlib.sha256((content or name).encode()).hexdigest()
    bits = int(hashlib.sha256(f"look {name}".encode()).hexdigest(), 16) if look is None else look
    return PreparedImage(identity, name, 1, 64, 64, Path(name), b"", hash_of(bits))


def look_of(prepared: PreparedImage) -> int:
    assert prepared.perceptual_hash is not None
    return int.from_bytes(prepared.perceptual_hash[:32])


def hash_of(look: int) -> bytes:
    """The hash of a page on which every wave stands clear, and of a figure that is all of the page."""
    return 2 * (look.to_bytes(32) + (look ^ (1 << 256) - 1).to_bytes(32))


def by_source(records: tuple[ImageRecord, ...]) -> dict[str, ImageRecord]:
    return {record.source: record for record in records}


def flipped(look: int, dice: random.Random, count: int) -> int:
    for bit in dice.sample(range(256), count):
        look ^= 1 << bit
    return look


@given(seed=st.integers(0, 2**32), clusters=st.integers(80, 120), new=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_nothing_alike_straddles_and_new_images_move_no_other(seed: int, clusters: int, new: int) -> None:
    dice = random.Random(seed)
    images = [image(f"{seed}-{at}") for at in range(clusters)]
    for base in dice.sample(images, 8):
        images += [image(f"{base.source}~{n}", flipped(look_of(base), dice, dice.randint(0, 6))) for n in range(3)]
    before = by_source(assign(images, CONFIG, BY_FRACTION))
    sides: dict[str | None, set[str | None]] = {}
    for record in before.values():
        sides.setdefault(record.group, set()).add(record.split)
        original = before[record.source.split("~")[0]]
        assert record.group == original.group
    assert all(len(found) == 1 for found in sides.values())
    dice.shuffle(images)
    after = by_source(assign([*images, *(image(f"new {at}") for at in range(new))], CONFIG, BY_FRACTION))
    assert {source: after[source] for source in before} == before


def test_the_group_bears_its_smallest_id() -> None:
    look = look_of(image("a"))
    chain = [image(f"chain {at}", look ^ ((1 << 6 * at) - 1)) for at in range(20)]  # each 6 bits from the next
    others = [image(f"{at}") for at in range(50)]
    records = by_source(assign([*others, *chain], CONFIG, SplitConfig()))
    names = {records[link.source].group for link in chain}
    assert names == {min(link.id for link in chain)}
    assert all(records[other.source].group == other.id for other in others)


@pytest.mark.parametrize(("distance", "together"), [(6, True), (5, False), (0, False)])
def test_the_distance_is_inclusive(distance: int, together: bool) -> None:
    pair = [image("a", 0), image("b", 0b111111)]
    config = CONFIG.model_copy(update={"near_duplicate_distance": distance})
    records = by_source(assign([*pair, *(image(f"{at}") for at in range(20))], config, SplitConfig()))
    assert (records["a"].group == records["b"].group) is together


def test_blocks_of_rows_find_the_same_groups_as_every_pair() -> None:
    seed = 3
    print("seed", seed)
    dice = random.Random(seed)
    images = [image(f"{at}") for at in range(500)]
    images += [
        image(f"near {at}", flipped(look_of(dice.choice(images)), dice, dice.randint(3, 9))) for at in range(200)
    ]
    records = by_source(assign(images, CONFIG, BY_FRACTION))
    looks = {i.source: look_of(i) for i in images}
    parent = {source: source for source in looks}

    def root(source: str) -> str:
        while parent[source] != source:
            source = parent[source]
        return source

    for a, left in looks.items():
        for b, right in looks.items():
            if (left ^ right).bit_count() <= CONFIG.near_duplicate_distance:
                parent[root(a)] = root(b)
    expected = Counter(frozenset(s for s in looks if root(s) == r) for r in {root(s) for s in looks})
    found: dict[str | None, set[str]] = {}
    for source, record in records.items():
        found.setdefault(record.group, set()).add(source)
    assert Counter(frozenset(group) for group in found.values()) == expected


def test_thousands_of_look_alikes_are_one_group() -> None:
    dice = random.Random(0)
    alike = [image(f"alike {at}", flipped(0, dice, 2)) for at in range(4000)]
    records = assign([*alike, *(image(f"{at}") for at in range(3))], CONFIG, BY_FRACTION)
    assert len({record.group for record in records}) == 4


def test_the_share_is_about_the_fraction() -> None:
    records = assign([image(f"{at}") for at in range(3000)], CONFIG, BY_FRACTION)
    share = sum(record.split == "validation" for record in records) / 3000
    assert share == pytest.approx(0.2, abs=0.03)  # four standard deviations


@pytest.mark.parametrize(("images", "held_out"), [(2, 1), (3, 1), (8, 2), (40, 10), (64, 16), (100, 16)])
def test_small_sets_fill_up_to_the_minimum_or_a_quarter(images: int, held_out: int) -> None:
    config = SplitConfig(validation_fraction=0.001, validation_min=16)
    records = assign([image(f"{at}") for at in range(images)], CONFIG, config)
    assert sum(record.split == "validation" for record in records) == held_out
    small = SplitConfig(validation_fraction=0.001, validation_min=1)
    first = {r.id for r in assign([image(f"{at}") for at in range(images)], CONFIG, small) if r.split == "validation"}
    assert first <= {record.id for record in records if record.split == "validation"}


@pytest.mark.parametrize("alike", [1, 2, 30])
def test_without_two_groups_there_is_no_split(alike: int) -> None:
    with pytest.raises(DataError, match=f"{alike} images in 1 groups"):
        assign([image(f"{at}", 0) for at in range(alike)], CONFIG, SplitConfig())


def test_no_usable_image_at_all_is_an_error_too() -> None:
    lenient = CONFIG.model_copy(update={"max_rejected_fraction": 1.0})
    with pytest.raises(DataError, match="0 images"):
        assign([PreparedImage("x", "a", 1, rejected="broken")], lenient, SplitConfig())
    with pytest.raises(DataError, match="holds no images"):
        assign([PreparedImage("x", ".DS_Store", 1, ignored="left behind by a system")], CONFIG, SplitConfig())


def test_copies_name_the_first_by_key() -> None:
    images = [image(f"{at}") for at in range(20)]
    copies = [image(name, look_of(images[3]), content="3") for name in ("z", "1-copy", "y")]
    records = by_source(assign([*copies, *images], CONFIG, SplitConfig()))
    doubles = {source: record.duplicate_of for source, record in records.items() if record.duplicate_of}
    assert doubles == {"3": "1-copy", "y": "1-copy", "z": "1-copy"}
    assert [record.used for record in records.values()].count(True) == 20
    kept = CONFIG.model_copy(update={"deduplicate": "none"})
    all_used = assign([*copies, *images], kept, SplitConfig())
    assert all(record.used for record in all_used)
    assert len({record.split for record in all_used if record.id == images[3].id}) == 1


@pytest.mark.parametrize(("bad", "fine"), [(1, True), (2, False)])
def test_the_rejected_are_counted_without_leftovers(bad: int, fine: bool) -> None:
    files = [image(f"{at}") for at in range(20 - bad)]
    files += [PreparedImage(f"x{at}", f"bad{at}", 1, rejected="truncated") for at in range(bad)]
    files += [PreparedImage(f"y{at}", f".{at}", 1, ignored="left behind by a system") for at in range(100)]
    if fine:
        assert [r.rejected for r in assign(files, CONFIG, SplitConfig()) if r.rejected] == ["truncated"]
        return
    with pytest.raises(DataError, match="2 of 20 files") as caught:
        assign(files, CONFIG, SplitConfig())
    assert "bad0: truncated; bad1: truncated" in caught.value.cause
    assert "max_rejected_fraction" in caught.value.remedy


def test_the_data_hash_is_of_contents_and_their_number() -> None:
    images = [image(f"{at}") for at in range(20)]
    records = assign(images, CONFIG, SplitConfig())
    assert data_sha256(records) == data_sha256(reversed(records))
    renamed = [image(f"other {at}", look_of(images[at]), content=f"{at}") for at in range(20)]
    assert data_sha256(assign(renamed, CONFIG, SplitConfig())) == data_sha256(records)
    assert data_sha256(records[1:]) != data_sha256(records)
    kept = CONFIG.model_copy(update={"deduplicate": "none"})
    doubled = assign([*images, image("copy", look_of(images[0]), content="0")], kept, SplitConfig())
    assert data_sha256(doubled) != data_sha256(records)


def test_recorded_groups_and_sides_hold_as_long_as_the_images_are_the_same() -> None:
    images = [image(f"{at}") for at in range(20)]
    records = assign(images, CONFIG, SplitConfig())
    side = {record.id: record.split for record in records}
    one, other = (next(r.id for r in records if r.split == part) for part in ("train", "validation"))
    # what an earlier version recorded: a near-duplicate more, and another image held out
    recorded = [
        replace(r, group=one, split="train")
        if r.id == other
        else replace(r, split="validation" if r.id != one else "train")
        for r in records
    ]
    renamed = [replace(i, source=f"sub/{i.source}") for i in images]
    found = assign(renamed, CONFIG, SplitConfig(), recorded)
    assert {r.id: (r.group, r.split) for r in found} == {r.id: (r.group, r.split) for r in recorded}
    assert all(r.source.startswith("sub/") for r in found)
    assert {r.id: r.split for r in assign(images, CONFIG, SplitConfig(), recorded[1:])} == side
    lost = [replace(r, split="train") for r in recorded]
    assert {r.id: r.split for r in assign(images, CONFIG, SplitConfig(), lost)} == side


def test_recorded_sides_hold_for_copies_that_are_told_apart() -> None:
    kept = CONFIG.model_copy(update={"deduplicate": "none"})
    images = [image(f"{at}") for at in range(20)]
    images = list(tell_copies_apart([*images, image("copy", look_of(images[3]), content="3")]))
    records = assign(images, kept, SplitConfig())
    moved = next(record.group for record in records if record.split == "train" and record.source not in ("3", "copy"))
    recorded = [replace(record, split="validation") if record.group == moved else record for record in records]
    assert assign(images, kept, SplitConfig(), recorded) == tuple(recorded)
