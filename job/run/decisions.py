"""Decides once for a run what its manifest leaves open, in `resolved.json`, which later attempts read."""

import contextlib
import json
import time
from collections.abc import Mapping
from types import MappingProxyType
from uuid import uuid4

import torch
import yaml
from pydantic import ValidationError

from job import layout
from job.errors import ExitCode, JobError
from job.manifest.models import BaseModelConfig, ScoredSamplesConfig
from job.manifest.packs import BY_PASS, Pack, set_of_variant
from job.manifest.schema import Manifest
from job.process.versions import environment
from job.run.context import Attempt
from job.run.dataset import Images, SourceStamp, source_fingerprint
from job.run.identity import (
    RESTORE_OR_RENAME,
    Identity,
    differences,
    has_more_steps,
    identity,
    identity_conflicts,
    way_on,
)
from job.run.resolved import (
    SCORING,
    BaseModelDecision,
    MergeDecision,
    ModelDecision,
    ModelDecisions,
    PackDecision,
    Resolved,
    SampleDecision,
    SeenManifest,
    StartDecision,
    read_resolved,
)
from job.run.samples import samples_key
from job.run.status import Status
from job.storage.folder import RunFolder
from lora_engine.config.captions import CAPTIONER
from lora_engine.config.models import DtypeName
from lora_engine.diffusion import NoiseSchedule
from lora_engine.images.split import data_sha256
from lora_engine.models.files import LocalModel
from lora_engine.system.device import has_bf16, resolve_precision


def is_done(attempt: Attempt) -> bool:
    """Whether the run is finished, with the samples and from the dataset and models that the manifest names now.

    Raises:
        JobError: 46 when the name belongs to another run, as far as that can be told without fetching anything.
    """
    stored = read_resolved(attempt)
    if stored is None:
        _refuse_without_decisions(attempt.run)
        return False
    current = identity(
        attempt.manifest,
        data_sha256=stored.data_sha256,
        models=stored.models.hashes(),
        own_captions=stored.identity.own_captions,
        starts=stored.models.start_settings(),
    )
    _refuse_conflicts(attempt, stored, current)
    if not attempt.run.exists(layout.SUCCESS) or has_more_steps(stored.identity, current):
        return False
    now, then = SeenManifest.model_validate(attempt.manifest.model_dump(mode="json")), stored.manifest
    if _asked_samples(now) != _asked_samples(then) or now.evaluation.rating != then.evaluation.rating:
        return False
    # Another source of the dataset or a model can hold the same files, but that is known only once they are fetched.
    source = attempt.run.read_stored(layout.SOURCE, SourceStamp)
    same_data = source is not None and source.fingerprint == source_fingerprint(attempt)
    same_starts = attempt.manifest.starts() == {name: start.source for name, start in stored.models.starts.items()}
    return same_data and same_starts and _asked_models(now) == _asked_models(then)


def _refuse_without_decisions(run: RunFolder) -> None:
    """Raise JobError 46 where a run has begun: with new decisions what it has would be of another run."""
    commits = (key for key, _ in run.list(layout.VARIANTS) if key.endswith(f"/{layout.COMMIT_NAME}"))
    if run.exists(layout.SUCCESS) or next(commits, None) is not None:
        raise JobError(
            ExitCode.CONFLICT, f"{run.uri(layout.RESOLVED)} is missing, though the run has begun.", RESTORE_OR_RENAME
        )


def _asked_models(manifest: SeenManifest) -> object:
    """What the manifest says about the base model and the captioners."""
    only = {} if manifest.captioner is None else {CAPTIONER: manifest.captioner}
    base: object = manifest.base_model
    with contextlib.suppress(ValidationError):  # A later version wrote it.
        base = BaseModelConfig.model_validate_json(json.dumps(base))
    return base, only | manifest.captioners


