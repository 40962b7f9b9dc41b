"""The samples of a run in its report: what they measure, how adapters differ in them, and which are copies."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, fields
from functools import cached_property

import numpy as np
import numpy.typing as npt

from job import layout
from job.errors import ExitCode, JobError
from job.layout import Member
from job.report.artefacts import rows, stored
from job.report.parts import Interval
from job.report.picture_schema import (
    Copy,
    LikenessCutoff,
    Memorised,
    MemorisedReport,
    PairPictures,
    PictureDifference,
    PictureMeasures,
    PicturePoint,
    SamplePoint,
    VariantPictures,
)
from job.run.checkpoints import FinalPointer
from job.run.references import not_of_the_run, read_array, read_embeddings, read_held_out_likeness, read_line_art
from job.run.resolved import Resolved
from job.run.samples import SampleIndex, SampleRow
from job.storage.folder import RunFolder
from lora_engine.evaluation.line_art import Measures
from lora_engine.evaluation.memorisation import Cutoff, copied_share, cutoff
from lora_engine.evaluation.pictures import (
    MEASURES,
    PictureSet,
    References,
    differences,
    estimates,
    interval_of,
    line_art_distances,
)
from lora_engine.evaluation.statistics import CONFIDENCE, Estimate, simultaneous
from lora_engine.records import ImageRecord, used_images


class Pictures:
    """All samples of one set: the study's own, or another's.

    Args:
        images: all records of `data/images.jsonl`.
        set_name: of the set's folder; empty for the study's own.
        ends: member to the step at which its training has ended; None where the last samples of each member count,
            whatever their step.

    Raises:
        JobError: 46 when there are samples but no measures of the images that they are compared with, or a file is
            damaged.
    """

    def __init__(
        self,
        run: RunFolder,
        images: Sequence[ImageRecord],
        members: Sequence[Member],
        set_name: str = "",
        ends: Mapping[Member, int] | None = None,
    ) -> None:
        self._run, self.set_name, self._ends = run, set_name, ends
        self._used = used_images(images)
        self.indices = {member: self._read(member) for member in members}
        every = [index for steps in self.indices.values() for index in steps.values()]
        drawn = sorted({pair for index in every for pair in index.drawn})
        self._code = {pair: at for at, pair in enumerate(drawn)}  # tells noise of different prompts apart
        self.clip_sha256 = every[0].settings.clip_sha256 if every else None
        self._differ = any(text != bare for index in every for text, bare in _texts(index))
        self._sets: dict[tuple[Member, int, str], PictureSet] = {}
        self._read_embeddings: dict[str, npt.NDArray[np.float32] | None] = {}

    def _read(self, member: Member) -> dict[int, SampleIndex]:
        """The index of every step, ascending, whose samples are of the same settings as those of the last.

        Samples of other prompts or settings, of an earlier version, cannot be compared to those.
        """
        folder = layout.all_samples(member, self.set_name)
        steps = layout.steps_with(layout.SAMPLE_INDEX_NAME, folder, (key for key, _ in self._run.list(folder)))
        found = {}
        for step in steps:
            index = self._run.read_stored(layout.sample_index(member, step, self.set_name), SampleIndex)
            assert index is not None, "it was listed a moment ago"
            found[step] = index
        return {step: index for step, index in found.items() if index.settings == found[max(found)].settings}

    @cached_property
    def _image_embeddings(self) -> npt.NDArray[np.float32] | None:
        """The CLIP embeddings of the images and of their mirror images, [images, 2, D]; None where there are none."""
        if self.clip_sha256 is None or not self._used:
            return None
        return read_embeddings(self._run, self._used, self.clip_sha256)

    @cached_property
    def _references(self) -> References:
        line_art = read_line_art(self._run)
        is_study = self._ends is not None
        if not self._used or (line_art is None and not is_study):  # An adapter's file, or a run without samples.
            return References(held_out=None, training=None, held_out_embeddings=None)
        training = [line_art[i.id] for i in self._used if line_art and i.split == "train" and i.id in line_art]
        if line_art is None or not training:
            raise JobError(
                ExitCode.CONFLICT,
                f"{self._run.uri(layout.LINE_ART)} is missing, so samples cannot be compared.",
                "Remove _SUCCESS and run the manifest again: it measures the images anew.",
            )
        held_out = [at for at, image in enumerate(self._used) if image.split == "validation"]
        measured = [line_art[self._used[at].id] for at in held_out if self._used[at].id in line_art]
        embeddings = self._image_embeddings
        return References(
            held_out=None if held_out and not measured else np.array([astuple(each) for each in measured]),
            training=np.array([astuple(each) for each in training]),
            held_out_embeddings=None if embeddings is None else embeddings[held_out, 0].astype(np.float64),
        )

    @cached_property
    def _cutoff(self) -> Cutoff:
        """Beyond which likeness a picture is a copy, or why that cannot be told."""
        if not self._used:
            return Cutoff(None, "there are no training images to compare with", 0, 0)
        held_out = [image for image in self._used if image.split == "validation"]
        baseline = read_held_out_likeness(self._run, len(held_out))
        if baseline is None:
            return Cutoff(None, "the run keeps nothing that it is told from: an earlier version, or no samples", 0, 0)
        return cutoff(baseline, [str(image.group) for image in held_out])

    def likeness(self) -> LikenessCutoff | None:
        """The cutoff as the report shows it; None where there are no samples."""
        if not self._code:
            return None
        return LikenessCutoff(**asdict(self._cutoff), held_out_embedding=self._nearest_held_out())

    def _nearest_held_out(self) -> float | None:
        """The largest cosine of a held-out image's CLIP embedding to a training image's, or its mirror image's."""
        embeddings = self._image_embeddings
        if embeddings is None:
            return None
        train, held_out = (
            np.array([image.split == split for image in self._used]) for split in ("train", "validation")
        )
        every = embeddings[train].reshape(-1, embeddings.shape[-1])
        if not train.any() or not held_out.any():
            return None
        return float((embeddings[held_out, 0].astype(np.float64) @ every.T.astype(np.float64)).max())

    def points(self, member: Member) -> list[SamplePoint]:
        """A point for every step at which a member has samples, ascending."""
        return [
            SamplePoint(
                step=step,
                bare=self._point(member, step, "bare"),
                as_trained=self._point(member, step, "as_trained") if index.settings.as_trained else None,
            )
            for step, index in self.indices[member].items()
        ]

    def _point(self, member: Member, step: int, prompting: str) -> PicturePoint:
        rows = _rows(self.indices[member][step], prompting)
        drawn = [row for row in rows if row.file is not None]
        return PicturePoint(
            **dict(self._measures([(member, step)], prompting)),
            not_finite=len(rows) - len(drawn),
            copies=sum(self._is_copy(row) for row in drawn) if self._can_tell(drawn) else None,
        )

    def _measures(self, places: Sequence[tuple[Member, int]], prompting: str) -> PictureMeasures:
        """The measures over members, one of each training seed, each at a step."""
        sets = [self._pictures(member, step, prompting) for member, step in places]
        found = estimates(sets, self._references)
        change: Mapping[str, Estimate | str] = {}
        if all(step > 0 and 0 in self.indices[member] for member, step in places):
            base = [self._pictures(member, 0, prompting) for member, _ in places]
            change = differences(sets, base, self._references)
        distances = line_art_distances(sets, self._references)
        return PictureMeasures(
            images=sum(len(one.prompts) for one in sets),
            line_art={
                measure: {
                    name: Interval.of(interval_of("line_art_distance", each, CONFIDENCE)) for name, each in of.items()
                }
                for measure, of in distances.items()
            },
            measures={
                k: Interval.of(interval_of(k, v, CONFIDENCE)) for k, v in found.items() if not isinstance(v, str)
            },
            change={k: Interval.of(v.interval(CONFIDENCE)) for k, v in change.items() if not isinstance(v, str)},
            unmeasured={k: v for k, v in found.items() if isinstance(v, str)},
        )

    def _pictures(self, member: Member, step: int, prompting: str) -> PictureSet:
        """The pictures of a member at a step."""
        key = member, step, prompting
        if key not in self._sets:
            self._sets[key] = self._picture_set(member, step, prompting)
        return self._sets[key]

    def _picture_set(self, member: Member, step: int, prompting: str) -> PictureSet:
        index = self.indices[member][step]
        every = [row for row in index.images if row.file is not None and row.line_art is not None]
        chosen = [at for at, row in enumerate(every) if row.prompting in (prompting, "both")]
        rows = [every[at] for at in chosen]
        # Prompts of one text, which may differ in their settings, are one prompt.
        texts = list(dict.fromkeys(index.settings.prompts))
        column_of = [index.settings.prompts.index(text) for text in texts]
        measured = [astuple(row.line_art) for row in rows if row.line_art]
        scored = bool(rows) and all(row.clip_cosines is not None for row in rows)
        embeddings = self._embeddings(member, step, len(every))
        return PictureSet(
            prompts=np.array([texts.index(index.settings.prompts[row.prompt]) for row in rows], dtype=np.int64),
            seeds=np.array([self._code[row.prompt, row.seed] for row in rows], dtype=np.int64),
            line_art=np.array(measured).reshape(len(rows), len(fields(Measures))),
            cosines=np.array([row.clip_cosines for row in rows])[:, column_of] if scored else None,
            embeddings=None if embeddings is None else embeddings[chosen].astype(np.float64),
        )

    def _embeddings(self, member: Member, step: int, pictures: int) -> npt.NDArray[np.float32] | None:
        """The CLIP embeddings of a step's pictures, [pictures, D]; None where there are none, or the file is lost.

        Raises:
            JobError: 46 when the file is not the one that was written, or of another model than the images'.
        """
        sha256 = self.indices[member][step].embeddings_sha256
        if sha256 is None:
            return None
        key = layout.sample_embeddings(member, step, self.set_name)
        if key not in self._read_embeddings:
            found = read_array(self._run, key, "embeddings", np.float32, (pictures, None), sha256)
            others = self._references.held_out_embeddings
            if found is not None and others is not None and found.shape[1] != others.shape[1]:
                raise not_of_the_run(self._run, layout.reference_embeddings(str(self.clip_sha256)))
            self._read_embeddings[key] = found
        return self._read_embeddings[key]

    def memorised(self, members: Sequence[Member]) -> MemorisedReport | None:
        """The copies among the last pictures of the members, one of each training seed; None where none can be told."""
        places = self._last(members)
        if places is None:
            return None
        last = {member: self.indices[member][step] for member, step in places}
        if not self._can_tell([row for index in last.values() for row in index.images if row.file is not None]):
            return None
        trained = self._is_trained(places)
        return MemorisedReport(
            bare=self._memorised(last, "bare"), as_trained=self._memorised(last, "as_trained") if trained else None
        )

    def _memorised(self, last: Mapping[Member, SampleIndex], prompting: str) -> Memorised:
        pictures = [(m, row) for m, index in last.items() for row in _rows(index, prompting) if row.file is not None]
        copied = np.array([[self._is_copy(row) for _, row in pictures]])
        prompts = [last[member].settings.prompts[row.prompt] for member, row in pictures]
        return Memorised(
            pictures=len(pictures),
            share=Interval.of(copied_share(copied, prompts)) if pictures else None,
            copies=[self._copy(member, row) for member, row in pictures if self._is_copy(row)],
        )

    def _can_tell(self, drawn: Sequence[SampleRow]) -> bool:
        """Whether copies among these pictures can be told."""
        return self._cutoff.likeness is not None and all(row.likeness is not None for row in drawn)

    def _is_copy(self, row: SampleRow) -> bool:
        return row.likeness is not None and self._cutoff.is_copy(row.likeness)

    def _copy(self, member: Member, row: SampleRow) -> Copy:
        assert row.likeness is not None, "else it is no copy"
        step, nearest, by_clip = max(self.indices[member]), row.likeness.pixels, row.likeness.embedding
        return Copy(
            member=f"{member.variant}/seed-{member.seed}",
            step=step,
            file=f"{layout.samples(member, step, self.set_name)}/{row.file}",
            prompt=self.indices[member][step].settings.prompts[row.prompt],
            seed=row.seed,
            image=nearest.id,
            source=next((image.source for image in self._used if image.id == nearest.id), ""),
            likeness=nearest.likeness,
            mirrored=nearest.mirrored,
            crop=None if nearest.crop is None else list(nearest.crop),
            embedding=None if by_clip is None else by_clip.likeness,
        )

    def variant(self, members: Sequence[Member]) -> VariantPictures | None:
        """The last pictures of a variant; None where one of its members, one of each training seed, has none."""
        last = self._last(members)
        if last is None:
            return None
        return VariantPictures(
            variant=members[0].variant,
            seeds=len(members),
            bare=self._measures(last, "bare"),
            as_trained=self._measures(last, "as_trained") if self._is_trained(last) else None,
            memorised=self.memorised(members),
        )

    def pair(self, a: Sequence[Member], b: Sequence[Member], comparisons: int) -> PairPictures | None:
        """How the last pictures of two variants differ; None where one of their members has none.

        Args:
            a: the members of one variant, one of each training seed.
            b: those of the other, with the same seeds.
            comparisons: how many the study makes, whose intervals are to hold together.
        """
        last = self._last([*a, *b])
        if last is None or last[0][1] == 0:  # Where one has samples of the base model alone, all have.
            return None
        ours, theirs = last[: len(a)], last[len(a) :]
        confidence = simultaneous(comparisons * len(MEASURES) * (2 if self._differ else 1))

        def compared(prompting: str) -> dict[str, PictureDifference]:
            sets = [[self._pictures(*place, prompting) for place in places] for places in (ours, theirs)]
            found = differences(sets[0], sets[1], self._references)
            return {name: _difference(each, confidence) for name, each in found.items() if not isinstance(each, str)}

        trained = self._is_trained([*ours, *theirs])
        return PairPictures(bare=compared("bare"), as_trained=compared("as_trained") if trained else None)

    def last_step(self, member: Member) -> int | None:
        """The step of its last samples; None where it has none, or none of the end of its training."""
        step = max(self.indices[member], default=None)
        return step if self._ends is None or step == self._ends.get(member) else None

    def _last(self, members: Sequence[Member]) -> list[tuple[Member, int]] | None:
        """The members, each with the step of its last samples.

        None where one has none, or none of the end of its training, or where some have those of the base model alone.
        """
        last = {member: step for member in members if (step := self.last_step(member)) is not None}
        if not members or len(last) < len(members):
            return None
        return list(last.items()) if len({step > 0 for step in last.values()}) == 1 else None

    def _is_trained(self, places: Sequence[tuple[Member, int]]) -> bool:
        """Whether the members were prompted as they were trained, too, at these steps."""
        return all(self.indices[member][step].settings.as_trained for member, step in places)


