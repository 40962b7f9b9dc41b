"""Generates samples of the same prompts with the base model and every checkpoint, and measures them."""

import hashlib
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.numpy import save

from job import layout
from job.layout import Member
from job.manifest.packs import Pack
from job.run import checkpoints
from job.run.context import Attempt, Workplace
from job.run.references import read_library
from job.run.samples import Prompting, SampleIndex, SampleRow, SampleSet
from job.threads import Background
from lora_engine.adapters import formats, lora
from lora_engine.adapters.names import DIFFUSERS_NAME
from lora_engine.evaluation.line_art import measure
from lora_engine.evaluation.memorisation import Library, nearest
from lora_engine.evaluation.sampler import Request, Sample, Sampler
from lora_engine.images.crops import thumbnail_grey
from lora_engine.models.clip import ClipScorer, load_clip
from lora_engine.models.files import LocalModel
from lora_engine.records import ImageRecord
from lora_engine.text import shortened


@dataclass(frozen=True)
class SampledStep:
    """A step at which samples are wanted."""

    step: int
    on_the_way: bool  # whether it is neither the base model nor the last step
    members: tuple[Member, ...]  # that have a checkpoint of it; at step 0 all that the base model draws for


@dataclass(frozen=True)
class Measuring:
    """What samples are measured with."""

    clip: LocalModel | None  # scores them; None where none is given
    used: Sequence[ImageRecord]  # the images of the run that are trained on or held out, in the order of their ids
    device: torch.device


def sampled_steps(attempt: Attempt, pack: Pack) -> list[SampledStep]:
    """The steps at which a pack's adapters are sampled, ascending: 0 and those of all evaluations, or the last alone.

    A step of which no checkpoint was kept, but for step 0, which needs none, is none of them.
    """
    config = attempt.manifest.evaluation
    when = "evaluations" if config.samples is None else config.samples.when
    kept = {member: {0, *checkpoints.committed_steps(attempt.run, member)} for member in pack.members}
    found = [
        SampledStep(step, on_the_way, tuple(member for member in members if step in kept[member]))
        for step, on_the_way, members in pack.samplings(config.every, when)
    ]
    return [step for step in found if step.members]


def has_samples(place: Workplace, steps: Sequence[SampledStep], wanted: SampleSet) -> bool:
    """Whether every sample of these steps is generated and measured."""
    return not any(_missing(place, step, wanted) for step in steps)


def sample_pack(
    place: Workplace,
    steps: Sequence[SampledStep],
    wanted: SampleSet,
    model: LocalModel,
    unet: torch.nn.Module,
    measuring: Measuring,
    images_at_once: int,
    passes: float = 0.0,
) -> None:
    """Generate, measure and write the samples of a pack's checkpoints that are missing.

    Args:
        model: the base model.
        unet: its UNet with the pack's adapters injected, into which the weights of each checkpoint are loaded.
        measuring: what the samples are measured with, and the device.
        images_at_once: how many images of each adapter may pass through the UNet at once.
        passes: forward passes of one image that a picture takes, for the progress of the whole run.
    """
    sample(
        place,
        steps,
        wanted,
        lambda: Sampler(model, unet, wanted.texts, images_at_once, measuring.device, wanted.sampler),
        partial(_load_adapter, place, unet),
        measuring,
        passes,
    )


def sample(
    place: Workplace,
    steps: Sequence[SampledStep],
    wanted: SampleSet,
    make_sampler: Callable[[], Sampler],
    load: Callable[[Member, int], None],
    measuring: Measuring,
    passes: float = 0.0,
) -> None:
    """Generate, measure and write the samples of these steps that are missing.

    The images of a step are written first and its index last, so that an index is never without its images.

    Args:
        make_sampler: called where samples are missing.
        load: lets the sampler's UNet have the weights of a member's checkpoint.
        passes: as in `sample_pack`.
    """
    missing = [(step, members) for step in steps if (members := _missing(place, step, wanted))]
    if not missing:
        return
    sampler = make_sampler()
    clip = load_clip(measuring.clip, measuring.device) if measuring.clip else None
    library = read_library(place.run, measuring.used, wanted.clip_sha256) if measuring.used else None
    asked = [(step, members, _ask(step, wanted)) for step, members in missing]
    total = sum(len(group) for _, _, groups in asked for group in groups)
    with (
        place.progress.stage("sample", "Drawing samples", total=total, unit="pictures", passes=passes) as stage,
        Background("samples") as publishing,
    ):
        for step, members, groups in asked:
            for member in step.members if step.step else ():
                load(member, step.step)
            publisher = _Publisher(place, wanted, step.step, members, library, clip)
            requests, kept = [group.request for group in groups], publisher.kept(groups)
            for samples in sampler.generate(requests, place.stop.check, kept):
                stage.advance(len(samples))
                drawn = [(one, groups[one.request].uses[one.adapter]) for one in samples]
                publisher.warn_of_not_finite(drawn)
                publishing.submit(partial(publisher.publish, drawn, publisher.embed(samples)))
            publishing.submit(publisher.publish_indices)


