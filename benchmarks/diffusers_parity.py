"""The losses of packed adapters against those of the loop of diffusers' `train_text_to_image_lora.py`.

Usage: python -m benchmarks.diffusers_parity

Each row is one adapter: with us one of a pack in which every adapter has other settings, there by itself, see
`benchmarks.diffusers_loop`. Base, first weights, images, noise, timesteps and texts are the same. Differences are
relative, of a tiny UNet on a CPU: in float64 the largest of the first 20 losses, in float32 that of the first loss.

Where the script does otherwise:

- Its min-SNR weights are rounded to float32 by diffusers' `compute_snr`, also in float64, so they get a row with it,
  and one with the same formula in float64. Where there is no signal at all they are 0/0, ours is 1, its limit.
- Its warm-up begins with an update at rate 0. Ours leaves that one out: update n has the rate of its update n + 1 with
  a warm-up and a total of one more, by which its rate is ahead here.
- Its alpha is its rank, its first weights are normal, and it casts predictions to float32 before the loss; here alpha
  and first weights are given, and nothing is cast.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from torch import Tensor

from benchmarks import diffusers_loop
from benchmarks.diffusers_loop import Batch, Options, Snr
from benchmarks.machine import describe
from lora_engine import diffusion
from lora_engine.adapters import lora
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.loss import MinSnrWeighting
from lora_engine.config.lr_schedule import CosineLrSchedule
from lora_engine.config.noise import NoiseConfig
from lora_engine.config.optimizer import AdamWConfig
from lora_engine.config.training import TrainingConfig
from lora_engine.dataset import randomness
from lora_engine.dataset.draws import Draws, PackMember
from lora_engine.dataset.encoded import TrainingData
from lora_engine.dataset.table import TensorTable
from lora_engine.diffusion import NoiseSchedule, PredictionType
from lora_engine.system.quiet import quiet_libraries
from lora_engine.training.members import MemberConfig
from lora_engine.training.trainer import PackTrainer

STEPS = 20
LIMITS = {torch.float64: 1e-8, torch.float32: 1e-6}
ROUNDED = 1e-6  # the limit in float64 of what is weighted in float32
_BATCH, _SEED, _RANK, _RATE, _WARMUP, _OFFSET, _GAMMA = 2, 3, 4, 1e-2, 5, 0.1, 5.0
_IMAGES, _TEXTS, _SIDE = 7, 6, 8


def exact_snr(noise_scheduler: DDPMScheduler, timesteps: Tensor) -> Tensor:
    """What `compute_snr` computes, in float64. [B]."""
    alpha = noise_scheduler.alphas_cumprod.double()[timesteps]
    return (alpha.sqrt() / (1 - alpha).sqrt()) ** 2


@dataclass(frozen=True)
class Case:
    """The same settings for both."""

    prediction: PredictionType = "epsilon"
    alpha: float = _RANK
    training: Mapping[str, object] = field(default_factory=dict)  # ours, by the names of `TrainingConfig`
    options: Mapping[str, object] = field(default_factory=dict)  # the script's, by the names of `Options`
    snr: Snr = compute_snr

    @property
    def limit(self) -> float:
        """How far the first 20 losses may be off in float64."""
        is_rounded = "snr_gamma" in self.options and self.snr is compute_snr
        return ROUNDED if is_rounded else LIMITS[torch.float64]

    def config(self) -> MemberConfig:
        """Ours."""
        training = TrainingConfig(
            steps=STEPS,
            batch_size=_BATCH,
            optimizer=AdamWConfig(learning_rate=_RATE),
            max_grad_norm=None,
            **dict(self.training),
        )
        return MemberConfig(LoraConfig(rank=_RANK, alpha=self.alpha, target_modules=diffusers_loop.TARGETS), training)

    def script(self) -> Options:
        """The script's."""
        given = {"max_train_steps": STEPS, "learning_rate": _RATE, "rank": _RANK, "lora_alpha": self.alpha}
        return Options(**(given | dict(self.options)))


_MIN_SNR = {"training": {"weighting": MinSnrWeighting(name="min_snr", gamma=_GAMMA)}, "options": {"snr_gamma": _GAMMA}}
_COSINE = {"lr_scheduler": "cosine", "lr_warmup_steps": _WARMUP + 1, "max_train_steps": STEPS + 1, "done": 1}
CASES = {
    "plain": Case(),
    "min-SNR": Case(**_MIN_SNR),
    "min-SNR, SNR in float64": Case(**_MIN_SNR, snr=exact_snr),
    "noise offset": Case(training={"noise": NoiseConfig(offset=_OFFSET)}, options={"noise_offset": _OFFSET}),
    "alpha of 3 ranks": Case(alpha=3.0 * _RANK),
    "cosine with warm-up": Case(
        training={"schedule": CosineLrSchedule(name="cosine", warmup_steps=_WARMUP)}, options=_COSINE
    ),
    "v-prediction": Case("v_prediction"),
    "v-prediction, min-SNR": Case("v_prediction", **_MIN_SNR),
    "v-prediction, min-SNR, SNR in float64": Case("v_prediction", **_MIN_SNR, snr=exact_snr),
}


@cache
def _base() -> Mapping[str, Tensor]:
    """The weights of the base, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _unet().double().state_dict()


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=_SIDE,
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=4,
    )


def base(dtype: torch.dtype) -> UNet2DConditionModel:
    """The frozen model, new, in this dtype."""
    unet = _unet().to(dtype)
    unet.load_state_dict(_base())
    return unet


def scheduler_of(prediction: PredictionType, *, zero_terminal_snr: bool = False) -> DDPMScheduler:
    """Stable Diffusion's."""
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        rescale_betas_zero_snr=zero_terminal_snr,
    )


