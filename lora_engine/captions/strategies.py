"""Makes the captions of an image, as a strategy's configuration says."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from lora_engine.captions.rules import Cleaned, clean, fit
from lora_engine.config.captions import (
    BlipCaptions,
    CaptionsConfig,
    ConstantCaptions,
    ExistingCaptions,
    PlainCaptions,
    plain_parts,
)
from lora_engine.errors import DataError
from lora_engine.records import CaptionRecord

NO_CAPTION_REMEDY = (
    "Put a .txt, .caption or .json beside it or a row into metadata.jsonl or metadata.csv, or set captions.missing."
)
_MOST_LINES = 64  # of an image, that are chosen among


def captioners_of(configs: Iterable[CaptionsConfig]) -> tuple[str, ...]:
    """The names of the captioners that the strategies ask, each once."""
    parts = (part for config in configs for _, part in plain_parts(config))
    return tuple(dict.fromkeys(part.captioner for part in parts if isinstance(part, BlipCaptions)))


def needs_sidecars(configs: Iterable[CaptionsConfig]) -> bool:
    """Whether any strategy reads captions that came with the images."""
    return any(part.strategy == "existing" for config in configs for _, part in plain_parts(config))


def lacks_missing(configs: Iterable[CaptionsConfig]) -> bool:
    """Whether any strategy reads captions that came with the images, and does not say what others get."""
    parts = [part for config in configs for _, part in plain_parts(config)]
    return any(isinstance(part, ExistingCaptions) and part.missing is None for part in parts)


def text_weights(config: CaptionsConfig, record: CaptionRecord) -> tuple[float, ...]:
    """How often each text of an image is seen, as a fraction: a part's share is that of its lines together."""
    parts = zip(plain_parts(config), record.places, strict=True)
    return tuple(weight / len(places) for (weight, _), places in parts for _ in places)


def caption_record(
    image_id: str,
    source: str,
    config: CaptionsConfig,
    *,
    generated: Mapping[str, str],
    existing: Sequence[str],
    count_tokens: Callable[[str], int],
) -> CaptionRecord:
    """Make the captions of one image: one text, or several of a mix or of lines to choose among.

    Args:
        source: the image's key, for messages.
        generated: the texts of captioners by their names, of those that were asked.
        existing: the captions that came with the image, in their order; empty where none did.
        count_tokens: counts a text's tokens, start and end included.

    Raises:
        DataError: the image has no caption where one must exist, or style hints leave it no room.
    """
    parts = [part for _, part in plain_parts(config)]
    raws = [_raws(part, source, generated, existing) for part in parts]
    lines = tuple(map(len, raws))
    cleaned = [(part, _cleaned(part, raw)) for part, of_part in zip(parts, raws, strict=True) for raw in of_part]
    try:
        fitted = [
            fit(one.text, partial(with_surroundings, part, config.trigger), count_tokens) for part, one in cleaned
        ]
    except ValueError as error:
        around = "trigger and style_hints" if config.trigger else "style_hints"
        raise DataError(f"{around} are {error}.", f"Shorten {around}.") from error
    return CaptionRecord(
        image_id,
        texts=tuple(one.text for one in fitted),
        raw=tuple(raw for of_part in raws for raw in of_part),
        tokens=tuple(one.tokens for one in fitted),
        truncated=tuple(one.truncated or before.truncated for one, (_, before) in zip(fitted, cleaned, strict=True)),
        lines=lines if max(lines) > 1 else (),
        unused=max(_unused(part, existing) for part in parts),
    )


def with_surroundings(part: PlainCaptions, trigger: str, caption: str) -> str:
    """The text that is trained on: trigger, style hints and caption where they stand, parted by commas."""
    texts = [trigger, caption]
    if not isinstance(part, ConstantCaptions):
        if trigger or part.style_hints:
            texts[1] = caption.strip(" ,")  # no comma stands twice
        texts.insert(1 if part.hints_position == "first" else 2, part.style_hints)
    return ", ".join(text for text in texts if text)


def bare(part: PlainCaptions, raw: str | None) -> str:
    """An image's caption without trigger and style hints, of any length.

    Args:
        raw: the caption before it is cleaned, see `CaptionRecord`.
    """
    return _cleaned(part, raw).text


def _cleaned(part: PlainCaptions, raw: str | None) -> Cleaned:
    if isinstance(part, ConstantCaptions):
        return Cleaned(part.text, truncated=False)
    return clean(raw or "", part.cleaning)


def _raws(
    part: PlainCaptions, source: str, generated: Mapping[str, str], existing: Sequence[str]
) -> tuple[str, ...] | tuple[None]:
    """The texts of a strategy before they are cleaned; None where the strategy itself gives the text."""
    if isinstance(part, ConstantCaptions):
        return (None,)
    if isinstance(part, ExistingCaptions):
        return chosen_lines(part, existing) or (_missing(part, source),)
    assert part.captioner in generated, "every image is captioned where a strategy needs it"
    return (generated[part.captioner],)


def chosen_lines(part: ExistingCaptions, existing: Sequence[str]) -> tuple[str, ...]:
    """What is taken of the captions that came with an image."""
    if part.lines == "join" and existing:
        return (" ".join(existing),)
    return tuple(existing[: _MOST_LINES if part.lines == "random" else 1])


def _unused(part: PlainCaptions, existing: Sequence[str]) -> int:
    """How many of the captions that came with an image are left out."""
    if not isinstance(part, ExistingCaptions) or part.lines == "join":
        return 0
    return len(existing) - len(chosen_lines(part, existing))


def _missing(part: ExistingCaptions, source: str) -> str:
    if part.missing is None:
        raise DataError(f"The image {source} has no caption of its own.", NO_CAPTION_REMEDY)
    return part.missing
