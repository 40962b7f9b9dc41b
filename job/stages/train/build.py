"""Makes a pack ready to train: the base model with the pack's adapters, and the trainer, alike in every process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from job.layout import Member
from job.manifest.packs import Pack, ResolvedVariant
from job.run.context import Attempt
from job.run.dataset import Captions
from job.run.held_out import HeldOut
from lora_engine.adapters import lora
from lora_engine.adapters.lora_file import read_once
from lora_engine.adapters.start import weights_in
from lora_engine.captions.strategies import text_weights
from lora_engine.config.captions import CaptionsConfig
from lora_engine.config.models import DtypeName
from lora_engine.dataset.draws import PackMember, Weights
from lora_engine.dataset.encoded import Encoded, TrainingData
from lora_engine.diffusion import NoiseSchedule
from lora_engine.models import schedule
from lora_engine.models.adapted import load_adapted_unet
from lora_engine.models.files import LocalModel
from lora_engine.records import CaptionRecord
from lora_engine.system.device import DTYPES, use_deterministic_kernels
from lora_engine.system.distributed import Processes
from lora_engine.system.memory import free_bytes, give_back
from lora_engine.training.members import MemberConfig
from lora_engine.training.trainer import PackTrainer


@dataclass(frozen=True)
class Study:
    """All that the training of every pack of a run needs."""

    variants: dict[str, ResolvedVariant]  # by name
    set_of_variant: dict[str, str]  # variant to caption set
    captions: Captions
    encoded: Encoded
    held_out: HeldOut
    model: LocalModel  # the base model
    starts: Mapping[str, Path]  # variant to the LoRA's file that its adapters start from, of those that do
    started_at: float  # of the run's first attempt, seconds since 1970
    run_id: str | None  # see `run_id_of`

    def training_seed(self, member: Member) -> int:
        """The seed that a member is trained with: the study's, plus its variant's offset."""
        return member.seed + self.variants[member.variant].seed_offset


@dataclass(frozen=True)
class TrainablePack:
    """The objects on the device with which a pack is trained and scored."""

    unet: nn.Module
    noise_schedule: NoiseSchedule
    data: TrainingData
    trainer: PackTrainer


def make_trainable(
    attempt: Attempt, study: Study, pack: Pack, device: torch.device, precision: DtypeName, processes: Processes
) -> TrainablePack:
    """Load the base model, inject the pack's adapters as they are before the first step, and make their trainer."""
    give_back()
    noise_schedule = schedule.load_noise_schedule(study.model)
    dtype = DTYPES[precision]
    members = list(zip(pack.members, pack.variants, strict=True))
    adapters = [(member.adapter_name, study.training_seed(member), variant.lora) for member, variant in members]
    unet = load_adapted_unet(study.model, adapters, dtype, device)
    for member in pack.members:
        if (path := study.starts.get(member.variant)) is not None:
            weights = weights_in(read_once(path), lora.parameters(unet, member.adapter_name))
            lora.load(unet, member.adapter_name, weights)
    use_deterministic_kernels(enabled=pack.shared.deterministic)
    flips = pack.shared.random_flip
    tokens = pack.trains_text_encoder
    resident = study.encoded.fits(free_bytes(device, processes.count), dtype, flips=flips, tokens=tokens)
    if not resident:
        text = "The encoded images do not fit into memory beside the training: they are read as they are needed"
        attempt.progress.say("latents and embeddings are read as they are needed", text, pack=pack.index)
    data = study.encoded.training_data(device, dtype, flips=flips, resident=resident, tokens=tokens)
    trainer = PackTrainer(
        unet,
        [_pack_member(study, member) for member in pack.members],
        data,
        noise_schedule,
        [MemberConfig(variant.lora, variant.training) for variant in pack.variants],
        half_precision=precision == "fp16",
        processes=processes,
    )
    return TrainablePack(unet, noise_schedule, data, trainer)


def _pack_member(study: Study, member: Member) -> PackMember:
    config = study.variants[member.variant].captions
    caption_set = study.set_of_variant[member.variant]
    return PackMember(
        member.adapter_name,
        study.training_seed(member),
        study.encoded.caption_rows(study.captions, caption_set, study.encoded.train_ids),
        _caption_weights(config, study.captions[caption_set], study.encoded.train_ids),
        config.caption_dropout,
        study.variants[member.variant].training.noise,
        study.variants[member.variant].training.timesteps,
    )


def _caption_weights(config: CaptionsConfig, captions: Sequence[CaptionRecord], ids: Sequence[str]) -> Weights:
    """How often each text of these images is seen, [N, P]: 0 where an image has fewer texts than others."""
    weights = {record.id: text_weights(config, record) for record in captions}
    most = max(len(weights[image]) for image in ids)
    return np.array([(*weights[image], *(0.0,) * (most - len(weights[image]))) for image in ids])
