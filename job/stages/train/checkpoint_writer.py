"""Writes and uploads a pack's checkpoints, in order, while its training goes on."""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from job import layout
from job.layout import Member
from job.manifest.packs import Pack
from job.run import checkpoints
from job.run.context import Attempt
from job.stages.train.build import Study, TrainablePack
from job.stages.train.resume import collect_garbage
from job.threads import Background
from lora_engine.adapters import formats, lora
from lora_engine.evaluation import summary
from lora_engine.records import StepRecord, ValidationRecord
from lora_engine.text import printable


@dataclass(frozen=True)
class _Snapshot:
    """One member as it is at a step, on the CPU."""

    member: Member
    step: int
    weights: lora.Adapter
    state: dict[str, Tensor]
    metrics: Sequence[StepRecord]
    scores: Sequence[ValidationRecord]


class CheckpointWriter(Background):
    """See `Background`; a piece is what all members are at one step."""

    def __init__(self, attempt: Attempt, study: Study, pack: Pack, made: TrainablePack, processes: int) -> None:
        super().__init__("uploads")
        self._attempt, self._study, self._pack, self._made, self._processes = attempt, study, pack, made, processes
        self._initial = {m: lora.weights_sha256(lora.export(made.unet, m.adapter_name)) for m in pack.members}

    def commit(
        self,
        metrics: Mapping[Member, Sequence[StepRecord]],
        scores: Mapping[Member, Sequence[ValidationRecord]],
    ) -> None:
        """Copy the members as they are now, to be written and uploaded with their rows."""
        step, trainer = self._made.trainer.step, self._made.trainer
        snapshots = [
            _Snapshot(
                member,
                step,
                lora.export(self._made.unet, member.adapter_name),
                trainer.state(member.adapter_name),
                tuple(metrics[member]),
                tuple(scores[member]),
            )
            for member in self._pack.members
        ]
        self.submit(partial(self._publish, snapshots))

    def _publish(self, snapshots: Sequence[_Snapshot]) -> None:
        for snapshot in snapshots:
            member = snapshot.member
            self._attempt.run.write_jsonl(layout.metrics(member), map(asdict, snapshot.metrics))
        for snapshot in snapshots:
            self._publish_member(snapshot)
        keep = self._attempt.manifest.output.keep_checkpoints
        if keep is None:
            return
        for snapshot in snapshots:
            best = self.best(snapshot.member, snapshot.scores)
            collect_garbage(self._attempt.run, snapshot.member, keep, [best.step] if best else [])

    def best(self, member: Member, scores: Sequence[ValidationRecord]) -> summary.Best | None:
        """The best so far of the checkpoints that are kept and scored."""
        kept = set(checkpoints.committed_steps(self._attempt.run, member))
        scored = [record for record in scores if record.step in kept]
        return summary.choose_best(scored) if scored else None

    def _publish_member(self, snapshot: _Snapshot) -> None:
        member, step, weights = snapshot.member, snapshot.step, snapshot.weights
        earlier = [s for s in checkpoints.committed_steps(self._attempt.run, member) if s < step]
        with tempfile.TemporaryDirectory(dir=self._attempt.workdir) as scratch:
            folder = Path(scratch)
            files = formats.write_checkpoint(folder, weights, snapshot.state, self._pack.lora, self._card(member))
            commit = checkpoints.Commit(
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
            )
            checkpoints.publish(self._attempt.run, folder, commit)

    def _card(self, member: Member) -> formats.AdapterCard:
        caption_set = self._study.captions[self._study.set_of_variant[member.variant]]
        train = set(self._study.encoded.train_ids)
        texts = [record.texts[0] for record in caption_set if record.id in train]
        return formats.AdapterCard(
            name=member.variant,
            base_model=self._attempt.manifest.base_model.source,
            resolution=self._attempt.manifest.preprocess.resolution,
            images=len(train),
            prediction_type=self._made.noise_schedule.prediction_type,
            text_width=self._made.data.embeddings.shape[-1],
            started_at=self._study.started_at,
            tag_frequency=formats.tag_frequency(texts),
            trigger_phrase=printable(texts[0]) if len(set(texts)) == 1 else "",
        )
