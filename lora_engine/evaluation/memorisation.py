"""Says of every generated picture which training image it is nearest to, and whether it is a copy of it. Torch-free.

A copy may be the whole image or a crop of it, mirrored or not: see lora_engine/images/crops.py. A CLIP model's
embeddings tell besides what is alike in meaning, which makes no copy.

Shape legend: M pictures, T training images, D features of an embedding, S pixels a side of a thumbnail. Of the share of
copies: R training seeds, N pictures.
"""

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt

from lora_engine.evaluation.statistics import CONFIDENCE, FEWEST_GROUPS, Interval
from lora_engine.images.crops import SIDE, Thumbnails, matches
from lora_engine.records import FINITE

_Floats = npt.NDArray[np.float32]

RATE = 1e-4  # of new pictures that are no copies, of which so many may lie beyond the bound
LEAST, MOST = 0.95, 0.97  # between which every cutoff lies, by trials: benchmarks/memorisation.py
_MOST_TWINS = 0.25  # of the held-out images that are copies, beyond which a copy cannot be told from a new picture
_ROUNDING = 4  # decimals of a cosine that do not depend on the order in which products are summed


@dataclass(frozen=True, eq=False)
class Library:
    """The training images that pictures are compared with."""

    ids: tuple[str, ...]
    small: Thumbnails  # their thumbnails, [T, 64, 64]
    embeddings: _Floats | None = None  # of each image and of its mirror image, of unit length, [T, 2, D]

    def __post_init__(self) -> None:
        assert self.ids, "there is something to be like"
        assert self.small.shape == (len(self.ids), SIDE, SIDE), self.small.shape
        assert self.embeddings is None or self.embeddings.shape[:2] == (len(self.ids), 2), self.embeddings.shape


@dataclass(frozen=True)
class Nearest:
    """The training image that a picture is nearest to."""

    __pydantic_config__ = FINITE

    id: str
    likeness: float  # in [-1, 1]; 1 is the same
    mirrored: bool  # whether the picture is like the image's mirror image
    crop: tuple[float, float, float] | None = None  # left, top and side as fractions of the image; None for all of it


@dataclass(frozen=True)
class Likeness:
    """What a picture is nearest to, in two ways."""

    __pydantic_config__ = FINITE

    pixels: Nearest  # by its thumbnail, with a crop of the image or all of it
    embedding: Nearest | None  # by CLIP, with the whole image; None without a model


@dataclass(frozen=True)
class Cutoff:
    """From which likeness of pixels on a picture is a copy."""

    __pydantic_config__ = FINITE

    likeness: float | None  # beyond which a picture is a copy; None where that cannot be said
    reason: str | None  # why it cannot be said
    images: int  # independent held-out images
    twins: int  # of them that are themselves copies of a training image, such as its mirror image

    def is_copy(self, found: Likeness) -> bool:
        """Whether a picture copies the training image whose pixels it is nearest to."""
        assert self.likeness is not None, self.reason
        return found.pixels.likeness > self.likeness


def nearest(small_MSS: Thumbnails, embeddings_MD: _Floats | None, library: Library) -> list[Likeness]:
    """What each picture is nearest to; of training images that are the same, the first one in the library.

    Args:
        small_MSS: the pictures' thumbnails.
        embeddings_MD: their embeddings, of unit length; None where the library has none either.
    """
    assert (embeddings_MD is None) == (library.embeddings is None), "pictures and images are embedded, or neither"
    by_embedding = repeat(None) if embeddings_MD is None else _by_embedding(embeddings_MD, library)
    return [
        Likeness(Nearest(library.ids[found.image], found.likeness, found.mirrored, found.crop), next(by_embedding))
        for found in matches(small_MSS, library.small)
    ]