def _asked_samples(manifest: SeenManifest) -> object:
    """What the manifest says about samples, with today's defaults."""
    asked: object = manifest.evaluation.samples
    with contextlib.suppress(ValidationError):  # It asks for none, or a later version wrote it.
        asked = ScoredSamplesConfig.model_validate_json(json.dumps(asked))
    return asked, [variant.prompt_template for variant in manifest.variants] if asked is not None else None


def is_prepared(attempt: Attempt, fingerprint: str) -> bool:
    """Whether a process has made all that training needs, with this manifest, from the source of that fingerprint."""
    status = attempt.run.read_stored(layout.unit_status("prepare"), Status)
    source, stored = attempt.run.read_stored(layout.SOURCE, SourceStamp), read_resolved(attempt)
    if status is None or source is None or stored is None or status.state != "done":
        return False
    same = stored.manifest.model_dump(mode="json") == attempt.manifest.model_dump(mode="json")
    return same and source.fingerprint == fingerprint


def resolve(
    attempt: Attempt,
    images: Images,
    base: LocalModel,
    captioners: Mapping[str, LocalModel],
    clip: LocalModel | None,
    device: torch.device,
    noise_schedule: NoiseSchedule | None = None,
    starts: Mapping[str, StartDecision] = MappingProxyType({}),
) -> Resolved:
    """Decide what the manifest leaves open and no earlier attempt has decided, and write it.

    Args:
        captioners: all that the manifest names.
        clip: scores the samples; None where the manifest names none.
        noise_schedule: the base model's, of which the run keeps what its UNet predicts.
        starts: see `ModelDecisions`.

    Raises:
        JobError: 46 when the name belongs to a run with another identity.
    """
    with attempt.progress.doing("Hashing the models"):
        models = _decided_models(attempt.manifest, base, captioners, noise_schedule)
        models = models.model_copy(update={"starts": dict(starts)})
        clip_sha256 = None if clip is None else clip.sha256
    stored = read_resolved(attempt)
    current = identity(
        attempt.manifest,
        data_sha256=data_sha256(images.records),
        models=models.hashes(),
        # A run of an earlier version, which did not look, goes on as it was begun.
        own_captions=images.own_captions if stored is None or stored.identity.own_captions is not None else None,
        starts=models.start_settings(),
    )
    if stored is not None:
        _refuse_conflicts(attempt, stored, current)
    samples = _decided_samples(attempt, stored, clip_sha256)
    resolved = _decide(attempt, models, current, samples, stored, device)
    if not has_bf16(device) and any(pack.precision == "bf16" for pack in resolved.packs):
        attempt.progress.warn("training.precision is bf16, which this device emulates: fp32 would be many times faster")
    if resolved != stored:
        attempt.run.delete(layout.SUCCESS)  # There is more to do now, and a stop must not leave it looking finished.
        dump = yaml.safe_dump(attempt.manifest.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        attempt.run.write(layout.MANIFEST, dump.encode())
        attempt.run.write_json(layout.ENVIRONMENT, environment(device))
        attempt.run.write_stored(layout.RESOLVED, resolved)  # It is written last: where it is, so are the others.
    return resolved


def _decided_models(
    manifest: Manifest, base: LocalModel, captioners: Mapping[str, LocalModel], noise_schedule: NoiseSchedule | None
) -> ModelDecisions:
    found = {
        name: ModelDecision(source=captioner.source, sha256=captioners[name].sha256)
        for name, captioner in manifest.named_captioners().items()
    }
    vae = manifest.base_model.vae
    return ModelDecisions(
        base=BaseModelDecision(
            source=manifest.base_model.source,
            sha256=base.sha256,
            prediction_type=noise_schedule.prediction_type if noise_schedule else None,
            zero_terminal_snr=noise_schedule is not None and noise_schedule.zero_terminal_snr,
        ),
        vae=None if vae is None else ModelDecision(source=vae, sha256=base.part("vae").sha256),
        captioner=found.get(CAPTIONER),
        captioners={name: model for name, model in found.items() if name != CAPTIONER},
        merge=tuple(
            MergeDecision(source=asked.source, sha256=LocalModel(merge.path).sha256, strength=merge.strength)
            for asked, merge in zip(manifest.base_model.merge, base.merge, strict=True)
        ),
    )


def _decided_samples(attempt: Attempt, stored: Resolved | None, clip_sha256: str | None) -> tuple[SampleDecision, ...]:
    """All samples that the run was asked for, those that are the study's own last; none where it was asked for none.

    Other samples than before get a folder of their own, so that none is drawn over; the same ones again are found.
    """
    config = attempt.manifest.evaluation.samples
    before = () if stored is None or stored.samples is None else (*stored.earlier_samples, stored.samples)
    if config is None:
        return before
    templates = {variant.name: variant.prompt_template for variant in attempt.manifest.variants}
    key = samples_key(config, templates, clip_sha256)
    known = next((decision for decision in before if decision.key == key), None)
    if known is None:
        is_first = not before and (stored is None or stored.manifest.evaluation.samples is None)
        known = SampleDecision(set="" if is_first else f"study-{key[:12]}", key=key)
    return (*(decision for decision in before if decision != known), known)


def _decide(
    attempt: Attempt,
    models: ModelDecisions,
    current: Identity,
    samples: tuple[SampleDecision, ...],
    stored: Resolved | None,
    device: torch.device,
) -> Resolved:
    manifest = attempt.manifest
    sets = set_of_variant(manifest)
    return Resolved(
        run_id=uuid4().hex if stored is None else stored.run_id,
        started_at=time.time() if stored is None else stored.started_at,
        manifest=SeenManifest.model_validate(manifest.model_dump(mode="json")),
        identity=current,
        scoring=SCORING if stored is None else stored.scoring,
        fenced=attempt.fenced,
        data_sha256=current.data,
        caption_sets=tuple(dict.fromkeys(sets.values())),
        set_of_variant=sets,
        packing=BY_PASS if stored is None else stored.packing,
        packs=tuple(_decided_pack(pack, stored, device) for pack in attempt.packs),
        models=models,
        samples=samples[-1] if samples else None,
        earlier_samples=samples[:-1],
    )


def _decided_pack(pack: Pack, stored: Resolved | None, device: torch.device) -> PackDecision:
    precision = resolve_precision(pack.shared.precision, device)
    if stored is not None:
        precision = resolve_precision(stored.precision(pack), device)
    return PackDecision(index=pack.index, members=pack.members, differs=pack.differs, precision=precision)


def precisions(attempt: Attempt, device: torch.device) -> tuple[DtypeName, ...]:
    """The precisions that the packs compute in: those that the run began with, or else those that it would begin with.

    Raises:
        ResourceError: the device does not compute in one of them.
    """
    stored = read_resolved(attempt)
    return tuple(dict.fromkeys(_decided_pack(pack, stored, device).precision for pack in attempt.packs))


def _refuse_conflicts(attempt: Attempt, stored: Resolved, current: Identity) -> None:
    conflicts = identity_conflicts(stored.identity, current)
    if conflicts:
        raise JobError(
            ExitCode.CONFLICT,
            f"{attempt.run.root} holds a run of this name with other values of "
            f"{differences(conflicts, stored.identity, current)}.",
            way_on(conflicts),
        )
    names = [variant.name for variant in attempt.variants]
    before = [variant.name for variant in stored.manifest.variants]
    if before != names:  # Captions are named after the first variant that has them.
        raise JobError(
            ExitCode.CONFLICT,
            f"{attempt.run.root} holds a run of this name with its variants in another order: "
            f"{', '.join(before)} -> {', '.join(names)}.",
            RESTORE_OR_RENAME,
        )
    if [pack.members for pack in stored.packs] != [pack.members for pack in attempt.packs]:
        raise JobError(
            ExitCode.CONFLICT,
            f"{attempt.run.root} holds a run of this name whose adapters train in other packs: of those that train "
            "together, some are to have more steps than others.",
            "Let training.steps grow for all of them or for none, or give this one another name: --set name=...",
        )