def noise_schedule_of(scheduler: DDPMScheduler) -> NoiseSchedule:
    """The same for us."""
    return NoiseSchedule(scheduler.alphas_cumprod.double(), scheduler.config.prediction_type)


class Study:
    """The same images, texts and adapters for both, in one dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        generator = torch.Generator().manual_seed(1)
        mean = torch.randn(_IMAGES, 4, _SIDE, _SIDE, generator=generator, dtype=torch.float64)
        std = 0.1 * torch.rand(_IMAGES, 4, _SIDE, _SIDE, generator=generator, dtype=torch.float64)
        text = torch.randn(_TEXTS, 5, 12, generator=generator, dtype=torch.float64)
        self._moments, self._text = torch.stack([mean, std], dim=1).to(dtype), text.to(dtype)
        self._ids = tuple(f"{image + 1:064x}" for image in range(_IMAGES))

    def ours(self, cases: Sequence[Case], steps: int) -> list[list[float]]:
        """The losses of each case's adapter, all of one pack."""
        unet, members = base(self._dtype), [_member(at, case) for at, case in enumerate(cases)]
        for member, case in zip(members, cases, strict=True):
            lora.inject(unet, [(member.name, member.seed)], case.config().lora)
        data = TrainingData(self._ids, _resident(self._moments), _resident(self._text))
        schedule = noise_schedule_of(scheduler_of(cases[0].prediction))
        trainer = PackTrainer(unet, members, data, schedule, [case.config() for case in cases])
        records = list(trainer.run(steps, lambda: False))
        return [[record[member.name].loss or 0.0 for record in records] for member in members]

    def scripts(self, at: int, case: Case, steps: int) -> list[float]:
        """The losses of one case's adapter in diffusers' loop."""
        unet, member = base(self._dtype), _member(at, case)
        lora.inject(unet, [(member.name, member.seed)], case.config().lora)
        first_weights = lora.export(unet, member.name)
        scheduler = scheduler_of(case.prediction)
        batches = self._batches(member, steps)
        return diffusers_loop.losses(base(self._dtype), first_weights, scheduler, case.script(), batches, case.snr)

    def _batches(self, member: PackMember, steps: int) -> Iterator[Batch]:
        draws = Draws((member.seed,), self._ids, (4, _SIDE, _SIDE), _BATCH, 1000)
        for step in range(1, steps + 1):
            draw = draws.of_step(step)
            mean, std = self._moments[draw.indices[0]].unbind(1)
            yield Batch(
                latents=mean + std * torch.from_numpy(draw.posterior[0]).to(self._dtype),
                noise=torch.from_numpy(draw.noise[0]),
                noise_of_offset=torch.from_numpy(randomness.offset_noise(member.seed, step, _BATCH, 4)),
                timesteps=torch.from_numpy(draw.timesteps[0]),
                encoder_hidden_states=self._text[draws.caption_rows(draw, [member])[0]],
            )


def _member(at: int, case: Case) -> PackMember:
    """An adapter with captions of its own, some of which are dropped."""
    captions = 1 + (np.arange(_IMAGES)[:, np.newaxis] + at) % (_TEXTS - 1)
    noise = case.config().training.noise
    return PackMember(f"case-{at}", _SEED, captions, np.ones(captions.shape), caption_dropout=0.1, noise=noise)


def _resident(tensor: Tensor) -> TensorTable:
    return TensorTable(tensor.__getitem__, len(tensor), tensor.device, tensor.dtype, resident=True)


@dataclass(frozen=True)
class Losses:
    """Of one adapter."""

    ours: list[float]
    script: list[float]

    @property
    def difference(self) -> float:
        """The largest, relative to the script's; NaN where one is not a number."""
        return float(np.abs(np.array(self.ours) / np.array(self.script) - 1).max())


def compare(dtype: torch.dtype, steps: int, cases: Mapping[str, Case] = CASES) -> dict[str, Losses]:
    """Train every case both ways; with us those of one prediction type in a pack."""
    study, found = Study(dtype), {}
    for prediction in ("epsilon", "v_prediction"):
        pack = {name: case for name, case in cases.items() if case.prediction == prediction}
        losses = study.ours(list(pack.values()), steps)
        for at, ((name, case), ours) in enumerate(zip(pack.items(), losses, strict=True)):
            found[name] = Losses(ours, study.scripts(at, case, steps))
    return found


def without_signal(prediction: PredictionType) -> tuple[float, float]:
    """The min-SNR weight at a last timestep that is noise alone: ours and the script's."""
    scheduler = scheduler_of(prediction, zero_terminal_snr=True)
    last = torch.tensor([scheduler.config.num_train_timesteps - 1])
    ours = diffusion.min_snr_weights(noise_schedule_of(scheduler), last, _GAMMA)
    return ours.item(), diffusers_loop.snr_weights(scheduler, last, _GAMMA).item()


def main() -> None:
    """Train, print the tables."""
    quiet_libraries()
    print(describe())
    long, short = compare(torch.float64, STEPS), compare(torch.float32, 1)
    print(
        f"\n| | first {STEPS} losses, float64 | limit | first loss, float32 | limit |\n| --- | --- | --- | --- | --- |"
    )
    for name, case in CASES.items():
        cells = (long[name].difference, case.limit, short[name].difference, LIMITS[torch.float32])
        print(f"| {name} | {' | '.join(f'{cell:.1e}' for cell in cells)} |")
    print("\n| min-SNR weight where there is no signal | ours | the script's |\n| --- | --- | --- |")
    for prediction in ("epsilon", "v_prediction"):
        print(f"| {prediction} | {' | '.join(f'{weight:g}' for weight in without_signal(prediction))} |")


if __name__ == "__main__":
    main()
