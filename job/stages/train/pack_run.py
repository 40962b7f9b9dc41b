"""Trains one pack: resume, choose micro-batches, train, commit and evaluate in turn, name the best and the last."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict

import torch

from job import layout
from job.errors import ExitCode, JobError
from job.layout import Member
from job.manifest.packs import Pack
from job.process.pace import Pace
from job.process.stage import Stage
from job.prospect import FORWARDS_OF_TRAINING
from job.run import checkpoints
from job.run.checkpoints import BestPointer, Commit, FinalPointer
from job.run.context import Attempt
from job.run.hashes import metrics_hash
from job.stages.train.build import Study, make_trainable
from job.stages.train.checkpoint_writer import CheckpointWriter
from job.stages.train.evaluation import PackEvaluation
from job.stages.train.followers import Followers
from job.stages.train.memory import PackMemory
from job.stages.train.resume import States, rewind
from lora_engine.adapters.names import kohya_name
from lora_engine.config.models import DtypeName
from lora_engine.records import StepRecord
from lora_engine.system.device import rounding_threads
from lora_engine.system.memory import free_bytes
from lora_engine.training import micro_batches

_NAMED = 3  # variants or adapters at most, of which a text for people names each
_FOLLOWER_STOPPED = JobError(
    ExitCode.PREEMPTED,
    "Another process of this training was told to stop; what was done is saved.",
    "Start the same manifest again to continue.",
)


class PackRun:
    """One pack on its way from the base model to its final checkpoints."""

    def __init__(
        self,
        attempt: Attempt,
        study: Study,
        pack: Pack,
        device: torch.device,
        precision: DtypeName,
        followers: Followers,
    ) -> None:
        self._attempt, self._study, self._pack, self._followers = attempt, study, pack, followers
        self._memory = PackMemory(attempt, pack, device)
        trainable = make_trainable(attempt, study, pack, device, precision, followers.processes)
        self.unet, self._trainer, self._data = trainable.unet, trainable.trainer, trainable.data
        self._metrics: dict[Member, list[StepRecord]] = {member: [] for member in pack.members}
        self._pace = Pace(on_cpu=device.type == "cpu")
        self._writer = CheckpointWriter(attempt, study, pack, trainable, followers.processes.count)
        # The losses of an interrupted evaluation are stored only once the checkpoint that it scores is. Otherwise an
        # attempt that does not find the checkpoint could go on with them, and mix the losses of two different weights.
        self._evaluation = PackEvaluation(attempt, study, pack, trainable, before_saving=self._writer.wait)

    def run(self) -> None:
        """Train to the last step, with an evaluation and a checkpoint every `evaluation.every` steps.

        Members that diverge are frozen; the training ends early when all of them have.

        Raises:
            JobError: 51, 55 or 48 when asked to stop, after committing.
        """
        with self._writer:
            self._resume()
            if not self._is_trained():
                with self._attempt.progress.doing("Finding out how much fits into memory"):
                    self._choose_micro_batches()
                self._followers.start(self._pack, self._trainer)
            with self._shown() as stage:
                stage.best_loss = self._evaluation.best_loss
                stage.advance(self._trainer.step, earlier=True)
                self._score_starts()
                while (due := self._due_evaluation()) is not None or not self._is_trained():
                    if due is not None:
                        self._evaluate(due)
                        stage.best_loss = self._evaluation.best_loss
                        stage.advance(0, loss=stage.loss, images_per_second=stage.images_per_second)
                    else:
                        self._train(stage)
                    self._attempt.stop.check()
        self._write_pointers()

    def _shown(self) -> AbstractContextManager[Stage]:
        """The stage in which all of the training goes on."""
        pack = self._pack
        names = list(dict.fromkeys(member.variant for member in pack.members))
        seeds = {member.seed for member in pack.members}
        what = ", ".join(names) if len(names) <= _NAMED and len(seeds) == 1 else f"{len(pack.members)} adapters"
        return self._attempt.progress.stage(
            "train",
            f"Training {what}",
            total=pack.steps,
            unit="steps",
            passes=FORWARDS_OF_TRAINING * len(pack.members) * pack.shared.images_per_step,
        )

    def _resume(self) -> None:
        """Go on from the newest step at which all members have a whole checkpoint.

        Raises:
            JobError: 46 when there is no such step though there were checkpoints, or rows of the metrics are missing or
                others than when the checkpoint was made.
        """
        run, pack = self._attempt.run, self._pack
        furthest = max(
            (step for member in pack.members for step in checkpoints.committed_steps(run, member)), default=0
        )
        step, states = rewind(run, pack.ends, self._attempt.workdir, self._attempt.progress.warn, self._study.run_id)
        for member, last in pack.last_steps(step).items():
            self._metrics[member] = self._rows_until(member, last)
        self._evaluation.read(step)
        if states:
            self._restore(step, states)
            steps = pack.steps
            text = f"Going on from step {step} of {steps}"
            if furthest > step:  # An adapter has no checkpoint after this one, such as one whose steps have grown.
                text += f", from which all adapters can go on: what was trained up to step {furthest} is trained again"
            self._attempt.progress.skip(step / steps)
            self._attempt.progress.say("resumed", text, pack=self._pack.index, step=step)
            self._warn_of_other_rounding(checkpoints.read_commit(run, self._longest, step, self._study.run_id))

    @property
    def _longest(self) -> Member:
        """A member that has as many steps as the pack."""
        return max(self._pack.members, key=self._pack.ends.__getitem__)

    def _rows_until(self, member: Member, step: int) -> list[StepRecord]:
        """The rows of a member's steps up to that of its checkpoint. Raises JobError 46 as `_resume` says."""
        run, key = self._attempt.run, layout.metrics(member)
        rows = [row for row in run.read_rows(key, StepRecord) or [] if row.step <= step]
        problem = ""
        if [row.step for row in rows] != list(range(1, step + 1)):
            problem = f"lacks steps up to {step}, of which there is a checkpoint"
        elif step:
            then, now = (
                checkpoints.read_commit(run, member, step, self._study.run_id).metrics_sha256,
                metrics_hash(rows),
            )
            if then not in (None, now):
                problem = (
                    f"was changed since the checkpoint of step {step}: the hash of its rows was {then} and is {now}"
                )
        if problem:
            raise JobError(ExitCode.CONFLICT, f"{run.uri(key)} {problem}.", checkpoints.RESTORE)
        return rows

    def _restore(self, step: int, states: States) -> None:
        try:
            self._trainer.restore(states)
        except ValueError as error:
            raise JobError(
                ExitCode.CONFLICT,
                f"The checkpoints of {self._pack.unit} at step {step} are those of other adapters: {error}.",
                checkpoints.RESTORE,
            ) from error

    def _warn_of_other_rounding(self, continued: Commit) -> None:
        """Warn if other numbers of processes or threads made the checkpoint: they add up in another order."""
        threads = rounding_threads(self._data.device)
        numbers = {
            "processes at a time": (continued.processes, self._followers.processes.count),
            "threads": (continued.threads or threads, threads or continued.threads),  # of a GPU, none are known
        }
        for what, (before, now) in numbers.items():
            if before != now:
                self._attempt.progress.warn(
                    f"{self._pack.unit}: {what} were {before} and are {now} now, so its weights will be those "
                    "of an uninterrupted run to rounding, not bit for bit"
                )

    def _choose_micro_batches(self) -> None:
        """Choose micro-batches that fit in memory: once a run, since they decide how sums are rounded."""
        key, trainer = layout.micro_batches(self._pack.unit), self._trainer
        stored = self._attempt.run.read_stored(key, micro_batches.MicroBatches)
        if stored is not None:
            trainer.use_micro_batches(stored)
        else:
            device, config = self._data.device, self._pack.shared
            local = self._followers.processes.local_slice(config.images_per_step)  # no follower has more than rank 0
            images, free = local.stop - local.start, free_bytes(device, self._followers.processes.count)
            ways = micro_batches.candidates(config, len(trainer.active), images, fold=device.type == "cuda")
            image_bytes = trainer.image_bytes()
            self._memory.image(self.unet, image_bytes)
            chosen = micro_batches.choose(
                ways, image_bytes, micro_batches.spendable(free, device), trainer.use_micro_batches
            )
            self._attempt.run.write_json(key, asdict(chosen))

    def _due_evaluation(self) -> int | None:
        """The step that should be scored now and is not, as an earlier attempt may have left it; None where none is.

        The base model, step 0, can be scored at any time: that waits for the first checkpoint, so that training begins
        at once.
        """
        steps = sorted(set(self._pack.last_steps(self._trainer.step).values()) - {0})
        due = [step for step in steps if not self._evaluation.is_scored(step, self._due_members(step))]
        is_base_due = not self._evaluation.is_scored(0, self._pack.members)
        if is_base_due and steps and (due or self._is_trained()):
            return 0
        return due[0] if due else None

    def _score_starts(self) -> None:
        """Score the members that start from a file, as long as they are as they start."""
        begun = [member for member in self._pack.members if member.variant in self._study.starts]
        if begun and self._trainer.step == 0 and not self._evaluation.are_starts_scored(begun):
            self._evaluation.score_starts(begun)

    def _is_trained(self) -> bool:
        return self._trainer.step == self._pack.steps or not self._trainer.active

    def _due_members(self, step: int) -> tuple[Member, ...]:
        """The members that are at this step, and are scored as they are now, since they have not diverged.

        One that has done its last step stays due there. An attempt that finds its losses not finite has stored its last
        checkpoint before, and the next one learns of that by scoring it again.
        """
        frozen, now = self._trainer.frozen_at, self._pack.last_steps(self._trainer.step)
        scored = self._pack.scored_at(step, self._attempt.manifest.evaluation.every)
        return tuple(member for member in scored if now[member] == step and member.adapter_name not in frozen)

    def _evaluate(self, step: int) -> None:
        """Score the base model (step 0) or the members that are due, and freeze those whose losses are not finite."""
        if step == 0:
            self._evaluation.score(0, self._pack.members, whole=True)
            return
        due = self._due_members(step)
        at_end = [member for member in due if step == self._pack.ends[member]]
        on_the_way = [member for member in due if member not in at_end]
        for members, whole in ((on_the_way, False), (at_end, True)):
            if not members:
                continue
            with self._trainer.averaged():
                diverged = self._evaluation.score(step, members, whole=whole)
            for member in diverged:
                self._trainer.freeze(member.adapter_name)
                self._attempt.progress.warn(
                    f"{member.adapter_name} has diverged: its losses at step {step} are not finite"
                )
        losses = self._evaluation.curve_losses_at(step)
        if step and losses:
            text = f"Held-out loss at step {step}, on the curve's timesteps: {_in_words(losses)}"
            by_name = {member.adapter_name: loss for member, loss in losses.items()}
            self._attempt.progress.say("scored", text, pack=self._pack.index, step=step, losses=by_name)

    def _train(self, stage: Stage) -> None:
        """Train up to the next evaluation or until asked to stop, and commit what was done."""
        first, every = self._trainer.step, self._attempt.manifest.evaluation.every
        ends = [end for end in self._pack.ends.values() if end > first]
        until = min((first // every + 1) * every, *ends)
        frozen = set(self._trainer.frozen_at)
        with self._followers.training(until, sorted(frozen)):
            self._pace.resume()
            for records in self._trainer.run(until, lambda: self._writer.failed or self._attempt.stop()):
                self._keep(records)
                speed = next(iter(records.values())).images_per_second
                if slow := self._pace.update():
                    self._attempt.progress.warn(f"{self._pack.unit}: {slow}")
                stage.advance(1, loss=_mean_loss(records.values()), images_per_second=speed)
                for remark in self._trainer.take_remarks():
                    self._attempt.progress.warn(f"{self._pack.unit}: {remark}")
        self._memory.peak(self.unet, self._trainer.micro_batches)
        if self._writer.failed:
            self._writer.wait()
        self._stop_with_followers(until)
        for name in self._trainer.frozen_at.keys() - frozen:
            self._attempt.progress.warn(
                f"{name} has diverged and keeps its weights of step {self._trainer.frozen_at[name]}"
            )
        if self._trainer.step > first:
            self._writer.commit(self._metrics, self._evaluation.curve_losses)

    def _keep(self, records: Mapping[str, StepRecord]) -> None:
        step = next(iter(records.values())).step
        self._attempt.stop.unsaved = JobError(
            ExitCode.STALLED,
            f"The updates of {self._pack.unit} up to step {step} are not saved: the next one took too long.",
            "Start the same manifest again: it goes on from the last checkpoint. Raise limits.stop_seconds and the "
            "platform's grace period, or lower training.batch_size.",
        )
        for member in self._pack.members:
            if member.adapter_name in records:
                self._metrics[member].append(records[member.adapter_name])

    def _stop_with_followers(self, until: int) -> None:
        """Have this process stop, too, where training ended before that step since a follower was told to stop."""
        if self._trainer.step < until and self._trainer.active and not self._attempt.stop():
            self._attempt.stop.abort(_FOLLOWER_STOPPED)

    def _write_pointers(self) -> None:
        """Write `best.json` and `final.json` of every member: its best checkpoint, and its last."""
        last_steps = self._pack.last_steps(self._trainer.step)
        for member in self._pack.members:
            records = self._evaluation.records[member]
            if best := self._writer.best(member, self._evaluation.curve_losses[member]):
                pointer = BestPointer(**self._place(member, best.step), **asdict(best))
                self._attempt.run.write_stored(layout.best(member), pointer)
            step, diverged_at = last_steps[member], self._trainer.frozen_at.get(member.adapter_name)
            loss = records[-1].loss if diverged_at is None else None
            final = FinalPointer(**self._place(member, step), step=step, loss=loss, diverged_at=diverged_at)
            self._attempt.run.write_stored(layout.final(member), final)

    def _place(self, member: Member, step: int) -> dict[str, str]:
        """The fields `checkpoint` and `sha256` of a `Pointer` to a checkpoint."""
        commit = checkpoints.read_commit(self._attempt.run, member, step, self._study.run_id)
        kohya = commit.file(kohya_name(member.variant))
        return {"checkpoint": f"checkpoints/{layout.step_name(step)}", "sha256": kohya.sha256}


def is_finished(attempt: Attempt, pack: Pack, run_id: str | None = None) -> bool:
    """Whether an earlier attempt trained all of the pack, to its last step or until every member had diverged.

    Args:
        run_id: of the run whose checkpoints are believed, see `run_id_of`.
    """
    return all(_is_finished(attempt, member, pack.ends[member], run_id) for member in pack.members)


def _is_finished(attempt: Attempt, member: Member, steps: int, run_id: str | None) -> bool:
    final = attempt.run.read_stored(layout.final(member), FinalPointer)
    if final is None or (final.step != steps and final.diverged_at is None):
        return False
    return checkpoints.is_there(attempt.run, member, final, run_id)


def _in_words(losses: Mapping[Member, float]) -> str:
    """Adapters' losses as a person reads them: each of a few, of more the lowest and the highest."""
    has_seeds = len({member.seed for member in losses}) > 1
    named = {f"{m.variant}, seed {m.seed}:" if has_seeds else m.variant: loss for m, loss in losses.items()}
    if len(named) <= _NAMED:
        return ("; " if has_seeds else ", ").join(f"{name} {loss:.4f}" for name, loss in named.items())
    best = min(named, key=named.__getitem__)
    return f"{best} {named[best]:.4f}; of the others up to {max(named.values()):.4f}"


def _mean_loss(records: Iterable[StepRecord]) -> float | None:
    """The mean of the members' losses of one update that are finite; None if none is."""
    losses = [record.loss for record in records if record.loss is not None]
    return sum(losses) / len(losses) if losses else None
