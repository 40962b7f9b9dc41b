"""How adapters are prompted: which prompts, and how each becomes a text like those that an adapter was trained on."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from lora_engine.captions.rules import Fitted, fit
from lora_engine.captions.strategies import bare, with_surroundings
from lora_engine.config.captions import (
    BlipCaptions,
    CaptionsConfig,
    ConstantCaptions,
    ExistingCaptions,
    PlainCaptions,
    plain_parts,
)
from lora_engine.records import CaptionRecord

HELD_OUT_PROMPTS = 24  # held-out captions that become prompts, at most


def as_trained(prompt: str, config: CaptionsConfig, template: str | None, count_tokens: Callable[[str], int]) -> Fitted:
    """The prompt as an adapter was trained; where the text encoder would not read all, the prompt's end is cut.

    Args:
        config: of the captions that the adapter was trained on.
        template: a text with {prompt}, and perhaps {trigger}. None for what stood around the captions: of a mix, those
            of its part with the greatest weight.
        count_tokens: counts a text's tokens, start and end included.

    Raises:
        ValueError: what stands around the prompt is too long by itself.
    """
    if prompt and not _surrounds(config, template):
        return Fitted(prompt, count_tokens(prompt), truncated=False)
    if template is None:
        return _by_default(_main_part(config), config.trigger, prompt, count_tokens)
    before, after = (part.replace("{trigger}", config.trigger) for part in template.split("{prompt}"))
    return fit(prompt, lambda kept: f"{before}{kept}{after}", count_tokens)


def template_as_trained(config: CaptionsConfig, template: str | None) -> str:
    """A text with {prompt} in the place of the prompt that `as_trained` takes, as a short prompt would become."""
    return as_trained("{prompt}", config, template, lambda _text: 0).text


def _surrounds(config: CaptionsConfig, template: str | None) -> bool:
    """Whether anything stands around a prompt, which else is the adapter's as it is, however long."""
    if template is not None:
        return template != "{prompt}"
    part = _main_part(config)
    return isinstance(part, ConstantCaptions) or with_surroundings(part, config.trigger, "") != ""


def _main_part(config: CaptionsConfig) -> PlainCaptions:
    return max(plain_parts(config), key=lambda weighted: weighted[0])[1]


def _by_default(part: PlainCaptions, trigger: str, prompt: str, count_tokens: Callable[[str], int]) -> Fitted:
    """The prompt with what stood around the captions. A constant text stands before it, and is not said twice."""
    surrounded = partial(with_surroundings, part, trigger)
    if not isinstance(part, ConstantCaptions):
        return fit(prompt, surrounded, count_tokens)
    # A constant text that is too long was trained on without its end, and leaves the prompt no room.
    constant = fit(part.text, surrounded, count_tokens).text
    return fit(
        "" if prompt == part.text else prompt,
        lambda kept: ", ".join(text for text in (constant, kept) if text),
        count_tokens,
    )


def held_out_prompts(
    captions: Mapping[str, Sequence[CaptionRecord]],
    configs: Mapping[str, CaptionsConfig],
    image_ids: Sequence[str],
    seed: int,
) -> tuple[str, ...]:
    """Captions of held-out images, bare and each once, that serve as prompts.

    They are those of the first strategy that generates captions, else of the first that reads them, else the texts of
    the constant ones. Which of them, where there are many, depends on the seed and the texts alone.

    Args:
        captions: caption set to the captions of the images.
        configs: caption set to its strategy, in the order of the manifest.
        image_ids: of the held-out images.
    """
    held_out = set(image_ids)
    sources = [
        (part, [record.raw[record.places[at][0]] for record in captions[name] if record.id in held_out])
        for name, config in configs.items()
        for at, (_, part) in enumerate(plain_parts(config))
    ]
    for strategy in (BlipCaptions, ExistingCaptions, ConstantCaptions):
        chosen = [(part, raws) for part, raws in sources if isinstance(part, strategy)]
        if strategy is not ConstantCaptions:
            chosen = chosen[:1]
        texts = {text for part, raws in chosen for raw in raws if (text := bare(part, raw))}
        if texts:
            return tuple(sorted(texts, key=lambda text: _rank(seed, text))[:HELD_OUT_PROMPTS])
    return ("",)


def _rank(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}\0{text}".encode()).hexdigest()
