"""Writes and uploads a pack's checkpoints, in order, while its training goes on."""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from job import layout
from job.errors import ExitCode, JobError
from job.layout import Member
from job.manifest.packs import Pack
from job.run import checkpoints
from job.run.context import Attempt
from job.run.hashes import metrics_hash
from job.run.thumbnail import read_thumbnail
from job.stages.train.build import Study, TrainablePack
from job.stages.train.resume import collect_garbage
from job.threads import Background
from lora_engine.adapters import formats, lora
from lora_engine.adapters.card import AdapterCard, tag_frequency
from lora_engine.evaluation.summary import Best
from lora_engine.records import StepRecord
from lora_engine.system.device import rounding_threads
from lora_engine.text import printable

CurveLosses = Mapping[int, npt.NDArray[np.float64]]  # step to the loss of each held-out image on the curve, [N]


@dataclass(frozen=True)
class _Snapshot:
    """A copy on the CPU of one member at a step, which later updates do not change."""

    member: Member
    step: int
    weights: lora.Adapter
    state: dict[str, Tensor]
    metrics: Sequence[StepRecord]
    curve_losses: CurveLosses


class CheckpointWriter(Background):
    """A `Background` whose pieces of work are each the checkpoints of all members at one step.

    Args:
        trainable: as it is before the first step, since the hashes of the initial weights are taken at once.
        processes: the number that train together.
    """

    def __init__(self, attempt: Attempt, study: Study, pack: Pack, trainable: TrainablePack, processes: int) -> None:
        super().__init__("uploads")
        self._attempt, self._study, self._pack = attempt, study, pack
        self._trainable, self._processes = trainable, processes
        self._text_width: int = trainable.unet.config.cross_attention_dim  # type: ignore[union-attr,assignment]
        self._thumbnail = read_thumbnail(attempt)
        self._alphas = {m: lora.file_alphas(trainable.unet, m.adapter_name) for m in pack.members}
        self._initial = {m: lora.weights_sha256(lora.export(trainable.unet, m.adapter_name)) for m in pack.members}

    def commit(
        self,
        metrics: Mapping[Member, Sequence[StepRecord]],
        curve_losses: Mapping[Member, CurveLosses],
    ) -> None:
        """Copy the members as they are now, and leave it to the thread to write and upload them with their rows.

        Raises the error of an earlier checkpoint that could not be uploaded.
        """
        trainer = self._trainable.trainer
        with trainer.averaged():
            weights = {m: lora.export(self._trainable.unet, m.adapter_name) for m in self._pack.members}
        snapshots = [
            _Snapshot(
                member,
                step,
                weights[member],
                trainer.state(member.adapter_name),
                tuple(metrics[member]),
                dict(curve_losses[member]),
            )
            for member, step in self._pack.last_steps(trainer.step).items()
            if step == trainer.step or step not in checkpoints.committed_steps(self._attempt.run, member)
        ]
        self._attempt.stop.unsaved = JobError(
            ExitCode.STORAGE_RETRIES,
            f"The checkpoint of {self._pack.unit} at step {trainer.step} is not stored: the store did not answer.",
            "Check the store, then start the same manifest again: it goes on from the checkpoint before.",
        )
        self.submit(partial(self._publish, snapshots, self._attempt.stop.unsaved))

    def _publish(self, snapshots: Sequence[_Snapshot], unsaved: JobError) -> None:
        stop = self._attempt.stop
        try:
            self._store(snapshots)
        except JobError as error:
            stop.unsaved = error
            raise
        if stop.unsaved is unsaved:  # else there are updates after it
            stop.unsaved = None
        self._collect_garbage(snapshots)

    def _store(self, snapshots: Sequence[_Snapshot]) -> None:
        # The metrics come first: an attempt refuses a checkpoint that is further than they are, or of other ones.
        for snapshot in snapshots:
            member = snapshot.member
            self._attempt.run.write_jsonl(layout.metrics(member), (row.row() for row in snapshot.metrics))
            self._attempt.tracking.metrics(self._attempt.run, member, snapshot.metrics)
        for snapshot in snapshots:
            self._publish_member(snapshot)

    def _collect_garbage(self, snapshots: Sequence[_Snapshot]) -> None:
        keep = self._attempt.manifest.output.keep_checkpoints
        if keep is None:
            return
        for snapshot in snapshots:
            worthy = self._study.held_out.worth_keeping(self._kept(snapshot.member, snapshot.curve_losses))
            # A member whose steps grow later goes on from its last, and all of the pack with it.
            collect_garbage(self._attempt.run, snapshot.member, keep, worthy.union(self._pack.ends.values()))

    def best(self, member: Member, curve_losses: CurveLosses) -> Best | None:
        """The best of a member's checkpoints that are kept and scored; None where there is none yet."""
        return self._study.held_out.choose_best(self._kept(member, curve_losses))

    def _kept(self, member: Member, curve_losses: CurveLosses) -> CurveLosses:
        """The losses of the steps of which there is a checkpoint."""
        steps = checkpoints.committed_steps(self._attempt.run, member)
        return {step: losses for step, losses in curve_losses.items() if step in steps}

    def _publish_member(self, snapshot: _Snapshot) -> None:
        member, step, weights = snapshot.member, snapshot.step, snapshot.weights
        earlier = [s for s in checkpoints.committed_steps(self._attempt.run, member) if s < step]
        with tempfile.TemporaryDirectory(dir=self._attempt.workdir) as scratch:
            folder = Path(scratch)
            card = self._card(member, step)
            files = formats.write_checkpoint(folder, weights, self._alphas[member], snapshot.state, card)
            commit = checkpoints.Commit(
                run_id=self._study.run_id,
                variant=member.variant,
                seed=member.seed,
                step=step,
                files=files,
                parent=earlier[-1] if earlier else None,
                manifest_sha256=hashlib.sha256(self._attempt.manifest.model_dump_json().encode()).hexdigest(),
                weights_sha256=lora.weights_sha256(weights),
                initial_weights_sha256=self._initial[member],
                epoch=self._attempt.epoch,
                processes=self._processes,
                metrics_sha256=metrics_hash(snapshot.metrics),
                threads=rounding_threads(self._trainable.data.device),
            )
            checkpoints.publish(self._attempt.run, folder, commit)

    def _card(self, member: Member, step: int) -> AdapterCard:
        caption_set = self._study.captions[self._study.set_of_variant[member.variant]]
        variant, output = self._study.variants[member.variant], self._attempt.manifest.output
        trigger = variant.captions.trigger
        train = set(self._study.encoded.train_ids)
        texts = [record.texts[0] for record in caption_set if record.id in train]
        return AdapterCard(
            name=member.variant,
            base_model=self._attempt.manifest.base_model.source,
            resolution=self._attempt.manifest.preprocess.resolution,
            images=len(train),
            prediction_type=self._trainable.noise_schedule.prediction_type,
            zero_terminal_snr=self._trainable.noise_schedule.zero_terminal_snr,
            clip_skip=self._study.model.use.clip_skip,
            text_width=self._text_width,
            started_at=self._study.started_at,
            tag_frequency=tag_frequency(texts),
            trigger_phrase=printable(trigger or (texts[0] if len(set(texts)) == 1 else "")),
            lora=variant.lora,
            training=variant.training,
            step=step,
            seed=self._study.training_seed(member),
            license=output.license,
            description=output.description,
            thumbnail=self._thumbnail,
        )
