"""What generated pictures measure, and what those of two adapters differ by, each with its variance. Torch-free.

An interval covers the choice of prompts, from all those that might have been chosen like them, and with it the noise
that each picture was made from. Pictures of one prompt are not independent, so that a prompt is a group of them. Of
several training seeds it covers these too; that of one seed is about its adapters alone. It does not cover the choice
of the held-out and the training images, nor that of the CLIP model. Two adapters share them all, and are compared on
these.

The line-art distances are those of as many pictures as there are: of fewer they are larger, and most so where they are
small. Only sets of one size are to be compared, and what two of them differ by is rather too near to 0.

Shape legend: S training seeds, N pictures of one of them, P prompts, G prompts that have pictures, M line-art measures,
V held-out images, T training images, D dimensions of a CLIP embedding.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from lora_engine.evaluation import clip_score
from lora_engine.evaluation.distribution import (
    Floats,
    Kernel,
    Places,
    cmmd_kernel,
    kid_kernel,
    squared_mmd,
    wasserstein,
)
from lora_engine.evaluation.line_art import Measures
from lora_engine.evaluation.statistics import Estimate, Interval, estimate

# And held-out images, of a maximum mean discrepancy. Of 8 of the miniature's drawings, KID and CMMD tell coloured
# stickers from line drawings in 98 of 100 draws, by which are further from 40 line drawings; of 4, in 91.
FEWEST_PICTURES = 8

_NO_CLIP = "no CLIP model is given: evaluation.samples.clip"
_NO_EMBEDDINGS = "the pictures' CLIP embeddings are not kept: an earlier version drew them, or the file is lost"
_NOT_BY_THIS_CLIP = "the images have no embeddings by this CLIP model: evaluation.samples.clip of the run is another"
_NO_IMAGES = "there are no images to compare with"
_NONE_IS_FINITE = "no picture is finite"
_NONE_IN_ALL = "no prompt and seed has finite pictures of all adapters"


@dataclass(frozen=True)
class PictureSet:
    """The pictures of one adapter, that of one training seed, whose pixels are finite."""

    prompts: Places  # [N], the place of each picture's prompt in the list, in [0, P)
    seeds: Places  # [N], of each picture's noise; no two pictures have the same prompt and seed
    line_art: Floats  # [N, M], in the order of the fields of line_art.Measures
    cosines: Floats | None  # [N, P], of each picture to every bare prompt; None without a CLIP model
    embeddings: Floats | None  # [N, D], of length 1; None without a CLIP model

    def take(self, chosen: npt.NDArray[np.bool_] | Places) -> "PictureSet":
        """The pictures of a mask, [N], or at places, in their order."""
        return PictureSet(
            prompts=self.prompts[chosen],
            seeds=self.seeds[chosen],
            line_art=self.line_art[chosen],
            cosines=None if self.cosines is None else self.cosines[chosen],
            embeddings=None if self.embeddings is None else self.embeddings[chosen],
        )


@dataclass(frozen=True)
class References:
    """The images that pictures are compared with."""

    held_out: Floats | None  # [V, M], their line-art measures; None where an earlier version did not measure them
    training: (
        Floats | None
    )  # [T, M], in the order of their ids, T at least 1; None for an adapter of which the images are not known
    held_out_embeddings: Floats | None  # [V, D], of length 1; None without a CLIP model or where there are none by it


def estimates(sets: Sequence[PictureSet], references: References) -> dict[str, Estimate | str]:
    """Every measure of one strategy's pictures, with its variance over prompts and training seeds.

    Args:
        sets: one for each training seed. Only prompts and seeds count that have a picture in all of them.

    Returns:
        For each of MEASURES, in their order, the estimate, or why there is none, in words.
    """
    return _estimates(_aligned(sets), (), references)


def differences(a: Sequence[PictureSet], b: Sequence[PictureSet], references: References) -> dict[str, Estimate | str]:
    """What the measures of `a` are above those of `b`, paired by prompt and seed.

    Args:
        a: one for each training seed, as many as there are in `b` and in the same order. Only prompts and seeds count
            that have a picture in all sets of both.
        b: as `a`.

    Returns:
        For each of MEASURES, in their order, the estimate, or why there is none, in words.
    """
    assert len(a) == len(b), "training seeds are paired"
    aligned = _aligned([*a, *b])
    return _estimates(aligned[: len(a)], aligned[len(a) :], references)


def interval_of(measure: str, found: Estimate, confidence: float) -> Interval:
    """The interval of a measure, not of a difference, within what the measure can be."""
    least, most = _RANGES.get(measure, (-math.inf, math.inf))
    whole = found.interval(confidence)
    if whole.low is None or whole.high is None:
        return whole
    return replace(whole, low=max(whole.low, least), high=min(whole.high, most))


def line_art_distances(sets: Sequence[PictureSet], references: References) -> dict[str, dict[str, Estimate]]:
    """What `line_art_distance` and `line_art_training_distance` are the means of: each measure's distance.

    Args:
        sets: as in `estimates`.

    Returns:
        Measure to the distances to the `held_out` and the `training` images that can be had. Without pictures, nothing.
    """
    aligned = _aligned(sets)
    found: dict[str, dict[str, Estimate]] = {}
    if len(aligned[0].prompts) == 0:
        return found
    prompts, groups = aligned[0].prompts.astype(np.str_), _groups(aligned[0])
    images = {"held_out": references.held_out, "training": references.training}
    for at, field in enumerate(fields(Measures)):
        found[field.name] = {
            name: estimate(
                np.array([wasserstein(one.line_art[:, at], every[:, at], groups).pseudo_values() for one in aligned]),
                prompts,
            )
            for name, every in images.items()
            if every is not None and len(every) > 0
        }
    return found


class _NotMeasurableError(Exception):
    """Its text is the reason."""


@dataclass(frozen=True)
class _Values:
    """Numbers whose mean is the measure, of N pictures or as many prompts."""

    numbers_SN: Floats
    prompts_N: Places


_Measure = Callable[[Sequence[PictureSet], References], _Values]


def _estimates(
    sets: Sequence[PictureSet], less: Sequence[PictureSet], references: References
) -> dict[str, Estimate | str]:
    """Every measure of aligned sets, less that of others where there are any."""
    found: dict[str, Estimate | str] = {}
    if len(sets[0].prompts) == 0:
        alone = len(sets) + len(less) == 1
        return found | dict.fromkeys(_MEASURES, _NONE_IS_FINITE if alone else _NONE_IN_ALL)
    for name, measure in _MEASURES.items():
        try:
            values = measure(sets, references)
            numbers_SN = values.numbers_SN - measure(less, references).numbers_SN if less else values.numbers_SN
            mean = estimate(numbers_SN, values.prompts_N.astype(np.str_))
            found[name] = _of_shares(mean, numbers_SN) if name in _SHARES else mean
        except _NotMeasurableError as reason:
            found[name] = str(reason)
    return found


def _of_shares(found: Estimate, numbers_SN: Floats) -> Estimate:
    """The estimate of a share, or of a difference of two, whose variance is not 0 where all prompts agree.

    That six of six pictures fit their prompt does not make it certain that all would. The variance is at least that of
    a share with one further prompt on either side (Agresti and Coull, "Approximate is better than exact for interval
    estimation of binomial proportions", 1998).
    """
    if found.images_variance is None:
        return found
    share = (found.groups * float(np.abs(numbers_SN).mean()) + 1) / (found.groups + 2)
    return replace(found, images_variance=max(found.images_variance, share * (1 - share) / found.groups))


def _aligned(sets: Sequence[PictureSet]) -> list[PictureSet]:
    """The pictures whose prompt and seed all sets have, in one order, so that it does not matter how they came."""
    places = [
        {pair: at for at, pair in enumerate(zip(one.prompts.tolist(), one.seeds.tolist(), strict=True))} for one in sets
    ]
    common = sorted(set.intersection(*(set(place_of) for place_of in places)))
    return [
        one.take(np.array([place_of[pair] for pair in common], dtype=np.int64))
        for one, place_of in zip(sets, places, strict=True)
    ]


def _of_each_picture(sets: Sequence[PictureSet], numbers: Callable[[PictureSet], npt.NDArray[np.generic]]) -> _Values:
    """A measure that a picture has by itself, so that `numbers` gives [N]."""
    return _Values(np.array([numbers(one) for one in sets], dtype=np.float64), sets[0].prompts)


def _clip_score(sets: Sequence[PictureSet], _: References) -> _Values:
    """100 * max(cosine to the own prompt, 0), in [0, 100]; clip_score.py names its source."""
    return _of_each_picture(sets, lambda one: clip_score.scores(_cosines(one), one.prompts))


def _clip_retrieval(sets: Sequence[PictureSet], _: References) -> _Values:
    """The share of pictures that fit their own prompt better than any other, in [0, 1]."""
    if _cosines(sets[0]).shape[1] == 1:
        raise _NotMeasurableError("there is one prompt only")
    return _of_each_picture(sets, lambda one: clip_score.retrieved(_cosines(one), one.prompts))


def _line_art(measure: int) -> _Measure:
    """One of the line-art measures, by its place."""
    return lambda sets, _: _of_each_picture(sets, lambda one: one.line_art[:, measure])


def _line_art_distance(sets: Sequence[PictureSet], references: References) -> _Values:
    """How far the pictures' line-art measures are from the held-out images', at least 0."""
    return _line_art_distance_to(_held_out(references.held_out, references), sets)


def _line_art_training_distance(sets: Sequence[PictureSet], references: References) -> _Values:
    """The same from the training images'."""
    if references.training is None:
        raise _NotMeasurableError(_NO_IMAGES)
    return _line_art_distance_to(references.training, sets)


def _line_art_gap(sets: Sequence[PictureSet], references: References) -> _Values:
    """The distance to the held-out images less that to as many training images.

    A set of few images is farther from anything than one of many. So the training images are parted, in their order,
    into sets of as many as are held out, and the distances to these are averaged. Which images are held out decides the
    gap of any pictures by a little, also of the base model's: a gap above that one is a sign of memorising.
    """
    held_out = _line_art_distance(sets, references)
    if references.training is None or references.held_out is None:
        raise _NotMeasurableError(_NO_IMAGES)
    size = min(len(references.held_out), len(references.training))
    parts = [references.training[start : start + size] for start in range(0, len(references.training) - size + 1, size)]
    training_SN = np.mean([_line_art_distance_to(part, sets).numbers_SN for part in parts], axis=0)
    return _Values(held_out.numbers_SN - training_SN, held_out.prompts_N)


def _line_art_distance_to(images_VM: Floats, sets: Sequence[PictureSet]) -> _Values:
    """The mean over the line-art measures of the Wasserstein-1 distance of their distributions.

    The measures are taken together in their own units, as the line-art distance of the report is.
    """
    groups = _groups(sets[0])

    def numbers(one: PictureSet) -> Floats:
        measures = zip(one.line_art.T, images_VM.T, strict=True)
        mean_N: Floats = np.mean([wasserstein(*measure, groups).pseudo_values() for measure in measures], axis=0)
        return mean_N

    return _of_each_picture(sets, numbers)


def _diversity(sets: Sequence[PictureSet], _: References) -> _Values:
    """The mean over prompts of the mean of 1 - cosine over pairs of their pictures, in [0, 2].

    Prompts that have one picture take no part.
    """
    prompts, sizes = np.unique(sets[0].prompts, return_counts=True)
    several = prompts[sizes > 1]
    embeddings = [_embeddings(one) for one in sets]
    if len(several) == 0:
        raise _NotMeasurableError("one seed a prompt: two are needed")
    numbers_SG = [
        [_mean_distance(embeddings_ND[one.prompts == prompt]) for prompt in several]
        for one, embeddings_ND in zip(sets, embeddings, strict=True)
    ]
    return _Values(np.array(numbers_SG), several)


def _mean_distance(embeddings_ND: Floats) -> float:
    """The mean of 1 - cosine over all pairs of pictures."""
    firsts, seconds = np.triu_indices(len(embeddings_ND), k=1)
    return float((1 - (embeddings_ND @ embeddings_ND.T)[firsts, seconds]).mean())


def _similarity(sets: Sequence[PictureSet], references: References) -> _Values:
    """The mean cosine to the held-out images, in [-1, 1]."""
    embeddings = [_embeddings(one) for one in sets]
    mean_D = _held_out_embeddings(references).mean(axis=0)
    return _Values(np.array([embeddings_ND @ mean_D for embeddings_ND in embeddings]), sets[0].prompts)


def _squared_mmd(kernel: Kernel) -> _Measure:
    """The squared maximum mean discrepancy to the held-out images, which may be negative where there is none."""

    def measure(sets: Sequence[PictureSet], references: References) -> _Values:
        embeddings, groups = [_embeddings(one) for one in sets], _groups(sets[0])
        held_out_VD = _held_out_embeddings(references)
        for what, count in (("pictures", len(groups)), ("held-out images", len(held_out_VD))):
            if count < FEWEST_PICTURES:
                raise _NotMeasurableError(f"too few {what}: {count}, and {FEWEST_PICTURES} are needed")
        if 0 < len(groups) - np.bincount(groups).max() < 2:
            raise _NotMeasurableError("too few pictures: all but one are of one prompt")
        numbers_SN = [squared_mmd(kernel, one_ND, held_out_VD, groups).pseudo_values() for one_ND in embeddings]
        return _Values(np.array(numbers_SN), sets[0].prompts)

    return measure


def _groups(one: PictureSet) -> Places:
    """The prompt of each picture, counted among those that have pictures: [N], in [0, G)."""
    _, group_of_picture = np.unique(one.prompts, return_inverse=True)
    return group_of_picture.astype(np.int64)


def _cosines(one: PictureSet) -> Floats:
    if one.cosines is None:
        raise _NotMeasurableError(_NO_CLIP)
    return one.cosines


def _embeddings(one: PictureSet) -> Floats:
    if one.embeddings is None:
        raise _NotMeasurableError(_NO_CLIP if one.cosines is None else _NO_EMBEDDINGS)
    return one.embeddings


def _held_out_embeddings(references: References) -> Floats:
    if references.held_out_embeddings is None and references.held_out is not None:
        raise _NotMeasurableError(_NOT_BY_THIS_CLIP)
    return _held_out(references.held_out_embeddings, references)


def _held_out(measured: Floats | None, references: References) -> Floats:
    """Their line-art measures or embeddings."""
    if references.training is None:
        raise _NotMeasurableError(_NO_IMAGES)
    if measured is None:
        raise _NotMeasurableError("an earlier version did not measure the held-out images")
    if len(measured) == 0:
        raise _NotMeasurableError("no image is held out")
    return measured


_MEASURES: Mapping[str, _Measure] = {
    "clip_score": _clip_score,
    "clip_retrieval": _clip_retrieval,
    **{field.name: _line_art(at) for at, field in enumerate(fields(Measures))},
    "line_art_distance": _line_art_distance,
    "line_art_training_distance": _line_art_training_distance,
    "line_art_gap": _line_art_gap,
    "diversity": _diversity,
    "similarity": _similarity,
    "kid": _squared_mmd(kid_kernel),
    "cmmd": _squared_mmd(cmmd_kernel),
}
# What each measure can be at least and at most, beyond which its interval does not reach. Others can be anything.
_RANGES = {
    "clip_score": (0, 100),
    "clip_retrieval": (0, 1),
    **dict.fromkeys(("border_whiteness", "ink_coverage", "bimodality", "contrast"), (0, 1)),
    **dict.fromkeys(
        ("stroke_width", "colourfulness", "line_art_distance", "line_art_training_distance"), (0, math.inf)
    ),
    "diversity": (0, 2),
    "similarity": (-1, 1),
}
_SHARES = frozenset({"clip_retrieval"})
MEASURES = tuple(_MEASURES)  # their names