@dataclass(frozen=True)
class _Use:
    """A sample that a picture is: a member's, of a prompt, by its place, with a seed."""

    member: Member
    prompt: int
    seed: int
    prompting: Prompting


@dataclass(frozen=True)
class _Group:
    """What is asked of the sampler at once, and which samples the picture of each adapter then is."""

    request: Request
    uses: Mapping[str | None, Sequence[_Use]]

    def __len__(self) -> int:
        return len(self.uses)


def _ask(step: SampledStep, wanted: SampleSet) -> list[_Group]:
    """What to ask for at a step: each prompt bare, and as each adapter was trained where that is another text.

    All adapters that have a checkpoint draw, not only those whose samples are missing: the number of images in a pass
    decides how sums are rounded. The base model draws each text once for all members.
    """
    groups: dict[tuple[str | bool, int, int], dict[str | None, tuple[str, list[_Use]]]] = {}
    for use, text in _samples_of(step, wanted):
        kind, adapter = (use.prompting == "as_trained", use.member.adapter_name) if step.step else (text, None)
        group = groups.setdefault((kind, use.prompt, use.seed), {})
        group.setdefault(adapter, (text, []))[1].append(use)
    return [
        _Group(
            Request({adapter: text for adapter, (text, _) in group.items()}, seed, wanted.settings[prompt]),
            {adapter: uses for adapter, (_, uses) in group.items()},
        )
        for (_, prompt, seed), group in groups.items()
    ]


def _samples_of(step: SampledStep, wanted: SampleSet) -> Iterator[tuple[_Use, str]]:
    """Every sample of a step, and its text."""
    for prompt, seed in wanted.wanted(on_the_way=step.on_the_way):
        bare = wanted.prompts[prompt]
        for member in step.members:
            trained = wanted.as_trained[member.variant][prompt]
            yield _Use(member, prompt, seed, "both" if trained == bare else "bare"), bare
            if trained != bare:
                yield _Use(member, prompt, seed, "as_trained"), trained


def _missing(place: Workplace, step: SampledStep, wanted: SampleSet) -> tuple[Member, ...]:
    """The members whose samples of a step are missing."""
    drawn = frozenset(wanted.wanted(on_the_way=step.on_the_way))

    def is_there(member: Member) -> bool:
        index = place.run.read_stored(layout.sample_index(member, step.step, wanted.name), SampleIndex)
        return index is not None and index.settings == wanted.settings_of(member.variant) and index.drawn >= drawn

    return tuple(member for member in step.members if not is_there(member))


def _load_adapter(place: Workplace, unet: torch.nn.Module, member: Member, step: int) -> None:
    """Load the weights of a member's checkpoint into its adapter of the UNet."""
    committed = checkpoints.read_commit(place.run, member, step, checkpoints.run_id_of(place.run))
    with tempfile.TemporaryDirectory(dir=place.workdir) as scratch:
        path = Path(scratch) / DIFFUSERS_NAME
        checkpoints.fetch_file(place.run, committed, DIFFUSERS_NAME, path)
        lora.load(unet, member.adapter_name, formats.read_adapter(path))


@dataclass(frozen=True)
class _Measured:
    """A sample's row without likeness, and what that is computed from; None where it has no picture."""

    member: Member
    row: SampleRow
    small: npt.NDArray[np.uint8] | None = None
    embedding: npt.NDArray[np.float32] | None = None