def study_pictures(run: RunFolder) -> Pictures:
    """The study's own samples. Raises JobError 46 as `Pictures` does, and where the run is not begun."""
    resolved = stored(run, layout.RESOLVED, Resolved)
    members = [member for pack in resolved.packs for member in pack.members]
    finals = {member: stored(run, layout.final(member), FinalPointer) for member in members}
    ends = {member: final.step for member, final in finals.items() if final.diverged_at is None}
    return Pictures(run, rows(run, layout.IMAGES, ImageRecord), members, resolved.sample_set, ends)


def _difference(found: Estimate, confidence: float) -> PictureDifference:
    """A difference with its interval, and with the one of that confidence."""
    by_itself, together = found.interval(CONFIDENCE), found.interval(confidence)
    return PictureDifference(
        mean=found.mean,
        low=by_itself.low,
        high=by_itself.high,
        confidence=CONFIDENCE,
        simultaneous_low=together.low,
        simultaneous_high=together.high,
    )


def _rows(index: SampleIndex, prompting: str) -> list[SampleRow]:
    """The samples that were prompted in that way."""
    return [row for row in index.images if row.prompting in (prompting, "both")]


def _texts(index: SampleIndex) -> list[tuple[str, str]]:
    """Each prompt as the adapter was trained, and bare."""
    settings = index.settings
    return list(zip(settings.as_trained, settings.prompts, strict=True)) if settings.as_trained else []
