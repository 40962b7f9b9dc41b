"""What becomes of images, against hashes and shares worked out apart from the code."""

import dataclasses
import hashlib
from itertools import combinations
from pathlib import Path

import pytest

from lora_engine.config.data import PreprocessConfig, SplitConfig
from lora_engine.errors import DataError
from lora_engine.images.prepare import PreparedImage
from lora_engine.images.split import assign, data_sha256, tell_copies_apart
from lora_engine.records import ImageRecord

CONFIG = PreprocessConfig()


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def image(name: str, look: int | None = None, content: str | None = None) -> PreparedImage:
    """An image of its own look and content unless another's are given."""
    bits = int(sha256(f"look {name}"), 16) if look is None else look
    return PreparedImage(sha256(content or name), name, 17, 64, 48, Path(name), b"", hash_of(bits))


def hash_of(look: int) -> bytes:
    """The hash of a page on which every wave stands clear, and of a figure that is all of the page."""
    return 2 * (look.to_bytes(32) + (look ^ (1 << 256) - 1).to_bytes(32))


def look_of(prepared: PreparedImage) -> int:
    assert prepared.perceptual_hash is not None
    return int.from_bytes(prepared.perceptual_hash[:32])


def share(group: str) -> float:
    """Where a group stands between 0 and 1: the first 64 bits of its name's SHA-256."""
    return int(sha256(group)[:16], 16) / 2**64


def held_out(images: list[PreparedImage], fraction: float, fewest: int) -> set[str]:
    split = SplitConfig(validation_fraction=fraction, validation_min=fewest)
    return {record.id for record in assign(images, CONFIG, split) if record.split == "validation"}


def test_groups_below_the_fraction_are_held_out_and_the_others_train() -> None:
    images = [image(f"{at}") for at in range(60)]
    records = assign(images, CONFIG, SplitConfig(validation_fraction=0.3, validation_min=1))
    assert {r.id: r.split for r in records} == {i.id: "validation" if share(i.id) < 0.3 else "train" for i in images}
    assert all(record.used and record.group == record.id for record in records)
    fourth = sorted(share(i.id) for i in images)[3]
    assert len(held_out(images, fourth, 1)) == 3


def test_a_small_set_fills_up_in_the_order_of_the_shares() -> None:
    images = [image(f"{at}") for at in range(40)]
    order = sorted((i.id for i in images), key=share)
    below = sum(share(one) < 0.05 for one in order)
    assert 0 < below < 7
    assert held_out(images, 0.05, 1) == set(order[:below])
    assert held_out(images, 0.05, 7) == set(order[:7])
    assert held_out(images, 0.05, 40) == set(order[:10])  # a quarter of them


def test_a_group_that_would_exceed_the_quarter_is_passed_over() -> None:
    singles = [image(f"{at}") for at in range(30)]
    order = sorted((i.id for i in singles), key=share)
    # the first of them gets nine look-alikes, whose ids are not smaller than its own
    first = next(i for i in singles if i.id == order[0])
    alike = [image(f"alike {at}", look_of(first)) for at in range(200)]
    alike = [i for i in alike if i.id > first.id][:9]
    assert len(alike) == 9
    # 10 of 39 images: more than a quarter, so the next nine singles are taken, one by one
    assert held_out([*singles, *alike], 1e-9, 16) == set(order[1:10])
    # with one more single they are just a quarter of 40, after which nothing fits
    more = next(i for i in (image(f"more {at}") for at in range(100)) if share(i.id) > share(order[0]))
    assert held_out([*singles, *alike, more], 1e-9, 16) == {first.id, *(i.id for i in alike)}


def test_at_least_one_image_may_be_held_out_of_the_fewest() -> None:
    images = [image("a"), image("b")]
    assert held_out(images, 1e-9, 5) == {min((i.id for i in images), key=share)}


@pytest.mark.parametrize("distance", [0, 1, 6])
def test_images_that_differ_in_at_most_so_many_bits_are_one_group(distance: int) -> None:
    looks = [0, 0b1, 0b1111110 << 70, 0b1111111 << 140, (0b111 << 10) | (0b1111 << 200), 1 << 255]
    config = CONFIG.model_copy(update={"near_duplicate_distance": distance})
    alone = [image(f"{at}") for at in range(20)]
    images = [image(f"look {at}", look) for at, look in enumerate(looks)]
    records = {r.source: r for r in assign([*images, *alone], config, SplitConfig())}
    for (a, left), (b, right) in combinations(enumerate(looks), 2):
        if a and b:
            continue  # what is near to the blank is near to each other through it
        near = (left ^ right).bit_count() <= distance
        assert (records[f"look {a}"].group == records[f"look {b}"].group) is near
    for record in records.values():
        members = [r.id for r in records.values() if r.group == record.group]
        assert record.group == min(members)


def test_near_duplicates_are_found_among_many_wherever_they_stand() -> None:
    images = sorted((image(f"{at}") for at in range(700)), key=lambda one: one.id)
    places = [(3, 600), (300, 301), (255, 256), (511, 512), (10, 200), (698, 699)]
    for at, to in places:
        images[to] = dataclasses.replace(images[to], perceptual_hash=hash_of(look_of(images[at]) ^ 1))
    group = {record.id: record.group for record in assign(images, CONFIG, SplitConfig())}
    assert {i: g for i, g in group.items() if i != g} == {images[to].id: images[at].id for at, to in places}


