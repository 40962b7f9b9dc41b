"""Scores a pack's members on the held-out images, and writes their losses and the rows that sum these up."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import torch

from job import layout
from job.layout import Member
from job.manifest.packs import Pack
from job.run.context import Attempt
from job.run.losses import read_losses
from job.stages.train.build import Study, TrainablePack
from lora_engine import diffusion
from lora_engine.config.evaluation import partners_of
from lora_engine.errors import ModelError
from lora_engine.evaluation import denoising
from lora_engine.evaluation.components import Condition
from lora_engine.evaluation.listening import most_listened
from lora_engine.evaluation.loss_file import BegunEvaluation, EvaluationLosses, pack_begun, pack_losses, unpack_begun
from lora_engine.evaluation.summary import summarise
from lora_engine.records import ValidationRecord

_SAVE_SECONDS = 60.0  # between two times that an unfinished evaluation is stored: what a kill can cost


class PackEvaluation:
    """The evaluations of one pack.

    `records` holds a row an evaluation for each member, by ascending step; `curve_losses` the loss of each held-out
    image behind the row's `curve_loss`.

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
        self.curve_losses: dict[Member, dict[int, npt.NDArray[np.float64]]] = {member: {} for member in pack.members}
        config, total = attempt.manifest.evaluation, trainable.noise_schedule.num_train_timesteps
        strata = (config.timesteps, config.final_timesteps, total)
        self._data = study.encoded.validation_data(study.held_out.components.texts, trainable.data)
        self._final_grid = denoising.final_grid(self._data.image_ids, *strata)
        self._curve_grid = denoising.curve_grid(self._data.image_ids, *strata)

    def read(self, until: int) -> None:
        """Read the rows that earlier attempts wrote, up to and including that step."""
        for member in self.records:
            rows = self._attempt.run.read_rows(layout.validation(member), ValidationRecord) or []
            self.records[member] = [row for row in rows if row.step <= until]
            for row in self.records[member]:
                self._remember(member, read_losses(self._attempt.run, member, row.step))

    def _remember(self, member: Member, losses: EvaluationLosses) -> None:
        held_out = self._study.held_out
        weights = held_out.components.summed(member.variant)
        self.curve_losses[member][losses.step] = held_out.curve_loss(losses, weights)

    def curve_losses_at(self, step: int) -> dict[Member, float]:
        """The loss of each adapter that was scored at that step, as trained and on the curve's timesteps."""
        rows = ((member, row) for member, rows in self.records.items() for row in rows)
        return {member: row.curve_loss for member, row in rows if row.step == step}

    @property
    def best_loss(self) -> float | None:
        """The lowest loss of an adapter so far, as trained and on the curve's timesteps; None before the first."""
        losses = [row.curve_loss for rows in self.records.values() for row in rows if row.step]
        return min(losses, default=None)

    def is_scored(self, step: int, members: Sequence[Member]) -> bool:
        """Whether all of the members have been scored at that step."""
        return all(any(record.step == step for record in self.records[m]) for m in members)

    def score(self, step: int, members: Sequence[Member], *, whole: bool) -> list[Member]:
        """Score the base model (step 0) or the members as they are, and write the losses and the rows about them.

        Args:
            members: those to score; at step 0, those to write the base model's losses for.
            whole: score for the comparison, on `final_timesteps` strata and under the captions of others, too.

        Returns:
            The members whose losses are not finite, of which nothing is written.

        Raises:
            ModelError: the base model's losses are not finite.
        """
        grid = self._final_grid if whole else self._curve_grid
        components = self._study.held_out.components
        conditions = [components.of_base()] if step == 0 else self._conditions(members, whole)
        scoring = denoising.Scoring(
            self._trainable.unet,
            [] if step == 0 else [member.adapter_name for member in members],
            conditions,
            self._data,
            grid,
            self._trainable.noise_schedule,
            self._attempt.manifest.evaluation.batch_size,
        )
        self._finish(scoring, step, f"Scoring at step {step}" if step else "Scoring the base model")
        diverged = []
        for k, member in enumerate(members):
            at = 0 if step == 0 else k
            losses = self._evaluated(step, conditions[at], scoring.losses(at), grid)
            if not _is_finite(losses, grid, conditions[at]):
                diverged.append(member)
                continue
            self._attempt.run.write(layout.validation_losses(member, step), pack_losses(losses))
            self._remember(member, losses)
            self._add(member, summarise(losses, components.summed(member.variant), grid.curve_NX))
        if step == 0 and diverged:
            raise ModelError(
                "The base model's losses on the held-out images are not finite.",
                "Use precision: bf16 or fp32, or another base model.",
            )
        self._attempt.run.delete(self._begun_key)
        return diverged

    def score_starts(self, members: Sequence[Member]) -> None:
        """Score members as they are before their first update, on the curve, and write their losses.

        Raises:
            ModelError: the losses are not finite.
        """
        conditions = [self._study.held_out.components.on_curve(member.variant) for member in members]
        scoring = denoising.Scoring(
            self._trainable.unet,
            [member.adapter_name for member in members],
            conditions,
            self._data,
            self._curve_grid,
            self._trainable.noise_schedule,
            self._attempt.manifest.evaluation.batch_size,
        )
        self._finish(scoring, 0, "Scoring what adapters start from")
        for k, member in enumerate(members):
            losses = self._evaluated(0, conditions[k], scoring.losses(k), self._curve_grid)
            if not _is_finite(losses, self._curve_grid, conditions[k]):
                raise ModelError(
                    f"With the file that {member.variant} starts from, losses on the held-out images are not finite.",
                    "Use precision: bf16 or fp32, or start from another file.",
                )
            self._attempt.run.write(layout.start_losses(member), pack_losses(losses))
        self._attempt.run.delete(self._begun_key)

    def are_starts_scored(self, members: Sequence[Member]) -> bool:
        """Whether `score_starts` has scored all of them."""
        return all(self._attempt.run.exists(layout.start_losses(member)) for member in members)

    def _conditions(self, members: Sequence[Member], whole: bool) -> list[tuple[Condition, ...]]:
        held_out = self._study.held_out
        components = held_out.components
        if not whole:
            return [components.on_curve(member.variant) for member in members]
        base = read_losses(self._attempt.run, members[0], 0)
        listened = most_listened(base, components, self._final_grid.curve_NX)
        return [components.at_end(m.variant, partners_of(m.variant, held_out.pairs), listened) for m in members]

    def _evaluated(
        self,
        step: int,
        conditions: Sequence[Condition],
        losses_ENT: npt.NDArray[np.float32],
        grid: denoising.Grid,
    ) -> EvaluationLosses:
        timesteps = torch.from_numpy(grid.timesteps_NT)
        min_snr = diffusion.min_snr_weights(self._trainable.noise_schedule, timesteps).float().cpu().numpy()
        names = tuple(condition.component for condition in conditions)
        return EvaluationLosses(step, names, self._data.image_ids, losses_ENT, grid.timesteps_NT, min_snr)

    def _add(self, member: Member, record: ValidationRecord) -> None:
        """Put the record among the member's, in the place of one of the same step, and write them all."""
        others = [other for other in self.records[member] if other.step != record.step]
        self.records[member] = sorted([*others, record], key=lambda record: record.step)
        self._attempt.run.write_jsonl(layout.validation(member), (asdict(row) for row in self.records[member]))
        self._attempt.tracking.validation(self._attempt.run, member, self.records[member])

    def _finish(self, scoring: denoising.Scoring, step: int, title: str) -> None:
        """Do the scoring to its end, from where an interrupted attempt stored one with the same facts, if any did."""
        facts = json.dumps([step, scoring.facts])
        stored = self._attempt.run.read(self._begun_key)
        if stored is not None and (begun := _read_begun(stored)) is not None and begun.facts == facts:
            scoring.resume(begun.losses_L, begun.done)
        saved = time.monotonic()
        passes, total = scoring.losses_count / scoring.pairs, scoring.pairs
        progress = self._attempt.progress
        with progress.stage("evaluate", title, total=total, unit="losses", passes=passes, brief=True) as stage:
            stage.advance(scoring.done, earlier=True)
            for done in scoring:
                stage.advance(done)
                if self._attempt.stop() or time.monotonic() - saved > _SAVE_SECONDS:
                    self._before_saving()
                    data = pack_begun(BegunEvaluation(facts, scoring.so_far, scoring.done))
                    self._attempt.run.write(self._begun_key, data)
                    saved = time.monotonic()
                self._attempt.stop.check()


def _is_finite(losses: EvaluationLosses, grid: denoising.Grid, conditions: Sequence[Condition]) -> bool:
    """Whether all losses that the conditions ask for are finite."""
    scored = (
        np.take_along_axis(losses_NT, grid.columns(whole=condition.whole), axis=1)
        for losses_NT, condition in zip(losses.losses_ENT, conditions, strict=True)
    )
    return all(np.isfinite(each).all() for each in scored)


def _read_begun(data: bytes) -> BegunEvaluation | None:
    """An interrupted evaluation; None where its file is damaged, which costs no more than doing it again."""
    try:
        return unpack_begun(data)
    except ValueError:
        return None