class _Publisher:
    """Measures and writes the samples of one step: the pictures one by one, and the members' indices at the end."""

    def __init__(
        self,
        place: Workplace,
        wanted: SampleSet,
        step: int,
        members: Sequence[Member],
        library: Library | None,
        clip: ClipScorer | None,
    ) -> None:
        self._place, self._wanted, self._step, self._members = place, wanted, step, members
        self._library, self._clip = library, clip
        self._prompts = clip.text_embeddings(wanted.prompts) if clip else None
        self._measured: list[_Measured] = []

    def kept(self, groups: Sequence[_Group]) -> Callable[[str | None, int], Image.Image | None]:
        """A function that gives the picture of a group, by its place, that an interrupted start has written."""
        members = {use.member for group in groups for uses in group.uses.values() for use in uses}
        there = {key for member in members for key, _ in self._place.run.list(self._folder(member))}

        def picture(adapter: str | None, at: int) -> Image.Image | None:
            keys = [f"{self._folder(use.member)}/{_file_of(use)}" for use in groups[at].uses[adapter]]
            return _read_picture(self._place.run.read(keys[0])) if there.issuperset(keys) else None

        return picture

    def warn_of_not_finite(self, drawn: Sequence[tuple[Sample, Sequence[_Use]]]) -> None:
        """Warn of every sample that has no picture."""
        for sample, uses in drawn:
            if sample.image is None:
                prompt, how = shortened(self._wanted.prompts[uses[0].prompt], 80), uses[0].prompting
                self._place.progress.warn(
                    f"{sample.adapter or 'the base model'}, step {self._step}: the sample of {prompt!r}, seed "
                    f"{uses[0].seed}{', as trained' if how == 'as_trained' else ''}, is not finite; it has no picture "
                    "and no scores"
                )

    def embed(self, samples: Sequence[Sample]) -> list[npt.NDArray[np.float32] | None]:
        """The CLIP embedding of each sample's picture; None where there is no picture or no CLIP model."""
        pictures = [one.image for one in samples if one.image is not None]
        if self._clip is None or not pictures:
            return [None] * len(samples)
        found = iter(self._clip.image_embeddings(pictures))
        return [None if one.image is None else next(found) for one in samples]

    def publish(
        self,
        drawn: Sequence[tuple[Sample, Sequence[_Use]]],
        embeddings: Sequence[npt.NDArray[np.float32] | None],
    ) -> None:
        """Write the pictures for each member that misses them, and measure them."""
        for (sample, uses), embedding in zip(drawn, embeddings, strict=True):
            wanted = [use for use in uses if use.member in self._members]
            if not wanted:
                continue
            if sample.image is None:
                self._measured += [_Measured(use.member, self._row(use)) for use in wanted]
                continue
            data = io.BytesIO()
            sample.image.save(data, "PNG")
            facts = {
                "sha256": hashlib.sha256(data.getvalue()).hexdigest(),
                "line_art": measure(sample.image),
                "clip_cosines": self._cosines(embedding),
            }
            small = thumbnail_grey(sample.image)
            for use in wanted:
                name = _file_of(use)
                self._place.run.write(f"{self._folder(use.member)}/{name}", data.getvalue())
                self._measured.append(_Measured(use.member, self._row(use, file=name, **facts), small, embedding))

    def publish_indices(self) -> None:
        """Write the members' indices, after the pictures."""
        rows = self._with_likeness()
        for member in self._members:
            own = sorted(
                (pair for pair in zip(self._measured, rows, strict=True) if pair[0].member == member),
                key=lambda pair: (pair[1].prompt, pair[1].seed, pair[1].prompting == "as_trained"),
            )
            digest, embeddings = None, [each.embedding for each, _ in own if each.embedding is not None]
            if embeddings:
                key = layout.sample_embeddings(member, self._step, self._wanted.name)
                digest = self._place.run.write(key, save({"embeddings": np.stack(embeddings)})).sha256
            index = SampleIndex(
                settings=self._wanted.settings_of(member.variant),
                images=tuple(row for _, row in own),
                embeddings_sha256=digest,
            )
            self._place.run.write_stored(layout.sample_index(member, self._step, self._wanted.name), index)
            self._place.tracking.samples(self._place.run, member, self._wanted.name)

    def _with_likeness(self) -> list[SampleRow]:
        """The row of each sample that is measured, with its likeness to training images."""
        pictures = [each for each in self._measured if each.small is not None]
        if self._library is None or not pictures:
            return [each.row for each in self._measured]
        embeddings = [each.embedding for each in pictures if each.embedding is not None]
        found = iter(
            nearest(
                np.stack([each.small for each in pictures if each.small is not None]),
                np.stack(embeddings) if self._library.embeddings is not None and embeddings else None,
                self._library,
            )
        )
        return [
            each.row if each.small is None else each.row.model_copy(update={"likeness": next(found)})
            for each in self._measured
        ]

    def _cosines(self, embedding: npt.NDArray[np.float32] | None) -> tuple[float, ...] | None:
        """A picture's cosines with all bare prompts; None without a CLIP model."""
        if embedding is None or self._prompts is None:
            return None
        return tuple((self._prompts.astype(np.float64) @ embedding.astype(np.float64)).tolist())

    def _row(self, use: _Use, **facts: Any) -> SampleRow:
        nothing = {"file": None, "line_art": None}
        return SampleRow(prompt=use.prompt, seed=use.seed, prompting=use.prompting, **(nothing | facts))

    def _folder(self, member: Member) -> str:
        return layout.samples(member, self._step, self._wanted.name)


def _file_of(use: _Use) -> str:
    """The name of a sample's file."""
    return layout.sample_name(use.prompt, use.seed, as_trained=use.prompting == "as_trained")


def _read_picture(data: bytes | None) -> Image.Image | None:
    """The picture in a PNG file; None where it is lost or damaged, and so has to be generated again."""
    try:
        with Image.open(io.BytesIO(data or b""), formats=("PNG",)) as opened:
            return opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
