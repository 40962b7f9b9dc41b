"""Under whose captions adapters are scored: the distinct texts of the held-out images, and a strategy's share of them.

A component is one text for each held-out image. A plain strategy has one, a mix one a part; caption dropout adds the
empty prompt. Of several lines that an image came with, it is scored under one, which chance chose once for all. A
strategy's loss is the mean over its components by their weights, none of which chance decides.
Torch-free.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lora_engine.config.captions import CaptionsConfig, plain_parts
from lora_engine.dataset.draws import choose_texts
from lora_engine.dataset.randomness import validation_caption_uniform
from lora_engine.records import CaptionRecord

NO_PROMPT = ""  # the name of the component whose texts are all empty

Weights = Mapping[str, float]  # component to its share of a strategy's loss; the shares sum to 1
Captions = Mapping[str, Sequence[CaptionRecord]]  # caption set to the captions of its images


@dataclass(frozen=True)
class Condition:
    """What an adapter is scored under: whose captions, and at which of the timesteps."""

    component: str
    whole: bool  # at every stratum of the grid it is scored on, not at the curve's alone


@dataclass(frozen=True)
class Components:
    """The distinct components of a study, and the share that each strategy has of them."""

    texts: Mapping[str, tuple[str, ...]]  # component, shuffled ones too, to the text of each held-out image
    own: Mapping[str, Weights]  # variant to the components that it was trained with
    shuffled: Mapping[str, str]  # component to that of the same captions, each given to another image

    def summed(self, variant: str) -> Weights:
        """The components, by weight, over which the losses in `validation.jsonl` are a mean."""
        return self.own[variant]

    def on_curve(self, variant: str) -> tuple[Condition, ...]:
        """What an adapter is scored under in the course of training: its own captions."""
        return tuple(Condition(component, whole=False) for component in self.own[variant])

    def of_base(self) -> tuple[Condition, ...]:
        """What the base model is scored under: all there is."""
        own = dict.fromkeys(component for weights in self.own.values() for component in weights)
        return _conditions(own, [NO_PROMPT, *self.shuffled.values()])

    def at_end(self, variant: str, others: Iterable[str], listened: str | None) -> tuple[Condition, ...]:
        """What an adapter is scored under at the end.

        Args:
            others: the variants that it is compared with.
            listened: the component whose shuffled captions show whether it reads its prompt; None where none does.
        """
        wanted = [component for other in others for component in self.own[other]] + [NO_PROMPT]
        if listened is not None:
            wanted += [listened, self.shuffled[listened]]
        return _conditions(self.own[variant], wanted)


class EarlierComponents(Components):
    """What the versions before scored: every adapter under all caption sets, each image under one text of a mix.

    A run that they began is scored so to its end.
    """

    def summed(self, variant: str) -> Weights:  # noqa: ARG002 - as the others
        """All caption sets alike, whatever the variant."""
        sets = [name for name in self.texts if name != NO_PROMPT]
        return dict.fromkeys(sets, 1 / len(sets))

    def on_curve(self, variant: str) -> tuple[Condition, ...]:  # noqa: ARG002 - as the others
        """All caption sets, whatever the variant."""
        return tuple(Condition(name, whole=True) for name in self.texts if name != NO_PROMPT)

    def of_base(self) -> tuple[Condition, ...]:
        """All caption sets and the empty prompt."""
        return _conditions(self.texts, ())

    def at_end(
        self,
        variant: str,  # noqa: ARG002 - as the others
        others: Iterable[str],  # noqa: ARG002
        listened: str | None,  # noqa: ARG002
    ) -> tuple[Condition, ...]:
        """All caption sets and the empty prompt, whatever the variant."""
        return self.of_base()


def _conditions(whole: Iterable[str], curve: Iterable[str]) -> tuple[Condition, ...]:
    """The first components at all strata and the others, each once, at the curve's, which are part of these."""
    first = dict.fromkeys(whole)
    others = dict.fromkeys(component for component in curve if component not in first)
    return (*(Condition(name, whole=True) for name in first), *(Condition(name, whole=False) for name in others))


