"""Trains one pack: evaluate, commit, go on from where an earlier attempt stopped."""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from job import commit, layout
from job.background import Background
from job.context import Job
from job.errors import ExitCode, JobError
from job.orders import Lead
from job.pack_checkpoints import collect_garbage, rewind
from job.pack_trainer import Study, make_trainable
from job.progress import Stage
from job.variants import Member, Pack
from lora_engine import adapters, checkpoints, estimate, evaluate, memory, validation
from lora_engine.config.captions import plain_parts
from lora_engine.device import Resolved
from lora_engine.encoded import EMPTY_PROMPT
from lora_engine.errors import ModelError
from lora_engine.printable import printable
from lora_engine.records import StepRecord, ValidationRecord

_SAVE_SECONDS = 60.0  # between looks at how far an evaluation is
_STOPPED_TOGETHER = JobError(
    ExitCode.PREEMPTED,
    "Another process of this training was told to stop; what was done is saved.",
    "Start the same manifest again to continue.",
)


@dataclass(frozen=True)
class _Snapshot:
    """One member as it is at a step, on the CPU."""

    member: Member
    step: int
    weights: adapters.Adapter
    state: dict[str, Tensor]
    metrics: Sequence[dict[str, Any]]
    scores: Sequence[ValidationRecord]