def test_a_record_keeps_what_is_known_of_its_file() -> None:
    files = [image(f"{at}") for at in range(20)]
    copy = dataclasses.replace(image("z", content="3"), size_bytes=23)
    broken = PreparedImage("", "broken", 5, rejected="truncated")
    leftover = PreparedImage("", ".DS_Store", 6, ignored="hidden")
    config = CONFIG.model_copy(update={"max_rejected_fraction": 0.5})
    found = assign([broken, copy, *files, leftover], config, SplitConfig())
    assert [r.source for r in found] == sorted([*(f"{at}" for at in range(20)), "z", "broken", ".DS_Store"])
    of = {r.source: r for r in found}
    three, part = sha256("3"), of["3"].split
    assert of["3"] == ImageRecord(three, "3", 17, 64, 48, three, part, None, False, None)
    assert of["z"] == ImageRecord(three, "z", 23, 64, 48, None, None, "3", False, None)
    assert of["broken"] == ImageRecord("", "broken", 5, None, None, None, None, None, False, "truncated")
    assert of[".DS_Store"] == ImageRecord("", ".DS_Store", 6, None, None, None, None, None, True, None, "hidden")
    kept = assign([copy, *files], CONFIG.model_copy(update={"deduplicate": "none"}), SplitConfig())
    twice = [(r.source, r.group, r.split, r.duplicate_of) for r in kept if r.id == three]
    assert twice == [("3", three, part, None), ("z", three, part, None)]


def test_as_many_may_be_rejected_as_the_manifest_allows() -> None:
    config = CONFIG.model_copy(update={"max_rejected_fraction": 0.25})
    bad = [PreparedImage("", f"bad{at}", 1, rejected=f"cause {at}") for at in range(7)]
    leftovers = [PreparedImage("", f".{at}", 1, ignored="hidden") for at in range(9)]
    assert assign([*bad, *leftovers, *(image(f"{at}") for at in range(21))], config, SplitConfig())
    with pytest.raises(DataError) as caught:
        assign([*bad, *leftovers, *(image(f"{at}") for at in range(20))], config, SplitConfig())
    assert caught.value.cause == (
        "7 of 27 files cannot be used, more than preprocess.max_rejected_fraction (0.25) allows: "
        "bad0: cause 0; bad1: cause 1; bad2: cause 2; bad3: cause 3; bad4: cause 4."
    )
    assert caught.value.remedy == "Remove or mend them, or raise preprocess.max_rejected_fraction."


def test_a_dataset_that_cannot_be_split_says_why() -> None:
    with pytest.raises(DataError) as caught:
        assign([PreparedImage("", ".DS_Store", 1, ignored="hidden")], CONFIG, SplitConfig())
    assert caught.value.cause == "The dataset holds no images: .DS_Store: hidden."
    assert caught.value.remedy == "Check dataset.source."
    with pytest.raises(DataError, match=r"^The dataset holds no images\. Check"):
        assign([], CONFIG, SplitConfig())
    with pytest.raises(DataError) as caught:
        assign([image("a", 0), image("b", 0), image("c", 1)], CONFIG, SplitConfig())
    assert caught.value.cause == ("3 images in 1 groups of near-duplicates are too few to train and to validate on.")
    assert caught.value.remedy == "Add images that differ, or lower preprocess.near_duplicate_distance."
    everything = SplitConfig(validation_fraction=0.45, validation_min=1)
    low = [i for i in (image(f"{at}") for at in range(20)) if share(i.id) < 0.45][:4]
    with pytest.raises(DataError, match="4 images in 4 groups"):
        assign(low, CONFIG, everything)


def test_the_data_hash_is_that_of_the_sorted_ids_of_what_is_used() -> None:
    files = [image(f"{at}") for at in range(20)]
    records = assign([*files, image("copy", content="3")], CONFIG, SplitConfig())
    assert data_sha256(records) == sha256("\n".join(sorted(i.id for i in files)))


def test_copies_that_are_told_apart_have_names_of_their_own_and_change_no_split() -> None:
    """Further copies are named after the bytes and how many came before; the group is still named after the bytes."""
    kept = CONFIG.model_copy(update={"deduplicate": "none", "max_rejected_fraction": 0.1})
    split = SplitConfig()
    originals = [image(f"{at:02}") for at in range(20)]
    copies = [
        image(f"{name}-{at:02}", look, content=f"{at:02}")
        for name in "yz"
        for at in (0, 7)
        for look in [look_of(originals[at])]
    ]
    rejected = [
        dataclasses.replace(image(name, content="r"), perceptual_hash=None, rejected="x") for name in ("p", "q")
    ]
    told = list(tell_copies_apart(sorted([*originals, *copies, *rejected], key=lambda each: each.source)))
    assert [each.content for each in told if each.source in ("07", "y-07", "z-07")] == [sha256("07")] * 3
    records = {record.source: record for record in assign(told, kept, split)}
    assert [records[f"{name}07"].id for name in ("", "y-", "z-")] == [
        sha256("07"),
        sha256(f"{sha256('07')} 2"),
        sha256(f"{sha256('07')} 3"),
    ]
    assert [records[name].id for name in ("p", "q")] == [sha256("r")] * 2
    used = [record for record in records.values() if record.used]
    assert len({record.id for record in used}) == len(used) == 24
    plain = {record.source: record for record in assign([*originals, *copies, *rejected], kept, split)}
    for source, record in records.items():
        assert (record.group, record.split) == (plain[source].group, plain[source].split)
    assert data_sha256(records.values()) != data_sha256(plain.values())
