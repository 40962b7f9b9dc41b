"""Makes the folder of a finished run without training: real manifest, real files, and losses that a test chooses.

Shape legend: N held-out images, T timesteps an image on the final grid, C of them on the curve.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save

from job import layout
from job.layout import Member
from job.manifest.packs import Pack, caption_sets
from job.run import checkpoints
from job.run.checkpoints import BestPointer, Commit, FinalPointer
from job.run.context import Attempt
from job.run.dataset import Images, Prepared
from job.run.decisions import resolve
from job.run.hashes import CaptionHashes, captions_hash
from job.run.held_out import HeldOut, held_out
from job.run.losses import read_losses
from job.run.resolved import Resolved
from job.run.status import Status
from job.storage.folder import RunFolder
from lora_engine import diffusion
from lora_engine.adapters.names import DIFFUSERS_NAME, kohya_name
from lora_engine.captions.strategies import caption_record
from lora_engine.config.evaluation import partners_of
from lora_engine.dataset.draws import Draws
from lora_engine.evaluation import denoising
from lora_engine.evaluation.components import Condition
from lora_engine.evaluation.listening import most_listened
from lora_engine.evaluation.loss_file import EvaluationLosses, pack_losses
from lora_engine.evaluation.summary import summarise
from lora_engine.models.files import LocalModel
from lora_engine.records import CaptionRecord, FileEntry, ImageRecord, StepRecord, ValidationRecord
from tests.job.small_run import attempt_of

STEPS, EVERY = 4, 2  # unless a test sets others
STRATA, FINAL_STRATA = 2, 4
TRAIN = 6  # images
# Stable Diffusion's noise schedule.
ALPHAS_CUMPROD = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """What a loss is asked for: by which adapter, at which step of its training, under which captions."""

    variant: str | None  # None for the base model
    seed: int  # 0 for the base model
    step: int
    component: str


Losses = Callable[[Scored], Floats]  # gives [N, 1] or [N, T]

BASE = "base"  # for `around`, whose adapters are not named so


def around(levels: Mapping[str, Mapping[str, float]], noise: float = 0.001, images: int = 12) -> Losses:
    """Losses that vary around a level: of each adapter or BASE under each component, and `shuffled` above it.

    Some images are harder than others, for all alike. The noise is drawn anew for every adapter, seed, step and
    component.
    """

    def losses(scored: Scored) -> Floats:
        component, shuffled, _ = scored.component.partition(" shuffled")
        of = levels[scored.variant or BASE]
        level = of[component] + (of.get("shuffled", 0) if shuffled else 0)
        dice = np.random.default_rng(zlib.crc32(repr(scored).encode()))
        result: Floats = level + np.linspace(-0.1, 0.1, images) + noise * dice.standard_normal(images)
        return result[:, np.newaxis]

    return losses


def _of_its_own(member: Member, step: int) -> str:
    """The weights of an adapter that no other one has."""
    return f"{member.adapter_name} at step {step}"


@dataclass(frozen=True)
class Design:
    """A study, and what came out of it."""

    variants: Sequence[Mapping[str, Any]]  # as they stand in a manifest
    losses: Losses
    seeds: Sequence[int] = (1,)
    groups: Sequence[int] = tuple(range(12))  # the number of the group of each held-out image, [N]
    texts: Callable[[int], str] = "drawing {}".format  # beside the image of a number; those held out come first
    settings: Sequence[str] = ()  # KEY=VALUE over the manifest
    weights: Callable[[Member, int], str | None] = _of_its_own  # at a step; None for those that never moved
    diverged: Mapping[Member, int] = field(default_factory=dict)  # to the step at which it was frozen
    skipped: Mapping[Member, int] = field(default_factory=dict)  # to the number of its first updates that were refused
    earlier: bool = False  # whether the version before scored it

    @property
    def images(self) -> list[ImageRecord]:
        """All images, in the order of their ids; those that are held out come first."""
        groups = [*self.groups, *range(max(self.groups) + 1, max(self.groups) + 1 + TRAIN)]
        ids = [image_id(number) for number in range(len(groups))]
        first = dict(reversed(list(zip(groups, ids, strict=True))))
        splits = ["validation"] * len(self.groups) + ["train"] * TRAIN
        return [
            ImageRecord(image, f"{number}.png", 100, 64, 64, first[group], split)  # type: ignore[arg-type]
            for number, (image, group, split) in enumerate(zip(ids, groups, splits, strict=True))
        ]


@dataclass(frozen=True)
class MadeRun:
    """A finished run, and what its files were made from."""

    attempt: Attempt
    design: Design
    resolved: Resolved
    held_out: HeldOut
    grid: denoising.Grid  # the final one

    @property
    def run(self) -> RunFolder:
        return self.attempt.run

    @property
    def folder(self) -> Path:
        return Path(self.run.root)

    def edit(self, key: str, **values: Any) -> None:
        """Change values of a JSON object that is stored."""
        stored = self.run.read_json(key)
        assert stored is not None, key
        self.run.write_json(key, stored | values)

    def edit_row(self, key: str, number: int, **values: Any) -> None:
        """Change values of a row of a file, numbered from 0."""
        rows = [json.loads(line) for line in (self.run.read(key) or b"").splitlines()]
        rows[number] |= values
        self.run.write_jsonl(key, rows)


def make_run(folder: Path, design: Design) -> MadeRun:
    """Write all that a report is built from, as a run that went through leaves it."""
    made = _begin(folder, design)
    components = made.held_out.components
    for pack in made.attempt.packs:
        for member in pack.members:
            _score(made, member, 0, components.of_base(), whole=True)
        base = read_losses(made.run, pack.members[0], 0)
        listened = most_listened(base, components, made.grid.curve_NX)
        for member in pack.members:
            _train(made, pack, member, listened)
        _write_status(made.run, pack.unit, {"train": 60.0, "evaluate": 6.0})
    _write_status(made.run, "prepare", {"fetch": 2.0})
    return made


def _begin(folder: Path, design: Design) -> MadeRun:
    """The run once it is prepared: its decisions, images and captions."""
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / "base.safetensors"
    base.write_bytes(b"base")
    defaults = [
        f"variants={json.dumps(list(design.variants))}",
        f"seeds={json.dumps(list(design.seeds))}",
        f"training.steps={STEPS}",
        "training.batch_size=4",
        f"evaluation.every={EVERY}",
        f"evaluation.timesteps={STRATA}",
        f"evaluation.final_timesteps={FINAL_STRATA}",
    ]
    attempt, _ = attempt_of(folder, *defaults, *design.settings)
    run, records = attempt.run, design.images
    resolved = resolve(attempt, Images(tuple(records), _not_needed), LocalModel(base), {}, None, torch.device("cpu"))
    if design.earlier:
        resolved = resolved.model_copy(update={"scoring": 1})
        run.write_json(layout.RESOLVED, resolved.model_dump(mode="json", by_alias=True, exclude={"scoring"}))
    run.write_jsonl(layout.IMAGES, map(asdict, records))
    captions = {name: _captions(design, records, config) for name, config in caption_sets(attempt.manifest).items()}
    for name, rows in captions.items():
        run.write_jsonl(layout.captions(name), map(asdict, rows))
    hash_captions(run, captions)
    scored, config = held_out(run, resolved, records, captions), attempt.manifest.evaluation
    grid = denoising.final_grid(scored.image_ids, config.timesteps, config.final_timesteps, len(ALPHAS_CUMPROD))
    return MadeRun(attempt, design, resolved, scored, grid)


def hash_captions(run: RunFolder, names: Iterable[str]) -> None:
    """Write the hashes of the captions as they are."""
    rows = {name: run.read_rows(layout.captions(name), CaptionRecord) or [] for name in names}
    hashes = {name: captions_hash(each) for name, each in rows.items()}
    run.write_stored(layout.CAPTION_HASHES, CaptionHashes(sha256=hashes))


def _captions(design: Design, records: Sequence[ImageRecord], config: Any) -> list[CaptionRecord]:
    return [
        caption_record(
            record.id,
            record.source,
            config,
            generated={},
            existing=(design.texts(number),),
            count_tokens=lambda text: len(text.split()) + 2,
        )
        for number, record in enumerate(records)
    ]


def _train(made: MadeRun, pack: Pack, member: Member, listened: str | None) -> None:
    """What the training of an adapter leaves, from its first checkpoint on."""
    components, steps = made.held_out.components, pack.ends[member]
    every, frozen_at = made.attempt.manifest.evaluation.every, made.design.diverged.get(member)
    made.run.write_jsonl(layout.metrics(member), map(asdict, _metrics(made, pack, member)))
    for step in (*range(every, steps, every), steps):
        _commit(made, pack, member, step)
        if frozen_at is None or step < frozen_at:
            conditions = components.on_curve(member.variant)
            if step == steps:
                conditions = components.at_end(
                    member.variant, partners_of(member.variant, made.held_out.pairs), listened
                )
            _score(made, member, step, conditions, whole=step == steps)
    _write_pointers(made, member, steps, frozen_at)


def _score(made: MadeRun, member: Member, step: int, conditions: Sequence[Condition], *, whole: bool) -> None:
    """Write the losses of an evaluation, and the row that sums them up."""
    variant, seed = (member.variant, member.seed) if step else (None, 0)
    losses_ENT = np.full((len(conditions), *made.grid.timesteps_NT.shape), np.nan, np.float32)
    for losses_NT, condition in zip(losses_ENT, conditions, strict=True):
        columns = made.grid.columns(whole=condition.whole)
        found = np.broadcast_to(made.design.losses(Scored(variant, seed, step, condition.component)), losses_NT.shape)
        np.put_along_axis(losses_NT, columns, np.take_along_axis(found, columns, axis=1).astype(np.float32), axis=1)
    timesteps_NT, curve_NC = made.grid.timesteps_NT, made.grid.curve_NX
    if not whole:
        losses_ENT = np.stack([np.take_along_axis(losses_NT, curve_NC, axis=1) for losses_NT in losses_ENT])
        timesteps_NT = np.take_along_axis(timesteps_NT, curve_NC, axis=1)
    schedule = diffusion.NoiseSchedule(ALPHAS_CUMPROD, "epsilon")
    min_snr = diffusion.min_snr_weights(schedule, torch.from_numpy(timesteps_NT)).float().numpy()
    names = tuple(condition.component for condition in conditions)
    evaluation = EvaluationLosses(
        step, names, made.held_out.image_ids, losses_ENT, timesteps_NT, None if made.design.earlier else min_snr
    )
    made.run.write(layout.validation_losses(member, step), pack_losses(evaluation))
    weights = made.held_out.components.summed(member.variant)
    row = summarise(evaluation, weights, curve_NC if whole else None)
    key = layout.validation(member)
    rows = made.run.read_rows(key, ValidationRecord) or []
    made.run.write_jsonl(key, map(asdict, [*rows, row]))


def _metrics(made: MadeRun, pack: Pack, member: Member) -> list[StepRecord]:
    """The rows of an adapter's updates, with the hashes of what its seed draws."""
    seed, frozen_at = _training_seed(made, member), made.design.diverged.get(member, pack.ends[member])
    trained_on = tuple(image.id for image in made.design.images if image.split == "train")
    draws = Draws(
        (seed,), trained_on, (4, 1, 1), pack.shared.images_per_step, len(ALPHAS_CUMPROD), pack.shared.random_flip
    )
    rows = []
    for step in range(1, pack.ends[member] + 1):
        skipped = step <= made.design.skipped.get(member, 0) or step > frozen_at
        loss = None if skipped else seed % 7 + 1 / step
        hashes = draws.hashes(draws.of_step(step))[0]
        rows.append(StepRecord(step, loss, 1e-4, 0.5, 10.0 + step % 3, skipped, *hashes))
    return rows


