"""Line-art measures of drawings against scikit-image's and SciPy's own, computed in other ways than ours.

The package grows a skeleton by thinning and measures distances by a transform; here distances are looked up in a tree
of the paper's pixels, and another skeleton, the medial axis, gives nearly the same width.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy.spatial import KDTree
from skimage.color import rgb2gray
from skimage.filters import threshold_otsu
from skimage.morphology import medial_axis, skeletonize

from drawings import SEEDS, draw, geometry
from lora_engine import miniature
from lora_engine.evaluation.line_art import measure

Floats = npt.NDArray[np.float64]

LINES = sorted(miniature.folder("drawings").glob("*.png"))[::15]
STICKERS = ["heart", "skull", "eye", "crown"]


def sticker(subject: str) -> Image.Image:
    return draw(geometry(subject, SEEDS["validation"][3]), "sticker", 128).convert("RGB")


def grey_of(picture: Image.Image) -> Floats:
    """By the weights of ITU-R 601-2 in full precision, where Pillow rounds to 1/255."""
    return np.asarray(picture.convert("RGB")) / 255 @ np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("path", LINES, ids=lambda path: path.stem)
def test_strokes_are_as_wide_as_other_ways_of_measuring_say(path: Path) -> None:
    picture = Image.open(path)
    found, grey = measure(picture), np.asarray(picture.convert("L"))
    ink = grey <= threshold_otsu(grey)
    to_paper, _ = KDTree(np.argwhere(~ink)).query(np.argwhere(skeletonize(ink)))
    assert found.stroke_width == pytest.approx(2 * to_paper.mean() / 128, rel=1e-9)
    axis, distances = medial_axis(ink, return_distance=True)
    assert found.stroke_width == pytest.approx(2 * distances[axis].mean() / 128, rel=0.1)


@pytest.mark.parametrize("path", LINES, ids=lambda path: path.stem)
def test_ink_and_contrast_of_black_on_white_are_those_of_scikit_images_grey(path: Path) -> None:
    """Its weights are others than Pillow's, which matters to colours alone."""
    picture = Image.open(path)
    found, grey = measure(picture), rgb2gray(np.asarray(picture.convert("RGB")))
    assert found.ink_coverage == pytest.approx((grey <= threshold_otsu(grey)).mean(), abs=0.001)
    assert found.contrast == pytest.approx(2 * grey.std(), abs=1e-9)
    assert found.colourfulness == 0


@pytest.mark.parametrize("subject", STICKERS)
def test_ink_and_two_tones_of_colours_are_those_of_grey_that_is_not_rounded(subject: str) -> None:
    found, grey = measure(sticker(subject)), grey_of(sticker(subject))
    ink = grey <= threshold_otsu(grey)
    assert found.ink_coverage == pytest.approx(ink.mean(), abs=0.001)
    assert found.contrast == pytest.approx(2 * grey.std(), abs=0.005)
    within = (ink.mean() * grey[ink].var() + (1 - ink.mean()) * grey[~ink].var()) / grey.var()
    assert found.bimodality == pytest.approx(1 - within, abs=0.005)
