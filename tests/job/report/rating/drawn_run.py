"""Made runs whose adapters have drawn pictures, as a test chooses them."""

import hashlib
import io
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from job import layout
from job.layout import Member
from job.report.pictures import study_pictures
from job.report.rating.drawn import read_rating
from job.run.samples import SampleIndex, SampleRow, SampleSettings
from lora_engine.evaluation.line_art import measure
from lora_engine.evaluation.ratings.trials import Trials
from lora_engine.records import SampleSetting
from tests.job.report.made_run import BASE, STEPS, Design, MadeRun, around, make_run

ONE, OTHER = "needlework", "pencilwork"  # variants, of names that stand nowhere else
_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def drawn_run(
    folder: Path,
    prompts: Sequence[str],
    *,
    sample_seeds: Sequence[int] = (0,),
    seeds: Sequence[int] = (1, 2),
    settings: Sequence[str] = (),
    same: bool = False,
) -> MadeRun:
    """A finished run of two variants that has pictures of the base model and of the last checkpoints.

    Args:
        sample_seeds: of every prompt.
        seeds: of training.
        same: whether both variants draw the same pictures.
    """
    level = {ONE: 0.7, OTHER: 0.75, "": 0.8}
    made = make_run(
        folder,
        Design(
            [
                {"name": ONE, "captions": {"strategy": "existing"}},
                {"name": OTHER, "captions": {"strategy": "existing", "style_hints": "ink"}},
            ],
            around({BASE: dict.fromkeys(level, 1), ONE: level, OTHER: level}),
            seeds=seeds,
            settings=settings,
        ),
    )
    art = asdict(measure(_drawing("an image")))
    made.run.write_jsonl(layout.LINE_ART, ({"id": image.id} | art for image in made.design.images))
    for pack in made.attempt.packs:
        for member in pack.members:
            for step in (0, STEPS):
                _draw(made, member, step, prompts, sample_seeds, same=same)
    return made


def trials_of(made: MadeRun) -> Trials:
    """What its page has to ask."""
    rating = read_rating(made.run, made.resolved, study_pictures(made.run))
    assert rating is not None
    return rating.trials


def _draw(
    made: MadeRun, member: Member, step: int, prompts: Sequence[str], sample_seeds: Sequence[int], *, same: bool
) -> None:
    whose = "" if step == 0 else f"seed {member.seed}" if same else f"{member.variant} {member.seed}"
    rows = []
    for prompt in range(len(prompts)):
        for seed in sample_seeds:
            for prompting in ("bare", "as_trained"):
                image = _drawing(f"{whose} {prompt} {seed} {prompting}")
                name = layout.sample_name(prompt, seed, as_trained=prompting == "as_trained")
                data = _png(image, "" if same or step == 0 else f"{member.variant} at step {step}")
                made.run.write(f"{layout.samples(member, step)}/{name}", data)
                rows.append(
                    SampleRow(
                        file=name,
                        sha256=hashlib.sha256(data).hexdigest(),
                        prompt=prompt,
                        seed=seed,
                        prompting=prompting,  # type: ignore[arg-type]
                        line_art=measure(image),
                    )
                )
    settings = SampleSettings(
        prompts=tuple(prompts),
        as_trained=tuple(f"{prompt}, as {member.variant}" for prompt in prompts),
        settings=(SampleSetting(64, 64, 1, 7.5, "", 1.0),) * len(prompts),
    )
    made.run.write_stored(layout.sample_index(member, step), SampleIndex(settings=settings, images=tuple(rows)))


def _drawing(what: str) -> Image.Image:
    """A picture that only what it is called decides."""
    dice = np.random.default_rng(zlib.crc32(what.encode()))
    small = Image.fromarray(dice.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize((64, 64), Image.Resampling.BICUBIC)


def _png(image: Image.Image, comment: str) -> bytes:
    """The picture with all that a PNG can say besides pixels."""
    data, info = io.BytesIO(), PngInfo()
    exif = Image.Exif()
    exif[0x010E] = comment  # its description
    info.add_itxt("XML:com.adobe.xmp", f"<x>{comment}</x>")
    info.add_text("parameters", comment)
    image.save(data, "PNG", pnginfo=info, icc_profile=_PROFILE, exif=exif)
    return data.getvalue()
