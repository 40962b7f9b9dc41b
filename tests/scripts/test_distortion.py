import torch
from PIL import Image

from drawings import with_article
from lora_engine import miniature
from lora_engine.evaluation.clip_score import retrieval
from lora_engine.models.clip import load_clip
from lora_engine.models.files import LocalModel
from miniature.corpus import corpus
from miniature.distortion import distorted
from miniature.loop import generator
from subjects import SUBJECTS

LINES = corpus("validation", "line", 100)
IMAGES = LINES.images(torch.arange(100))


def test_distortion_is_a_function_of_the_dice_and_keeps_shape_and_range() -> None:
    first, again = (distorted(IMAGES, generator("distortion", 0)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == IMAGES.shape
    assert first.min() >= -1
    assert first.max() <= 1
    change = (first - IMAGES).abs().mean((1, 2, 3))
    assert change.max() > 4 * change.min()
    assert change.min() > 0


def test_the_shipped_clip_names_distorted_drawings() -> None:
    pixels = (distorted(IMAGES, generator("distortion", 1)) + 1).mul(127.5).round().byte()
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
    names = list(SUBJECTS)
    clip = load_clip(LocalModel(miniature.folder("clip")), torch.device("cpu"))
    cosines = clip.cosines(pictures, [with_article(name) for name in names])
    assert retrieval(cosines, [names.index(subject) for subject in LINES.subjects]) >= 0.9
