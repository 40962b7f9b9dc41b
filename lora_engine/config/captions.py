"""The settings of caption strategies: where the text of an image comes from and how it is cleaned."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from lora_engine.config.base import Config

Text = Annotated[str, Field(max_length=2000)]
CAPTIONER = "captioner"  # the name of the captioner that stands under the manifest's key of that name


def _template(value: str) -> str:
    unknown = [name for name in re.findall(r"\{([^{}]*)\}", value) if name not in ("prompt", "trigger")]
    if unknown or value.count("{prompt}") != 1:
        raise ValueError("a text that holds {prompt} once, and perhaps {trigger}")
    return value


PromptTemplate = Annotated[Text, AfterValidator(_template)]


class CleaningConfig(Config):
    """Rules applied in this order; each can be switched off."""

    lowercase: bool = Field(default=True)
    artefact_words: bool = Field(default=True, description="Words that BLIP invents: arafed, araffe, ...")
    invented_writing: bool = Field(default=True, description='Clauses such as `with the words "..." on it`.')
    repeated_words: bool = Field(default=True, description="`bald bald bald` becomes `bald`.")
    duplicates: bool = Field(default=True, description="A comma-separated phrase that stands twice is kept once.")
    stop_words: bool = Field(default=False, description="Remove a, the, of, ...: a strategy of its own.")


class OwnCleaningConfig(CleaningConfig):
    """The same rules, none of which is applied unless it is asked for: people meant what they wrote."""

    lowercase: bool = Field(default=False)
    artefact_words: bool = Field(default=False, description="Words that BLIP invents: arafed, araffe, ...")
    invented_writing: bool = Field(default=False, description='Clauses such as `with the words "..." on it`.')
    repeated_words: bool = Field(default=False, description="`bald bald bald` becomes `bald`.")
    duplicates: bool = Field(default=False, description="A comma-separated phrase that stands twice is kept once.")


class _Captions(Config):
    caption_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Fraction of training samples that see the empty prompt instead."
    )
    trigger: Text = Field(
        default="",
        description="Stands before every caption; never what is cut at 77 tokens. It becomes the adapter's trigger "
        "phrase.",
    )


class ConstantCaptions(_Captions):
    """One text for every image."""

    strategy: Literal["constant"]
    text: Text


class _WithHints(_Captions):
    style_hints: Text = Field(default="", description="Added to every caption; never what is cut at 77 tokens.")
    hints_position: Literal["first", "last"] = "last"
    cleaning: CleaningConfig = CleaningConfig()


class BlipCaptions(_WithHints):
    """A captioner's description of the image; `blip` is another word for `captioner`."""

    strategy: Literal["captioner", "blip"]
    captioner: str = Field(
        default=CAPTIONER,
        max_length=63,
        description="Which of `captioners`; `captioner` is the one that stands under the key of that name.",
    )

    @model_serializer(mode="wrap")
    def _as_one_text(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Both words are written alike, and the only captioner there once was as it was written then.

        The identity of runs, and which variants share captions, rest on what is written.
        """
        values: dict[str, Any] = dump(self)
        is_only = self.captioner == CAPTIONER
        if is_only:
            values.pop("captioner", None)
        return values | ({"strategy": "blip" if is_only else "captioner"} if "strategy" in values else {})


class ExistingCaptions(_WithHints):
    """The text that came with the image: a `.txt`, `.caption` or `.json` beside it, a `metadata.jsonl` or `.csv`."""

    strategy: Literal["existing"]
    cleaning: OwnCleaningConfig = OwnCleaningConfig()
    missing: Text | None = Field(
        default=None, description="Caption of an image that has none; without it such an image is an error."
    )
    lines: Literal["first", "random", "join"] = Field(
        default="first",
        description="Of several lines or rows that an image came with: the `first`; one at `random`, chosen per image "
        "and epoch; or all, which `join` makes one text, with spaces between.",
    )


PlainCaptions = Annotated[ConstantCaptions | BlipCaptions | ExistingCaptions, Field(discriminator="strategy")]


class MixPart(Config):
    """One source in a mix."""

    weight: float = Field(default=1.0, gt=0)
    captions: PlainCaptions

    @model_validator(mode="after")
    def _check_settings_of_the_whole(self) -> "MixPart":
        for key in ("caption_dropout", "trigger"):
            if value := getattr(self.captions, key):
                raise ValueError(f"{key}: {value!r} of a part does nothing; set the mix's own")
        return self


class MixCaptions(_Captions):
    """A source chosen per image and epoch, in proportion to the weights."""

    strategy: Literal["mix"]
    parts: tuple[MixPart, ...] = Field(min_length=2, max_length=16)


CaptionsConfig = Annotated[
    ConstantCaptions | BlipCaptions | ExistingCaptions | MixCaptions, Field(discriminator="strategy")
]


def plain_parts(config: CaptionsConfig) -> tuple[tuple[float, PlainCaptions], ...]:
    """The weighted sources of a strategy: one for a plain strategy, several for a mix. Weights sum to 1."""
    if isinstance(config, MixCaptions):
        total = sum(part.weight for part in config.parts)
        return tuple((part.weight / total, part.captions) for part in config.parts)
    return ((1.0, config),)
