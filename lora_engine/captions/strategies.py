"""Makes the captions of an image, as a strategy's configuration says."""

from collections.abc import Callable, Iterable, Mapping
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


def captioners_of(configs: Iterable[CaptionsConfig]) -> tuple[str, ...]:
    """The names of the captioners that the strategies ask, each once."""
    parts = (part for config in configs for _, part in plain_parts(config))
    return tuple(dict.fromkeys(part.captioner for part in parts if isinstance(part, BlipCaptions)))


def needs_sidecars(configs: Iterable[CaptionsConfig]) -> bool:
    """Whether any strategy reads captions that came with the images."""
    return any(part.strategy == "existing" for config in configs for _, part in plain_parts(config))


def caption_record(
    image_id: str,
    source: str,
    config: CaptionsConfig,
    *,
    generated: Mapping[str, str],
    existing: str | None,
    count_tokens: Callable[[str], int],
) -> CaptionRecord:
    """Make the captions of one image: one text, or several of a mix.

    Args:
        source: the image's key, for messages.
        generated: the texts of captioners by their names, of those that were asked.
        existing: the text that came with the image; None where none did.
        count_tokens: counts a text's tokens, start and end included.

    Raises:
        DataError: the image has no caption where one must exist, or style hints leave it no room.
    """
    texts, raws, tokens, truncated = [], [], [], []
    for _, part in plain_parts(config):
        raw = _raw(part, source, generated, existing)
        cleaned = _cleaned(part, raw)
        try:
            fitted = fit(cleaned.text, partial(with_surroundings, part, config.trigger), count_tokens)
        except ValueError as error:
            around = "trigger and style_hints" if config.trigger else "style_hints"
            raise DataError(f"{around} are {error}.", f"Shorten {around}.") from error
        texts.append(fitted.text)
        raws.append(raw)
        tokens.append(fitted.tokens)
        truncated.append(cleaned.truncated or fitted.truncated)
    return CaptionRecord(image_id, tuple(texts), tuple(raws), tuple(tokens), tuple(truncated))


def with_surroundings(part: PlainCaptions, trigger: str, caption: str) -> str:
    """The text that is trained on: trigger, style hints and caption where they stand, parted by commas."""
    texts = [trigger, caption]
    if not isinstance(part, ConstantCaptions):
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


def _raw(part: PlainCaptions, source: str, generated: Mapping[str, str], existing: str | None) -> str | None:
    """The text of a strategy before it is cleaned; None where the strategy itself gives the text."""
    if isinstance(part, ConstantCaptions):
        return None
    if isinstance(part, ExistingCaptions):
        if existing is None and part.missing is None:
            raise DataError(
                f"The image {source} has no caption of its own.",
                "Put a .txt beside it or a line into metadata.jsonl, or set captions.missing.",
            )
        return part.missing if existing is None else existing
    assert part.captioner in generated, "every image is captioned where a strategy needs it"
    return generated[part.captioner]
