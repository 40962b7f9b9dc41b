"""Which pictures of a run can be rated: those of the last checkpoints, as trained, and of the untouched base model."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from job import layout
from job.layout import Member
from job.report.pictures import Pictures
from job.run.resolved import Resolved
from job.run.samples import Prompting, SampleRow
from job.storage.folder import RunFolder
from lora_engine.evaluation.ratings.trials import BASE, Picture, Place, Trials, make_trials


@dataclass(frozen=True)
class Sample:
    """A sample that is shown."""

    key: str
    sha256: str


@dataclass(frozen=True)
class Rating:
    """The trials of a run, and the samples that they show."""

    trials: Trials
    samples: Mapping[str, Sample]  # by the names of their pictures


def read_rating(run: RunFolder, resolved: Resolved, pictures: Pictures) -> Rating | None:
    """What people can rate blind; None where no two contenders have different pictures of one prompt and sample seed.

    A variant is drawn as it was trained, and the base model bare, as somebody would use each. An adapter that diverged,
    or has no samples of the end of its training, has no picture. Equal artifacts give equal trials.

    Raises:
        JobError: 46 when a file is damaged.
    """
    members = [member for member, steps in pictures.indices.items() if steps]
    if not members:
        return None
    prompts = _prompts(pictures, members[0])
    found = _Found(run, resolved.run_id or "", pictures)
    for member in members:
        if _prompts(pictures, member) != prompts:
            continue  # A version that asked for other samples drew them.
        if BASE not in found.drawn and 0 in pictures.indices[member]:
            found.add(BASE, member, 0, "bare")
        if last := pictures.last_step(member):
            found.add(member.variant, member, last, "as_trained")
    name, question = resolved.manifest.name, resolved.manifest.evaluation.rating.question
    trials = make_trials(name, found.run_id, question, prompts, found.drawn)
    return None if trials is None else Rating(trials, found.shown_in(trials))


def _prompts(pictures: Pictures, member: Member) -> tuple[str, ...]:
    steps = pictures.indices[member]
    return steps[max(steps)].settings.prompts


class _Found:
    """The pictures that have been found so far."""

    def __init__(self, run: RunFolder, run_id: str, pictures: Pictures) -> None:
        self._run, self.run_id, self._pictures = run, run_id, pictures
        self.drawn: dict[str, dict[Place, list[Picture]]] = {}
        self._samples: dict[str, Sample] = {}

    def add(self, contender: str, member: Member, step: int, prompting: Prompting) -> None:
        """Add an adapter's samples of a step that were prompted in that way."""
        set_name = self._pictures.set_name
        there = {key for key, _ in self._run.list(layout.samples(member, step, set_name))}
        for row in self._pictures.indices[member][step].images:
            key = f"{layout.samples(member, step, set_name)}/{row.file}"
            if row.prompting in (prompting, "both") and row.file is not None and key in there:
                sample = Sample(key, self._sha256(key, row))
                name = hashlib.sha256(f"{self.run_id}{sample.sha256}rating".encode()).hexdigest()[:16]
                self._samples[name] = sample
                seed = None if contender == BASE else member.seed
                of_place = self.drawn.setdefault(contender, {}).setdefault((row.prompt, row.seed), [])
                of_place.append(Picture(name, contender, seed))

    def _sha256(self, key: str, row: SampleRow) -> str:
        """The hash of a sample. An earlier version did not note it."""
        return row.sha256 or hashlib.sha256(self._run.read(key) or b"").hexdigest()

    def shown_in(self, trials: Trials) -> dict[str, Sample]:
        """The samples that these trials show, by the names of their pictures."""
        shown = {picture.name for trial in trials.trials for picture in trial.pictures}
        return {name: self._samples[name] for name in sorted(shown)}
