"""What samples a study asks for, and `samples.json`: the settings and the measures of one member's at one step."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count, islice
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from job.storage.stored import StoredJson
from lora_engine.captions.prompts import as_trained
from lora_engine.captions.rules import TOKEN_LIMIT, fit
from lora_engine.captions.strategies import with_surroundings
from lora_engine.config.captions import CaptionsConfig, plain_parts
from lora_engine.config.evaluation import PromptConfig, SamplerName, SamplesConfig
from lora_engine.evaluation.line_art import Measures
from lora_engine.evaluation.memorisation import Likeness
from lora_engine.records import SampleSetting
from lora_engine.text import shortened

ENOUGH_PICTURES = 24  # of each variant at the end, where held-out captions are the prompts
_FEW_PROMPTS = 4  # of these, that are drawn on the way
_NO_SEEDS = SamplesConfig().seeds  # where the manifest gives none

_Cosine = Annotated[float, Field(ge=-1.01, le=1.01)]  # rounding included
Prompting = Literal["bare", "as_trained", "both"]


class SampleSettings(StoredJson):
    """All that decides what given weights generate, and which model scores it.

    Only the keys below are read by themselves. Others, of earlier and later versions, are kept to be compared.
    """

    model_config = ConfigDict(extra="allow")

    prompts: tuple[str, ...] = Field(min_length=1)
    as_trained: tuple[str, ...] = ()  # each prompt as the adapter was trained; empty where an earlier version drew
    settings: tuple[SampleSetting, ...] = ()  # of each prompt
    sampler: str | None = None  # None for the base model's own
    clip_sha256: str | None = None  # of the CLIP model that scores the samples; None where none does


class SampleRow(StoredJson):
    """One sample."""

    file: str | None  # the name of its image within the folder of the step; None where its pixels were not finite
    sha256: str = Field("", pattern="^([0-9a-f]{64})?$")
    prompt: int = Field(ge=0)  # the place of its prompt among the prompts
    seed: int = 0
    prompting: Prompting = "bare"  # both: where the adapter was trained on bare prompts
    line_art: Measures | None  # None where there is no image
    clip_cosines: tuple[_Cosine, ...] | None = None  # of its image with every bare prompt; None without a CLIP model
    likeness: Likeness | None = None  # to the nearest training images; None where an earlier version drew


class SampleIndex(StoredJson):
    """The samples of one member at one step. It is written after all of their images."""

    settings: SampleSettings
    images: tuple[SampleRow, ...] = Field(min_length=1)
    embeddings_sha256: str | None = None  # of the file with the images' CLIP embeddings; None without a CLIP model

    @model_validator(mode="after")
    def _check_prompts(self) -> "SampleIndex":
        prompts = len(self.settings.prompts)
        if any(len(each) not in (0, prompts) for each in (self.settings.as_trained, self.settings.settings)):
            raise ValueError("other prompts than there are")
        if any(image.prompt >= prompts for image in self.images):
            raise ValueError("an image without a prompt")
        if any(image.clip_cosines is not None and len(image.clip_cosines) != prompts for image in self.images):
            raise ValueError("cosines of other prompts than there are")
        return self

    @property
    def drawn(self) -> frozenset[tuple[int, int]]:
        """The prompt, by its place, and the seed of every picture."""
        return frozenset((image.prompt, image.seed) for image in self.images)


class SampleSet(StoredJson):
    """Prompts and seeds that every adapter is asked for, with the base model and at its checkpoints."""

    name: str  # of its folder; empty for the study's own samples
    prompts: tuple[str, ...]  # bare
    as_trained: dict[str, tuple[str, ...]]  # variant to each prompt as its adapters were trained
    settings: tuple[SampleSetting, ...]  # of each prompt
    seeds: tuple[tuple[int, ...], ...]  # of each prompt
    few: int | None  # of the first prompts, with their first seed, are drawn on the way; None for all
    sampler: SamplerName | None
    clip_sha256: str | None
    weights: str | None = None  # hashes of an adapter's file and of its base model; None for those of a run

    def settings_of(self, variant: str) -> SampleSettings:
        """What the index of a variant's samples says of them."""
        return SampleSettings(
            prompts=self.prompts,
            as_trained=self.as_trained[variant],
            settings=self.settings,
            sampler=self.sampler,
            clip_sha256=self.clip_sha256,
        )

    def wanted(self, *, on_the_way: bool) -> tuple[tuple[int, int], ...]:
        """The prompt, by its place, and the seed of every picture that is drawn at a step."""
        if on_the_way and self.few is not None:
            return tuple((at, self.seeds[at][0]) for at in range(min(self.few, len(self.prompts))))
        return tuple((at, seed) for at, seeds in enumerate(self.seeds) for seed in seeds)

    @property
    def key(self) -> str:
        """A hash of all but the name."""
        return hashlib.sha256(self.model_dump_json(exclude={"name"}).encode()).hexdigest()

    @property
    def texts(self) -> set[str]:
        """All texts that it asks for, negative prompts too."""
        trained = {text for texts in self.as_trained.values() for text in texts}
        return {*self.prompts, *trained, *(setting.negative for setting in self.settings)}