class PackRun:
    """One pack on its way from the base model to its final checkpoints."""

    def __init__(
        self, job: Job, study: Study, pack: Pack, device: torch.device, precision: Resolved, lead: Lead
    ) -> None:
        self._job, self._study, self._pack, self._lead = job, study, pack, lead
        made = make_trainable(job, study, pack, device, precision, lead.processes)
        self.unet, self._schedule, self._data, self._trainer = made.unet, made.schedule, made.data, made.trainer
        self._initial = {m: adapters.weights_sha256(adapters.export(self.unet, m.adapter_name)) for m in pack.members}
        self._metrics: dict[Member, list[dict[str, Any]]] = {member: [] for member in pack.members}
        self._scores: dict[Member, list[ValidationRecord]] = {member: [] for member in pack.members}
        self._uploads = Background("uploads")

    def run(self) -> None:
        """Train to the last step, with an evaluation and a checkpoint every `evaluation.every` steps.

        Members that diverge are frozen; the training ends early when all of them have.

        Raises:
            JobError: 51 or 55 when asked to stop, after committing.
        """
        with self._uploads:
            self._resume()
            if not self._is_trained():
                self._cut_up()
                self._lead.start(self._pack, self._trainer)
            with self._job.progress.stage("train", total=self._pack.training.steps, unit="steps") as stage:
                stage.advance(self._trainer.step)
                while (due := self._due_step()) is not None or not self._is_trained():
                    if due is not None:
                        self._evaluate(due)
                    else:
                        self._train(stage)
                    self._job.stop.check()
        self._conclude()

    def _cut_up(self) -> None:
        """Decide how updates are cut up to fit in memory: once, since it changes how sums are rounded."""
        key, trainer = layout.passes(self._pack.unit), self._trainer
        stored = self._job.run.read_json(key)
        if stored is not None:
            trainer.use(memory.Passes(**stored))
        else:
            device, config = self._data.device, self._pack.training
            share = self._lead.processes.share(config.images_per_step)  # no other has more
            images, free = share.stop - share.start, memory.free_bytes(device, self._lead.processes.count)
            ways = memory.candidates(config, len(trainer.active), images, fold=device.type == "cuda")
            image_bytes = trainer.image_bytes()
            self._compare_with_plan(image_bytes)
            chosen = memory.choose(ways, image_bytes, memory.spendable(free, device), trainer.use)
            self._job.run.write_json(key, asdict(chosen))

    def _compare_with_plan(self, image_bytes: int) -> None:
        """Say what an image needs, and if `lora-job plan` was wrong about it; it knows one size of UNet."""
        facts: dict[str, Any] = {"pack": self._pack.index, "image_mib": round(image_bytes / 2**20, 1)}
        weights = [w for name, w in self.unet.named_parameters() if "lora_" not in name]
        if sum(weight.numel() for weight in weights) == estimate.UNET_PARAMETERS:
            planned = estimate.kept_bytes(self._job.manifest.preprocess.resolution, weights[0].element_size())
            facts["planned_mib"] = round(planned / 2**20, 1)
            if abs(image_bytes / planned - 1) > estimate.TOLERANCE:
                self._job.progress.warn(
                    f"{self._pack.unit}: an image takes {facts['image_mib']} MiB; lora-job plan says "
                    f"{facts['planned_mib']}"
                )
        self._job.progress.say("memory of an image", **facts)

    def _due_step(self) -> int | None:
        """A step that should be scored now and has not been: an attempt may end in between.

        The base model, step 0, can be scored at any time: it waits for the first adapters, and training begins.
        """
        step, every = self._trainer.step, self._job.manifest.evaluation.every
        if not self._is_trained() and (step == 0 or step % every):
            return None
        if not self._is_scored(0, self._pack.members):
            return 0
        return None if self._is_scored(step, self._active()) else step

    def _is_scored(self, step: int, members: Sequence[Member]) -> bool:
        return all(any(record.step == step for record in self._scores[m]) for m in members)

    def _is_trained(self) -> bool:
        return self._trainer.step == self._pack.training.steps or not self._trainer.active

    def _active(self) -> tuple[Member, ...]:
        return tuple(m for m in self._pack.members if m.adapter_name not in self._trainer.frozen_at)

    def _train(self, stage: Stage) -> None:
        """Train up to the next evaluation or until asked to stop, and commit what was done."""
        first, every = self._trainer.step, self._job.manifest.evaluation.every
        until = min(self._pack.training.steps, (first // every + 1) * every)
        frozen = set(self._trainer.frozen_at)
        with self._lead.training(until, sorted(frozen)):
            for records in self._trainer.run(until, lambda: self._uploads.failed or self._job.stop()):
                self._keep(records)
                stage.advance(1, loss=_mean_loss(records), images_per_second=records[0].images_per_second)
        for remark in self._trainer.remarks():
            self._job.progress.warn(f"{self._pack.unit}: {remark}")
        if self._uploads.failed:
            self._uploads.wait()
        if self._trainer.step < until and self._trainer.active and not self._job.stop():
            self._job.stop.abort(_STOPPED_TOGETHER)
        for name in self._trainer.frozen_at.keys() - frozen:
            self._job.progress.warn(
                f"{name} has diverged and keeps its weights of step {self._trainer.frozen_at[name]}"
            )
        if self._trainer.step > first:
            self._commit()

    def _keep(self, records: Sequence[StepRecord]) -> None:
        for member, record in zip(self._pack.members, records, strict=True):
            self._metrics[member].append(asdict(record))

    # evaluation

    @cached_property
    def _validation_data(self) -> evaluate.ValidationData:
        weights = {
            self._study.set_of_variant[name]: [weight for weight, _ in plain_parts(variant.captions)]
            for name, variant in self._study.variants.items()
        }
        return self._study.encoded.validation_data(self._study.captions, weights, self._data)

    def _evaluate(self, step: int) -> None:
        """Score the base model (step 0) or the members as they are, and write the losses and what they say."""
        config, ids = self._job.manifest.evaluation, self._validation_data.image_ids
        whole = step == 0 or self._is_trained()
        sets = (*self._study.captions, *([EMPTY_PROMPT] if whole else []))
        strata = (config.final_timesteps, self._schedule.timesteps)
        grid = evaluate.final_grid(ids, *strata) if whole else evaluate.curve_grid(ids, config.timesteps, *strata)
        members = self._pack.members if step == 0 else self._active()
        names = [] if step == 0 else [member.adapter_name for member in members]
        scoring = evaluate.Scoring(
            self.unet, names, self._validation_data, sets, grid, self._schedule, config.batch_size
        )
        facts = {"caption_sets": json.dumps(sets), "image_ids": json.dumps(ids), "step": str(step)}
        self._score(scoring, facts | {"members": json.dumps(names), "batch_size": str(config.batch_size)})
        columns = evaluate.curve_grid(ids, config.timesteps, *strata).strata_NT if whole else None
        for k, member in enumerate(members):
            losses = scoring.losses[0 if step == 0 else k]
            if not np.isfinite(losses).all():
                self._refuse_losses(member, step)
                continue
            earlier = [record for record in self._scores[member] if record.step != step]
            records = [*earlier, validation.summarise(step, losses, sets, columns)]
            self._scores[member] = sorted(records, key=lambda record: record.step)
            tensors = {"losses": losses, "timesteps": grid.timesteps_NT}
            self._job.run.write(layout.validation_losses(member.variant, member.seed, step), save(tensors, facts))
            rows = (asdict(record) for record in self._scores[member])
            self._job.run.write_jsonl(layout.validation(member.variant, member.seed), rows)
        self._job.run.delete(self._begun)

    @property
    def _begun(self) -> str:
        return layout.begun_evaluation(self._pack.unit)

    def _score(self, scoring: evaluate.Scoring, facts: dict[str, str]) -> None:
        """Do the scoring, going on with what an interrupted attempt left of the very same one."""
        stored = self._job.run.read(self._begun)
        if stored is not None and (begun := _read_begun(stored, facts)) is not None:
            scoring.go_on(begun["losses"], int(begun["done"]))
        saved = time.monotonic()
        with self._job.progress.stage("evaluate", total=scoring.pairs, unit="images") as stage:
            stage.advance(scoring.done)
            for done in scoring:
                stage.advance(done)
                if self._job.stop() or time.monotonic() - saved > _SAVE_SECONDS:
                    self._uploads.wait()  # or a rerun could continue these scores with other weights
                    tensors = {"losses": scoring.losses, "done": np.array(scoring.done)}
                    self._job.run.write(self._begun, save(tensors, facts))
                    saved = time.monotonic()
                self._job.stop.check()

    def _refuse_losses(self, member: Member, step: int) -> None:
        if step == 0:
            raise ModelError(
                "The base model's losses on the held-out images are not finite.",
                "Use precision: bf16 or fp32, or another base model.",
            )
        self._trainer.freeze(member.adapter_name)
        self._job.progress.warn(f"{member.adapter_name} has diverged: its losses at step {step} are not finite")

    # checkpoints

    def _commit(self) -> None:
        """Write and upload the members as they are now, while the training goes on."""
        step, trainer = self._trainer.step, self._trainer
        snapshots = [
            _Snapshot(
                member,
                step,
                adapters.export(self.unet, member.adapter_name),
                trainer.state(member.adapter_name),
                tuple(self._metrics[member]),
                tuple(self._scores[member]),
            )
            for member in self._pack.members
        ]
        self._uploads.submit(partial(self._publish, snapshots))

    def _publish(self, snapshots: Sequence[_Snapshot]) -> None:
        for snapshot in snapshots:
            member = snapshot.member
            self._job.run.write_jsonl(layout.metrics(member.variant, member.seed), snapshot.metrics)
        for snapshot in snapshots:
            self._publish_member(snapshot)
        keep = self._job.manifest.output.keep_checkpoints
        if keep is None:
            return
        for snapshot in snapshots:
            best = self._best(snapshot.member, snapshot.scores)
            collect_garbage(self._job.run, snapshot.member, keep, [best.step] if best else [])

    def _best(self, member: Member, scores: Sequence[ValidationRecord]) -> validation.Best | None:
        """The best so far of the checkpoints that are kept and scored."""
        kept = set(commit.committed_steps(self._job.run, member.variant, member.seed))
        scored = [record for record in scores if record.step in kept]
        return validation.choose_best(scored) if scored else None

    def _publish_member(self, snapshot: _Snapshot) -> None:
        member, step, weights = snapshot.member, snapshot.step, snapshot.weights
        earlier = [s for s in commit.committed_steps(self._job.run, member.variant, member.seed) if s < step]
        with tempfile.TemporaryDirectory(dir=self._job.workdir) as scratch:
            folder = Path(scratch)
            files = checkpoints.write_checkpoint(folder, weights, snapshot.state, self._pack.lora, self._card(member))
            facts = {
                "parent": earlier[-1] if earlier else None,
                "manifest_sha256": self._study.manifest_sha256,
                "weights_sha256": adapters.weights_sha256(weights),
                "initial_weights_sha256": self._initial[member],
                "epoch": self._job.epoch,
                "processes": self._lead.processes.count,
            }
            commit.publish(self._job.run, folder, member.variant, member.seed, step, files, facts)

    def _card(self, member: Member) -> checkpoints.AdapterCard:
        caption_set = self._study.captions[self._study.set_of_variant[member.variant]]
        train = set(self._study.encoded.train_ids)
        texts = [record.texts[0] for record in caption_set if record.id in train]
        return checkpoints.AdapterCard(
            name=member.variant,
            base_model=self._study.base_name,
            resolution=self._job.manifest.preprocess.resolution,
            images=len(train),
            prediction_type=self._schedule.prediction_type,
            started_at=self._study.started_at,
            tag_frequency=checkpoints.tag_frequency(texts),
            trigger_phrase=printable(texts[0]) if len(set(texts)) == 1 else "",
        )

    def _resume(self) -> None:
        """Go on from the newest step of which all members have a whole checkpoint."""
        run, members = self._job.run, self._pack.members
        step, states = rewind(run, members, self._job.workdir, self._job.progress.warn)
        for member in members:
            rows = run.read_jsonl(layout.metrics(member.variant, member.seed)) or []
            self._metrics[member] = [row for row in rows if row["step"] <= step]
            scores = run.read_jsonl(layout.validation(member.variant, member.seed)) or []
            self._scores[member] = [validation.from_row(row) for row in scores if row["step"] <= step]
        if states:
            self._trainer.restore(states)
            self._job.progress.say("resumed", pack=self._pack.index, step=step)
            self._warn_of_other_rounding(commit.read_commit(run, members[0].variant, members[0].seed, step))

    def _warn_of_other_rounding(self, continued: dict[str, Any]) -> None:
        before, now = continued.get("processes", 1), self._lead.processes.count
        if before != now:
            self._job.progress.warn(
                f"{self._pack.unit}: processes at a time were {before} and are {now} now, so its weights will be those "
                "of an uninterrupted run to rounding, not bit for bit"
            )

    def _conclude(self) -> None:
        """Say which checkpoint is the last and which the best."""
        for member in self._pack.members:
            where = (member.variant, member.seed)
            if best := self._best(member, self._scores[member]):
                self._job.run.write_json(
                    layout.best(*where), self._pointer(member, best.step, best.loss) | asdict(best)
                )
            last = self._pointer(member, self._trainer.step, self._scores[member][-1].loss)
            diverged = self._trainer.frozen_at.get(member.adapter_name)
            self._job.run.write_json(layout.final(*where), last | {"diverged_at": diverged})

    def _pointer(self, member: Member, step: int, loss: float) -> dict[str, Any]:
        files = commit.read_commit(self._job.run, member.variant, member.seed, step)["files"]
        kohya = next(f for f in files if f["path"] == f"{member.variant}{layout.KOHYA_SUFFIX}")
        return {"step": step, "loss": loss, "checkpoint": f"checkpoints/step-{step:06d}", "sha256": kohya["sha256"]}


def _read_begun(data: bytes, facts: dict[str, str]) -> dict[str, Any] | None:
    """The arrays of an interrupted evaluation, if it was one with these facts."""
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return dict(load(data)) if header["__metadata__"] == facts else None
    except (ValueError, KeyError, SafetensorError):
        return None  # nothing is lost but time


def is_finished(job: Job, pack: Pack) -> bool:
    """Whether an earlier attempt trained all of the pack."""
    steps = pack.training.steps
    finals = (job.run.read_json(layout.final(m.variant, m.seed)) for m in pack.members)
    return all(final is not None and final["step"] == steps for final in finals)


def _mean_loss(records: Sequence[StepRecord]) -> float | None:
    losses = [record.loss for record in records if record.loss is not None]
    return sum(losses) / len(losses) if losses else None
