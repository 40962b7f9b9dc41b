"""What the stages read of an earlier attempt instead of making it again: images and captions."""

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from job import layout
from job.errors import ExitCode, JobError
from job.run.dataset import Captions, Images, SourceStamp
from job.stages.caption import caption
from job.stages.preprocess import images_of
from lora_engine.images.prepare import pixels_key
from lora_engine.records import CaptionRecord, ImageRecord, SourceFile, Split
from tests.job.small_run import attempt_of

CONSTANT = "variants=[{name: one, captions: {strategy: constant, text: a drawing}}]"


def not_needed() -> list[SourceFile]:
    raise AssertionError("the images are recorded")


def images(*splits: Split | None) -> list[ImageRecord]:
    return [
        ImageRecord(f"{at}", f"{at}.png", 1, group=f"{at}" if split else None, split=split)
        for at, split in enumerate(splits)
    ]


@pytest.mark.parametrize("splits", [(), (None,), ("train",), ("validation",), ("train", "validation")])
def test_recorded_images_are_used_only_where_some_are_trained_on_and_some_held_out(
    tmp_path: Path, splits: tuple[Split | None, ...]
) -> None:
    attempt, _ = attempt_of(tmp_path, "variants.one.captions={strategy: constant, text: a}")
    config, split = attempt.manifest.preprocess, attempt.manifest.dataset.split
    stamp = SourceStamp(
        fingerprint="f",
        pixels=pixels_key(config),
        preprocess=config.model_dump(mode="json"),
        split=split.model_dump(mode="json"),
    )
    attempt.run.write_jsonl(layout.IMAGES, map(asdict, images(*splits)))
    attempt.run.write_stored(layout.SOURCE, stamp)
    if len(splits) == 2:
        assert images_of(attempt, "f", not_needed).records == tuple(images(*splits))
        return
    with pytest.raises(JobError, match=r"data/images\.jsonl names no image") as caught:
        images_of(attempt, "f", not_needed)
    assert caught.value.code == ExitCode.CONFLICT


def tokenizer(text: str) -> SimpleNamespace:
    return SimpleNamespace(input_ids=text.split())


def test_captions_that_were_edited_between_two_attempts_are_named(tmp_path: Path) -> None:
    def prepare() -> None:
        raise AssertionError("a constant text needs no image")

    attempt, _ = attempt_of(tmp_path, CONSTANT)
    held = Images(tuple(images("train")), prepare)  # type: ignore[arg-type]

    def captions() -> Captions:
        return caption(attempt, held, {}, tokenizer, torch.device("cpu"))

    assert captions() == captions()
    path = Path(attempt.run.uri(layout.captions("one")))
    before = path.read_text()
    path.write_text(before.replace("a drawing", "a painting"))
    with pytest.raises(
        JobError, match=r"captions/one\.jsonl was altered: its rows had SHA-256 \w+, and have "
    ) as caught:
        captions()
    assert caught.value.code == ExitCode.CONFLICT
    path.write_text(before)
    assert captions()["one"][0].texts == ("a drawing",)
    path.unlink()  # What is lost is made again.
    assert captions()["one"][0].texts == ("a drawing",)


@pytest.mark.parametrize("texts", [("as it was",), ("as it", "was")])
def test_recorded_captions_are_used_only_where_they_are_as_many_as_the_strategy_gives(
    tmp_path: Path, texts: tuple[str, ...]
) -> None:
    attempt, _ = attempt_of(tmp_path, CONSTANT)
    count = len(texts)
    row = CaptionRecord("0", texts, (None,) * count, (3,) * count, (False,) * count)
    attempt.run.write_jsonl(layout.captions("one"), [asdict(row)])

    def prepare() -> None:
        raise AssertionError("a constant text needs no image")

    held = Images(tuple(images("train")), prepare)  # type: ignore[arg-type]
    found = caption(attempt, held, None, tokenizer, torch.device("cpu"))
    assert found["one"][0].texts == (texts if count == 1 else ("a drawing",))