def make_sample_set(
    name: str,
    config: SamplesConfig,
    resolution: int,
    adapters: Mapping[str, tuple[CaptionsConfig, str | None]],
    held_out: Callable[[], Sequence[str]],
    count_tokens: Callable[[str], int],
    clip_sha256: str | None,
    warn: Callable[[str], None] = lambda _: None,
) -> SampleSet:
    """The samples that a configuration asks for.

    Args:
        resolution: pixels a side where the configuration gives no size.
        adapters: variant to its captions and its template, see `as_trained`.
        held_out: gives the prompts where the configuration has none.
        count_tokens: counts a text's tokens, start and end included.
        warn: told of every prompt that the text encoder does not read to its end.

    Raises:
        ValueError: what stands around a variant's prompts is too long by itself; the message names the variant.
    """
    chosen = config.prompts is None
    given: Sequence[str | PromptConfig] = held_out() if config.prompts is None else config.prompts
    prompts = [each if isinstance(each, PromptConfig) else PromptConfig(prompt=each) for each in given]
    for prompt in prompts:
        if (tokens := count_tokens(prompt.prompt)) > TOKEN_LIMIT:
            warn(f"the prompt {shortened(prompt.prompt, 80)!r} is {tokens} tokens, of which {TOKEN_LIMIT} are read")
    trained = {}
    for variant, (captions, template) in adapters.items():
        try:
            texts = [as_trained(prompt.prompt, captions, template, count_tokens) for prompt in prompts]
        except ValueError as error:
            raise ValueError(f"the texts around the prompts of {variant} are {error}") from error
        if cut := sum(text.truncated for text in texts):
            warn(f"{variant}: as trained, {cut} of {len(texts)} prompts lose words at their end to the text encoder")
        trained[variant] = tuple(text.text for text in texts)
    return SampleSet(
        name=name,
        prompts=tuple(prompt.prompt for prompt in prompts),
        as_trained=trained,
        settings=tuple(_setting(config, prompt, resolution) for prompt in prompts),
        seeds=_seeds_of_chosen(config.seeds, len(prompts)) if chosen else _seeds_of_given(config.seeds, prompts),
        few=_FEW_PROMPTS if chosen else None,
        sampler=config.sampler,
        clip_sha256=clip_sha256,
    )


def require_room(adapters: Mapping[str, tuple[CaptionsConfig, str | None]], count_tokens: Callable[[str], int]) -> None:
    """Refuse captions and templates that leave no room for a word between what stands around it.

    Args:
        adapters: variant to its captions and its template.
        count_tokens: counts a text's tokens, start and end included.

    Raises:
        ValueError: a variant's do; the message names it and what is too long.
    """
    for variant, (captions, template) in adapters.items():
        what = "trigger and style_hints"
        try:
            for _, part in plain_parts(captions):
                fit("", partial(with_surroundings, part, captions.trigger), count_tokens)
            what = "prompt_template"
            as_trained("", captions, template, count_tokens)
        except ValueError as error:
            raise ValueError(f"{what} of {variant}: {error}") from error


def _seeds_of_given(seeds: tuple[int, ...], prompts: Sequence[PromptConfig]) -> tuple[tuple[int, ...], ...]:
    """The seeds of each prompt: its own one, or those of all."""
    return tuple(seeds if prompt.seed is None else (prompt.seed,) for prompt in prompts)


def _seeds_of_chosen(seeds: tuple[int, ...], prompts: int) -> tuple[tuple[int, ...], ...]:
    """As many seeds for each prompt as make enough pictures together.

    No two prompts share noise, so that chance has as many tries as there are pictures; but for seeds that are given,
    which all prompts share, and further ones where these are not enough.
    """
    each = -(-ENOUGH_PICTURES // prompts)
    if seeds == _NO_SEEDS:
        return tuple(tuple(range(at * each, (at + 1) * each)) for at in range(prompts))
    further = (seed for seed in count() if seed not in seeds)
    return ((*seeds, *islice(further, max(0, each - len(seeds)))),) * prompts


def _setting(config: SamplesConfig, prompt: PromptConfig, resolution: int) -> SampleSetting:
    size = prompt.size or config.size or resolution
    width, height = (size, size) if isinstance(size, int) else size
    return SampleSetting(
        width=width,
        height=height,
        steps=config.steps if prompt.steps is None else prompt.steps,
        guidance=config.guidance if prompt.guidance is None else prompt.guidance,
        negative=config.negative_prompt if prompt.negative is None else prompt.negative,
        strength=config.strength if prompt.strength is None else prompt.strength,
    )


def samples_key(config: SamplesConfig, templates: Mapping[str, str | None], clip_sha256: str | None) -> str:
    """A hash of all that decides which samples a run has, but for what belongs to the run's identity.

    Args:
        templates: variant to its template.
    """
    facts = {
        "samples": config.model_dump(mode="json", exclude={"clip", "when"}),
        "templates": dict(templates),
        "clip": clip_sha256,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