def components_of(
    captions: Captions, sets: Mapping[str, str], configs: Mapping[str, CaptionsConfig], image_ids: Sequence[str]
) -> Components:
    """The components of a study.

    Captions of two strategies that are equal on all held-out images are one component, named after the first.

    Args:
        sets: variant to the name of its caption set.
        configs: variant to the settings of its captions.
        image_ids: of the held-out images.
    """
    texts: dict[str, tuple[str, ...]] = {}
    name_of = {("",) * len(image_ids): NO_PROMPT}
    own = {}
    for variant, config in configs.items():
        parts = plain_parts(config)
        weights: dict[str, float] = {}
        for at, (weight, _) in enumerate(parts):
            shown = _texts(captions[sets[variant]], at, image_ids)
            name = name_of.setdefault(shown, sets[variant] if len(parts) == 1 else f"{sets[variant]} part {at + 1}")
            texts[name] = shown
            weights[name] = weights.get(name, 0) + weight * (1 - config.caption_dropout)
        if config.caption_dropout:
            weights[NO_PROMPT] = weights.get(NO_PROMPT, 0) + config.caption_dropout
        own[variant] = weights
    shuffled = {}
    for name, shown in list(texts.items()):
        if len(set(shown)) > 1:
            moved = shuffle(shown, image_ids)
            shuffled[name] = name_of.setdefault(moved, f"{name} shuffled")
            texts[shuffled[name]] = moved
    return Components(texts | {NO_PROMPT: ("",) * len(image_ids)}, own, shuffled)


def earlier_components_of(
    captions: Captions, sets: Mapping[str, str], configs: Mapping[str, CaptionsConfig], image_ids: Sequence[str]
) -> EarlierComponents:
    """The components of a study that an earlier version began; see `components_of`."""
    texts, own = {}, {}
    uniform = np.array([validation_caption_uniform(image) for image in image_ids])
    for variant, config in configs.items():
        name, dropout = sets[variant], config.caption_dropout
        weights = np.array([[weight for weight, _ in plain_parts(config)]])
        chosen = choose_texts(weights.repeat(len(image_ids), axis=0), uniform)
        of_image = {record.id: record.texts for record in captions[name]}
        texts[name] = tuple(of_image[image][part] for image, part in zip(image_ids, chosen, strict=True))
        own[variant] = {name: 1 - dropout} | ({NO_PROMPT: dropout} if dropout else {})
    return EarlierComponents(texts | {NO_PROMPT: ("",) * len(image_ids)}, own, {})


def _texts(captions: Sequence[CaptionRecord], part: int, image_ids: Sequence[str]) -> tuple[str, ...]:
    """The text of each of these images in one part of a caption set. Raises KeyError where an image has none."""
    found = {record.id: record for record in captions}
    return tuple(_text(found[image], part) for image in image_ids)


def _text(record: CaptionRecord, part: int) -> str:
    places = record.places[part]
    at = int(validation_caption_uniform(record.id) * len(places)) if len(places) > 1 else 0
    return record.texts[places[at]]


def shuffle(texts: Sequence[str], image_ids: Sequence[str]) -> tuple[str, ...]:
    """Each image's text given to another image, such that as few images as possible keep theirs.

    The texts, sorted, are moved on by as many images as show the commonest of them.
    """
    order = sorted(range(len(texts)), key=lambda at: (texts[at], image_ids[at]))
    moved = max(Counter(texts).values())
    result = list(texts)
    for place, at in enumerate(order):
        result[at] = texts[order[(place + moved) % len(order)]]
    return tuple(result)


def changed(before: Sequence[str], after: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which images have another text after than before."""
    return np.array([one != other for one, other in zip(before, after, strict=True)])
