"""Scores a pack's members on the held-out images, and writes their losses and the rows that sum these up."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property

import numpy as np

from job import layout
from job.layout import Member
from job.manifest.packs import Pack
from job.run.context import Attempt
from job.stages.train.build import Study, TrainablePack
from lora_engine.config.captions import plain_parts
from lora_engine.dataset.encoded import EMPTY_PROMPT, ValidationData
from lora_engine.errors import ModelError
from lora_engine.evaluation import denoising, summary
from lora_engine.evaluation.loss_file import (
    BegunEvaluation,
    EvaluationLosses,
    Scored,
    ScoredTogether,
    pack_begun,
    pack_losses,
    unpack_begun,
)
from lora_engine.records import ValidationRecord

_SAVE_SECONDS = 60.0  # between two times that an unfinished evaluation is stored: what a kill can cost


class PackEvaluation:
    """The evaluations of one pack. `records` holds a row an evaluation for each member, by ascending step.

    Args:
        before_saving: called before an unfinished evaluation is stored for a later attempt to go on with.
    """

    def __init__(
        self, attempt: Attempt, study: Study, pack: Pack, trainable: TrainablePack, before_saving: Callable[[], None]
    ) -> None:
        self._attempt, self._study, self._trainable = attempt, study, trainable
        self._before_saving = before_saving
        self._begun_key = layout.begun_evaluation(pack.unit)
        self.records: dict[Member, list[ValidationRecord]] = {member: [] for member in pack.members}

    def read(self, until: int) -> None:
        """Read the rows that earlier attempts wrote, up to and including that step."""
        for member in self.records:
            rows = self._attempt.run.read_rows(layout.validation(member), ValidationRecord) or []
            self.records[member] = [row for row in rows if row.step <= until]

    def is_scored(self, step: int, members: Sequence[Member]) -> bool:
        """Whether all of the members have been scored at that step."""
        return all(any(record.step == step for record in self.records[m]) for m in members)

    @cached_property
    def _validation_data(self) -> ValidationData:
        weights = {
            self._study.set_of_variant[name]: [weight for weight, _ in plain_parts(variant.captions)]
            for name, variant in self._study.variants.items()
        }
        return self._study.encoded.validation_data(self._study.captions, weights, self._trainable.data)

    def score(self, step: int, members: Sequence[Member], *, whole: bool) -> list[Member]:
        """Score the base model (step 0) or the members as they are, and write the losses and the rows about them.

        Args:
            members: those to score; at step 0, those to write the base model's losses for.
            whole: score on `final_timesteps` strata and under the empty prompt, too, not on the curve's strata alone.

        Returns:
            The members whose losses are not finite, of which nothing is written.

        Raises:
            ModelError: the base model's losses are not finite.
        """
        config, ids = self._attempt.manifest.evaluation, self._validation_data.image_ids
        unet, noise_schedule = self._trainable.unet, self._trainable.noise_schedule
        sets = (*self._study.captions, *([EMPTY_PROMPT] if whole else []))
        strata = (config.final_timesteps, noise_schedule.num_train_timesteps)
        grid = denoising.final_grid(ids, *strata) if whole else denoising.curve_grid(ids, config.timesteps, *strata)
        names = [] if step == 0 else [member.adapter_name for member in members]
        scoring = denoising.Scoring(unet, names, self._validation_data, sets, grid, noise_schedule, config.batch_size)
        scored = Scored(step, sets, ids)
        self._finish(scoring, ScoredTogether(scored, tuple(names), config.batch_size))
        curve_columns = denoising.curve_grid(ids, config.timesteps, *strata).strata_NT if whole else None
        diverged = []
        for k, member in enumerate(members):
            losses = scoring.losses[0 if step == 0 else k]
            if not np.isfinite(losses).all():
                diverged.append(member)
                continue
            data = pack_losses(EvaluationLosses(scored, losses, grid.timesteps_NT))
            self._attempt.run.write(layout.validation_losses(member, step), data)
            self._add(member, summary.summarise(step, losses, sets, curve_columns))
        if step == 0 and diverged:
            raise ModelError(
                "The base model's losses on the held-out images are not finite.",
                "Use precision: bf16 or fp32, or another base model.",
            )
        self._attempt.run.delete(self._begun_key)
        return diverged

    def _add(self, member: Member, record: ValidationRecord) -> None:
        """Put the record among the member's, in the place of one of the same step, and write them all."""
        others = [other for other in self.records[member] if other.step != record.step]
        self.records[member] = sorted([*others, record], key=lambda record: record.step)
        self._attempt.run.write_jsonl(layout.validation(member), (asdict(row) for row in self.records[member]))

    def _finish(self, scoring: denoising.Scoring, facts: ScoredTogether) -> None:
        """Do the scoring to its end, from where an interrupted attempt stored one with the same facts, if any did."""
        stored = self._attempt.run.read(self._begun_key)
        if stored is not None and (begun := _read_begun(stored)) is not None and begun.facts == facts:
            scoring.resume(begun.losses_KENT, begun.done)
        saved = time.monotonic()
        with self._attempt.progress.stage("evaluate", total=scoring.pairs, unit="images") as stage:
            stage.advance(scoring.done)
            for done in scoring:
                stage.advance(done)
                if self._attempt.stop() or time.monotonic() - saved > _SAVE_SECONDS:
                    self._before_saving()
                    data = pack_begun(BegunEvaluation(facts, scoring.losses, scoring.done))
                    self._attempt.run.write(self._begun_key, data)
                    saved = time.monotonic()
                self._attempt.stop.check()


def _read_begun(data: bytes) -> BegunEvaluation | None:
    """An interrupted evaluation; None where its file is damaged, which costs no more than doing it again."""
    try:
        return unpack_begun(data)
    except ValueError:
        return None