def cutoff(baseline: Sequence[Likeness], groups: Sequence[str]) -> Cutoff:
    """From which likeness on a picture is a copy, by what held-out images have that are none.

    It is the bound that a new image's likeness exceeds once in ten thousand cases, were Fisher's z (the arctanh) of the
    likenesses normal (the one-sided prediction bound: Hahn and Meeker, "Statistical intervals", 1991), but not below
    the largest of them, nor below `LEAST` or beyond `MOST`. Of a few dozen images no law tells how often two different
    ones are alike by 0.94: with the bound alone, up to 1.5 of 100 new drawings of one set were called copies. Beyond
    `MOST` was one of some thousands of new drawings of simple subjects, and none of any other set. A held-out image
    beyond it is taken for a copy, and says nothing of the others: the split keeps an image's near-duplicates and its
    mirror image on its side, but not its crops.

    Args:
        baseline: of the held-out images, measured as the pictures are.
        groups: the group of near-duplicates that each of them belongs to, of which the nearest counts.
    """
    largest: dict[str, float] = {}
    for found, group in zip(baseline, groups, strict=True):
        largest[group] = max(found.pixels.likeness, largest.get(group, -1.0))
    images = len(largest)
    values = np.array([value for value in largest.values() if value <= MOST], dtype=np.float64)
    twins = images - len(values)
    if images < FEWEST_GROUPS:
        return Cutoff(None, f"{images} independent held-out images, fewer than {FEWEST_GROUPS}", images, twins)
    if twins > _MOST_TWINS * images:
        reason = f"{twins} of {images} independent held-out images are as like a training image as a copy is"
        return Cutoff(None, reason, images, twins)
    bound = max(_prediction_bound(values), float(values.max()))
    return Cutoff(min(max(bound, LEAST), MOST), None, images, twins)


def copied_share(flags_RN: npt.NDArray[np.bool_], prompts: Sequence[Hashable]) -> Interval:
    """The share of pictures that are copies, with an interval in which all pictures of one prompt count as one.

    Clopper and Pearson's interval with an effective number of pictures (Korn and Graubard, "Confidence intervals for
    proportions with small expected number of positive counts estimated from survey data", 1998). That number is Kish's
    of the prompts, as if all pictures of a prompt were copies or none: few prompts do not show how alike theirs are.

    Args:
        flags_RN: whether each picture is a copy.
        prompts: what each picture was generated from, [N].
    """
    from scipy.special import betaincinv  # takes a fifth of a second to import, and is needed only by reports

    assert flags_RN.size, "there are pictures"
    assert flags_RN.shape[1] == len(prompts), (flags_RN.shape, len(prompts))
    numbers = {prompt: at for at, prompt in enumerate(dict.fromkeys(prompts))}
    sizes = np.bincount([numbers[prompt] for prompt in prompts])
    share, effective = float(flags_RN.mean()), float(sizes.sum() ** 2 / np.square(sizes).sum())
    copies, others, tail = share * effective, (1 - share) * effective, (1 - CONFIDENCE) / 2
    low = float(betaincinv(copies, others + 1, tail)) if share > 0 else 0.0
    high = float(betaincinv(copies + 1, others, 1 - tail)) if share < 1 else 1.0
    return Interval(share, low, high, CONFIDENCE)


def _prediction_bound(likenesses: npt.NDArray[np.float64]) -> float:
    """The likeness that another of the same kind exceeds with the probability `RATE`, if Fisher's z is normal."""
    from scipy.special import stdtrit

    z, number = np.arctanh(likenesses), len(likenesses)
    reach = float(stdtrit(number - 1, 1 - RATE)) * float(z.std(ddof=1)) * math.sqrt(1 + 1 / number)
    return math.tanh(float(z.mean()) + reach)


def _by_embedding(embeddings_MD: _Floats, library: Library) -> Iterator[Nearest]:
    assert library.embeddings is not None, "the pictures are embedded too"
    known_2TD = library.embeddings.reshape(2 * len(library.ids), -1)
    for embedding_D in embeddings_MD:
        cosines = known_2TD @ embedding_D
        best = int(cosines.round(_ROUNDING).argmax())
        yield Nearest(library.ids[best // 2], min(1.0, max(-1.0, float(cosines[best]))), best % 2 == 1)
