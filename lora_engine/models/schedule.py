"""A base model's scheduler: the noise schedule that it is trained with, and the sampler that draws with it."""

import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from lora_engine.config.evaluation import SamplerName
from lora_engine.config.noise import NoiseConfig, refused_with_zero_terminal_snr
from lora_engine.diffusion import NoiseSchedule
from lora_engine.errors import ModelError
from lora_engine.models.files import LocalModel
from lora_engine.models.loading import model_errors
from lora_engine.models.use import require_able, require_picture

# Samplers by the names that people give them: diffusers' class, and what it is told beside the base model's schedule.
_SAMPLERS: dict[SamplerName, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),  # of latents, which are no pixels, nothing is cut off
    "pndm": ("PNDMScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm++_2m": ("DPMSolverMultistepScheduler", {}),
    "dpm++_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
_RESCALED = "rescale_betas_zero_snr"  # the setting of schedulers that lets the last timestep be noise alone


def load_noise_schedule(model: LocalModel) -> NoiseSchedule:
    """The noise schedule, with the prediction type, that the base model is trained with.

    Raises:
        ModelError: the scheduler predicts something other than the noise or v, or is of another kind of diffusion.
    """
    from diffusers import DDPMScheduler

    settings = _settings(model)
    with model_errors(model.path, "scheduler"):
        if not settings.keys() & {"beta_schedule", "trained_betas"}:
            kind = settings.get("_class_name", "a scheduler")
            raise ValueError(f"{kind} without beta_schedule, so not of the diffusion that can be trained")
        scheduler: Any = DDPMScheduler.from_config(settings)
        _require_noise(scheduler)
    prediction_type = scheduler.config.prediction_type
    if prediction_type not in ("epsilon", "v_prediction"):
        raise ModelError(
            f"The base model predicts {prediction_type!r}.", "Only epsilon and v_prediction models can be trained."
        )
    require_picture(model.use, prediction_type, rescales=settings.get(_RESCALED) is True)
    return NoiseSchedule(scheduler.alphas_cumprod.double(), prediction_type)


def _require_noise(scheduler: Any) -> None:
    """Raise ValueError if the betas are not what turns a picture into more and more noise."""
    betas_T: Tensor = scheduler.betas
    is_in_range = bool(((betas_T >= 0) & (betas_T <= 1)).all())  # A NaN is neither.
    if not is_in_range or not betas_T[1:].any():
        raise ValueError("its betas are not all between 0 and 1, or add no noise")
    if len(betas_T) != scheduler.config.num_train_timesteps:
        raise ValueError(f"it has {len(betas_T)} betas for {scheduler.config.num_train_timesteps} timesteps")


def _settings(model: LocalModel) -> dict[str, Any]:
    """The scheduler's configuration, with what the manifest says instead of it."""
    from diffusers import DDPMScheduler

    with model_errors(model.path, "scheduler"):
        settings: dict[str, Any] = dict(
            DDPMScheduler.load_config(model.path, subfolder="scheduler", local_files_only=True)
        )
        if model.use.prediction_type != "auto":
            settings["prediction_type"] = model.use.prediction_type
        if model.use.zero_terminal_snr != "auto":
            settings[_RESCALED] = model.use.zero_terminal_snr
        elif (
            model.use.prediction_type == "epsilon"
        ):  # Whoever overrules a file that says v overrules what goes with it.
            settings[_RESCALED] = False
        if not isinstance(settings.get(_RESCALED, False), bool):
            raise ValueError(f"its {_RESCALED} is neither true nor false")
    if settings.get(_RESCALED) is True:
        settings["timestep_spacing"] = "trailing"  # Others would not begin at the timestep that is noise alone.
    return settings


def require_noise(model: LocalModel, noises: Iterable[NoiseConfig]) -> None:
    """Refuse noise to train with that does not go with the noise of the model's last timestep.

    Raises:
        ModelError: some does not; or the model's schedule cannot be read.
    """
    if load_noise_schedule(model).zero_terminal_snr:
        for noise in noises:
            if (reason := refused_with_zero_terminal_snr(noise)) is not None:
                raise ModelError(
                    reason, "Leave it out; or base_model.zero_terminal_snr: false, if the model was not trained so."
                )


def require_sampler(model: LocalModel, name: SamplerName | None, numbers: Iterable[int]) -> None:
    """Refuse a sampler that cannot draw in these numbers of steps. Takes `name`, and raises, as `load_sampler` does."""
    for steps in sorted(set(numbers)):
        sampler = load_sampler(model, name)
        with model_errors(model.path, f"sampler ({type(sampler).__name__}, {steps} steps)"):
            sampler.set_timesteps(steps)


def load_sampler(model: LocalModel, name: SamplerName | None = None) -> Any:
    """The scheduler with which the pipeline generates samples: of that name, or the one that it names, or PNDM.

    Where the last timestep is noise alone, and the pipeline's own scheduler cannot begin there, it is DDIM.

    Raises:
        ModelError: the scheduler's configuration cannot be read, or that sampler cannot begin where it has to.
    """
    import diffusers

    settings = _settings(model)
    with model_errors(model.path, "scheduler"):
        own = _own_sampler(model.path).from_config(settings)
    rescales = settings.get(_RESCALED) is True
    if name is None:
        if not rescales or _can_rescale(type(own)):
            return own
        name = "ddim"
    kind, options = getattr(diffusers, _SAMPLERS[name][0]), _SAMPLERS[name][1]
    require_able(name, rescales=rescales)
    rescaled = {_RESCALED: True, "timestep_spacing": "trailing"} if rescales else {}
    return kind.from_config(own.config, **options, **rescaled)


def _can_rescale(kind: Any) -> bool:
    return _takes(kind, _RESCALED)


def _takes(kind: Any, setting: str) -> bool:
    return setting in inspect.signature(kind.__init__).parameters


def _own_sampler(folder: Path) -> Any:
    """The class of scheduler that a pipeline names; PNDM where it names none of the library's for such models."""
    import diffusers

    entry = pipeline_index(folder).get("scheduler")
    named = getattr(diffusers, str(entry[1]), None) if isinstance(entry, list) and len(entry) > 1 else None
    is_scheduler = isinstance(named, type) and issubclass(named, diffusers.SchedulerMixin)
    return named if is_scheduler and _takes(named, "beta_schedule") else diffusers.PNDMScheduler


def pipeline_index(folder: Path) -> dict[str, Any]:
    """`model_index.json`, which maps a part's name to its library and class; empty where there is no such file."""
    path = folder / "model_index.json"
    try:
        index = json.loads(path.read_bytes()) if path.exists() else {}
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no JSON.", "Fetch the model again.") from error
    return index if isinstance(index, dict) else {}