def _training_seed(made: MadeRun, member: Member) -> int:
    return member.seed + made.resolved.identity.variants[member.variant].seed_offset


def _commit(made: MadeRun, pack: Pack, member: Member, step: int) -> None:
    """Write a checkpoint of two layers, drawn by the weights' name, which the file for diffusers holds instead."""
    lora = pack.variants[pack.members.index(member)].lora
    text_encoder = None if lora.text_encoder is None else lora.size_in_text_encoder[0]
    shape = f"{lora.kind} {lora.rank} {lora.target_modules} {lora.patterns} {text_encoder}"
    initial = f"{shape} {_training_seed(made, member)}"
    weights = made.design.weights(member, step) or initial
    key = layout.checkpoint(member, step)
    files = {kohya_name(member.variant): _adapter(weights), DIFFUSERS_NAME: weights.encode()}
    entries = []
    for name, data in files.items():
        written = made.run.write(f"{key}/{name}", data)
        entries.append(FileEntry(name, written.size, written.sha256))
    earlier = checkpoints.committed_steps(made.run, member)
    commit = Commit(
        run_id=made.resolved.run_id,
        variant=member.variant,
        seed=member.seed,
        step=step,
        files=tuple(entries),
        parent=earlier[-1] if earlier else None,
        weights_sha256=_sha256(weights),
        initial_weights_sha256=_sha256(initial),
    )
    made.run.write_stored(f"{key}/{layout.COMMIT_NAME}", commit)


def _adapter(weights: str) -> bytes:
    """A file in kohya's format: a layer of the UNet and one of the text encoder."""
    dice, tensors = np.random.default_rng(zlib.crc32(weights.encode())), {}
    for name in ("unet_mid_block_attentions_0_proj_in", "te_text_model_encoder_layers_0_mlp_fc1"):
        tensors[f"lora_{name}.lora_down.weight"] = dice.standard_normal((2, 5)).astype(np.float32)
        tensors[f"lora_{name}.lora_up.weight"] = dice.standard_normal((4, 2)).astype(np.float32)
        tensors[f"lora_{name}.alpha"] = np.array(3, np.float32)
    return save(tensors)


def _write_pointers(made: MadeRun, member: Member, steps: int, frozen_at: int | None) -> None:
    rows = made.run.read_rows(layout.validation(member), ValidationRecord) or []
    weights = made.held_out.components.summed(member.variant)
    curve = {row.step: made.held_out.curve_loss(read_losses(made.run, member, row.step), weights) for row in rows}
    best = made.held_out.choose_best(curve)
    if best is not None:
        pointer = BestPointer(**_place(made, member, best.step), **asdict(best))
        made.run.write_stored(layout.best(member), pointer)
    loss = rows[-1].loss if frozen_at is None else None
    final = FinalPointer(**_place(made, member, steps), step=steps, loss=loss, diverged_at=frozen_at)
    made.run.write_stored(layout.final(member), final)


def _place(made: MadeRun, member: Member, step: int) -> dict[str, str]:
    kohya = checkpoints.read_commit(made.run, member, step, made.resolved.run_id).file(kohya_name(member.variant))
    return {"checkpoint": f"checkpoints/{layout.step_name(step)}", "sha256": kohya.sha256}


def _write_status(run: RunFolder, unit: str, stages: dict[str, float]) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    run.write_stored(
        layout.unit_status(unit), Status(unit=unit, state="done", started=moment, updated=moment, stages=stages)
    )


def image_id(number: int) -> str:
    """The id of an image, by which images are ordered as by their numbers."""
    return f"{number:02x}{_sha256(str(number))[2:]}"


def _not_needed() -> Prepared:
    raise AssertionError("a report needs no image")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
