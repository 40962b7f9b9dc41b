"""Loads the parts of a Stable Diffusion pipeline, one at a time, from a folder in diffusers layout."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from lora_engine.adapters import lora
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.evaluation import SamplerName
from lora_engine.diffusion import NoiseSchedule
from lora_engine.errors import ModelError
from lora_engine.models.files import WITH_WEIGHTS, LocalModel, check_safetensors, holds_safetensors
from lora_engine.models.finite import REMEDY, why_not_finite
from lora_engine.system.limits import raise_if_limit

_LIBRARIES = ("diffusers", "transformers", "stable_diffusion", None)  # the libraries whose classes a pipeline may name

# The files of a pipeline that are read; no others need to be fetched.
FILE_PATTERNS = (
    "model_index.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/*",
    "scheduler/*",
)
# The files of a pipeline that a single-file checkpoint lacks.
CONFIG_PATTERNS = ("model_index.json", "*/config.json", "tokenizer/*", "scheduler/*")
# The keys of a UNet's configuration that ask for inputs which Stable Diffusion 1.x and 2.x do not have.
_OTHER_INPUTS = (
    "class_embed_type",
    "num_class_embeds",
    "addition_embed_type",
    "encoder_hid_dim",
    "encoder_hid_dim_type",
    "dual_cross_attention",
)
_TENSORS_AT_ONCE = 32  # that are read while a file is mapped: some 100 MB of SD 1.5 in half precision


def _load(model: LocalModel, component: str, model_class: Any, **options: Any) -> Any:
    with _model_errors(model.path, component):
        return model_class.from_pretrained(model.path, subfolder=component, local_files_only=True, **options)


def _load_weights(model: LocalModel, component: str, model_class: Any, **options: Any) -> Any:
    """Load a component, and refuse a file that lacks weights, which the libraries would fill with random numbers."""
    part, loaded = _load(model, component, model_class, output_loading_info=True, **options)
    with _model_errors(model.path, component):
        if loaded["missing_keys"]:
            raise ValueError(f"its weights lack {', '.join(sorted(loaded['missing_keys'])[:3])}")
    _require_finite(model, component, part.state_dict())
    return part.eval()


def _require_finite(model: LocalModel, component: str, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not numbers, which would make every loss and every picture as bad."""
    if (reason := why_not_finite(weights.items())) is not None:
        raise ModelError(f"The base model's {component} in {model.path} cannot be used: {reason}.", REMEDY)


@contextmanager
def _model_errors(folder: Path, component: str) -> Iterator[None]:
    """Turn the block's errors into a ModelError about that component."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # diffusers and transformers raise almost any where something is wrong with a file.
        raise_if_limit(error)
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"The base model's {component} cannot be loaded from {folder}: {reason}.",
            "Give a Stable Diffusion 1.x or 2.x pipeline in diffusers layout with safetensors weights.",
        ) from error


def require_weights(model: LocalModel) -> None:
    """Refuse a pipeline whose weights could hold code or are not whole, without loading them.

    Raises:
        ModelError: a part has no safetensors and pickles are not allowed, or a file is damaged.
    """
    for component in WITH_WEIGHTS:
        _holds_safetensors(model, component)


def _holds_safetensors(model: LocalModel, component: str) -> bool:
    return holds_safetensors(model.part(component), f"base_model.source: the {component}")


def require_trainable(model: LocalModel, config: LoraConfig) -> None:
    """Refuse a base model that cannot be trained with adapters of that configuration, without loading its weights.

    Raises:
        ModelError: the UNet lacks the layers that adapters go to, or takes other inputs than Stable Diffusion's; or the
            scheduler is of another kind of diffusion.
    """
    load_noise_schedule(model)
    unet = _empty_unet(model.path)
    _require_plain_inputs(model, unet)
    lora.matching_modules(unet, config)


def _require_plain_inputs(model: LocalModel, unet: nn.Module) -> None:
    """Refuse a UNet that takes anything else than noisy latents, a timestep and the text encoder's embeddings.

    Its configuration is read for that: one pass of SD 1.5's UNet takes 0.7 s even without data.
    """
    from transformers import CLIPTextConfig

    # The file is read as JSON, since importing the VAE's class takes 0.3 s, and nothing else needs the class where all
    # latents are in the cache.
    with _model_errors(model.path, "vae"):
        channels = json.loads((model.path / "vae" / "config.json").read_bytes()).get("latent_channels", 4)
    width = _load(model, "text_encoder", CLIPTextConfig).hidden_size
    config: Any = unet.config
    found = {key: config[key] for key in _OTHER_INPUTS if config[key]}
    found |= {key: config[key] for key in ("in_channels", "out_channels") if config[key] != channels}
    widths = config["cross_attention_dim"]
    if any(of_block != width for of_block in (widths if isinstance(widths, list | tuple) else [widths])):
        found["cross_attention_dim"] = widths
    if found:
        raise ModelError(
            f"The base model's UNet cannot be trained: it has {', '.join(f'{k}: {v!r}' for k, v in found.items())}.",
            "Name a text-to-image model of Stable Diffusion 1.x or 2.x, not for inpainting, depth or upscaling: "
            f"{channels} channels in and out, as its VAE has, cross_attention_dim {width}, as its text encoder has.",
        )


def _empty_unet(folder: Path) -> nn.Module:
    """The UNet's layers on the meta device, which have shapes but no values, and take no memory."""
    from accelerate import init_empty_weights
    from diffusers import UNet2DConditionModel

    with init_empty_weights(), _model_errors(folder, "unet"):
        settings = UNet2DConditionModel.load_config(folder, subfolder="unet", local_files_only=True)
        return UNet2DConditionModel.from_config(settings)  # type: ignore[no-any-return]


def load_unet(model: LocalModel, dtype: torch.dtype, device: torch.device | None = None) -> nn.Module:
    """The UNet in `dtype` and evaluation mode, on the device, or on the CPU for None.

    Loading takes the memory of the weights in `dtype` and little more, whatever type the file holds.

    Raises:
        ModelError: the weights cannot be loaded.
    """
    from diffusers import UNet2DConditionModel

    device = device or torch.device("cpu")
    if not _holds_safetensors(model, "unet"):
        pickled = _load_weights(model, "unet", UNet2DConditionModel, torch_dtype=dtype, use_safetensors=False)
        return pickled.to(device)  # type: ignore[no-any-return]
    unet = _empty_unet(model.path)
    with _model_errors(model.path, "unet"):
        weights = {name: w for file in _weight_files(model.path / "unet") for name, w in _read(file, dtype, device)}
        unet.load_state_dict(weights, assign=True)
    _require_finite(model, "unet", weights)
    return unet.eval()


def _weight_files(folder: Path) -> list[Path]:
    """The files of weights in the folder that diffusers would read."""
    from diffusers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFETENSORS_WEIGHTS_NAME

    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if not index.exists():
        return [folder / SAFETENSORS_WEIGHTS_NAME]
    return sorted({folder / name for name in json.loads(index.read_bytes())["weight_map"].values()})


def _read(file: Path, dtype: torch.dtype, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors of a file.

    The file is mapped into memory anew for every few tensors: as long as it is mapped, what was read stays in memory.
    """
    with safe_open(file, framework="pt") as opened:
        names = list(opened.keys())
    for start in range(0, len(names), _TENSORS_AT_ONCE):
        with safe_open(file, framework="pt") as opened:
            for name in names[start : start + _TENSORS_AT_ONCE]:
                # The tensor is moved first, so that a GPU, which is faster at it, converts it.
                yield name, opened.get_tensor(name).to(device).to(dtype)


def load_vae(model: LocalModel) -> Any:
    """The autoencoder, in fp32, since its encoder overflows in fp16."""
    from diffusers import AutoencoderKL

    safe = _holds_safetensors(model, "vae")
    return _load_weights(model, "vae", AutoencoderKL, torch_dtype=torch.float32, use_safetensors=safe)


def load_text_encoder(model: LocalModel, dtype: torch.dtype) -> tuple[Any, Any]:
    """The CLIP tokenizer, and the text encoder in `dtype`.

    Raises:
        ModelError: one of them cannot be loaded, or the tokenizer gives more tokens than the text encoder takes.
    """
    from transformers import CLIPTextModel

    safe = _holds_safetensors(model, "text_encoder")
    options = {"use_safetensors": safe, "weights_only": True}
    encoder = _load_weights(model, "text_encoder", CLIPTextModel, dtype=dtype, **options)
    tokenizer, positions = load_tokenizer(model), encoder.config.max_position_embeddings
    with _model_errors(model.path, "tokenizer"):
        if tokenizer.model_max_length > positions:  # Without a length in its configuration, it is a huge number.
            raise ValueError(f"its model_max_length is more than the text encoder's {positions} positions")
    return tokenizer, encoder


def load_tokenizer(model: LocalModel) -> Any:
    """The CLIP tokenizer without the text encoder."""
    from transformers import CLIPTokenizer

    return _load(model, "tokenizer", CLIPTokenizer)


def load_noise_schedule(model: LocalModel) -> NoiseSchedule:
    """The noise schedule, with the prediction type, that the base model was trained with.

    Raises:
        ModelError: the scheduler predicts something other than the noise or v, or is of another kind of diffusion.
    """
    from diffusers import DDPMScheduler

    with _model_errors(model.path, "scheduler"):
        settings = DDPMScheduler.load_config(model.path, subfolder="scheduler", local_files_only=True)
        if not settings.keys() & {"beta_schedule", "trained_betas"}:
            kind = settings.get("_class_name", "a scheduler")
            raise ValueError(f"{kind} without beta_schedule, so not of the diffusion that can be trained")
    scheduler = _load(model, "scheduler", DDPMScheduler)
    prediction_type = scheduler.config.prediction_type
    if prediction_type not in ("epsilon", "v_prediction"):
        raise ModelError(
            f"The base model predicts {prediction_type!r}.", "Only epsilon and v_prediction models can be trained."
        )
    return NoiseSchedule(scheduler.alphas_cumprod.double(), prediction_type)


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


def load_sampler(model: LocalModel, name: SamplerName | None = None) -> Any:
    """The scheduler with which the pipeline generates samples: of that name, or the one that it names, or PNDM."""
    import diffusers

    if name is not None:
        kind, settings = _SAMPLERS[name]
        return getattr(diffusers, kind).from_config(load_sampler(model).config, **settings)
    entry = _pipeline_index(model.path).get("scheduler")
    named = getattr(diffusers, str(entry[1]), None) if isinstance(entry, list) and len(entry) > 1 else None
    is_scheduler = isinstance(named, type) and issubclass(named, diffusers.SchedulerMixin)
    return _load(model, "scheduler", named if is_scheduler else diffusers.PNDMScheduler)


def _pipeline_index(folder: Path) -> dict[str, Any]:
    """`model_index.json`, which maps a part's name to its library and class; empty where there is no such file."""
    path = folder / "model_index.json"
    try:
        index = json.loads(path.read_bytes()) if path.exists() else {}
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no JSON.", "Fetch the model again.") from error
    return index if isinstance(index, dict) else {}


def native_resolution(model: LocalModel) -> int:
    """The side of the pictures that the base model was made for, in pixels."""
    with _model_errors(model.path, "unet"):
        latents = int(json.loads((model.path / "unet" / "config.json").read_bytes())["sample_size"])
    with _model_errors(model.path, "vae"):
        levels = len(json.loads((model.path / "vae" / "config.json").read_bytes())["block_out_channels"])
    return int(latents * 2 ** (levels - 1))


def convert_single_file(checkpoint: Path, components: Path, folder: Path) -> None:
    """Turn a single `.safetensors` checkpoint into a pipeline's folder in diffusers layout.

    Args:
        components: the folder with the configurations and the tokenizer, which the checkpoint lacks.
        folder: the pipeline's, which is made.

    Raises:
        ModelError: the file is a pickle, damaged, or of another kind of model; or the components name other libraries.
    """
    if checkpoint.suffix != ".safetensors":
        raise ModelError(
            f"base_model.source: {checkpoint.name} is not a .safetensors file; other checkpoints can run code.",
            "Convert it to safetensors, or name a version that is.",
        )
    check_safetensors(checkpoint, "base_model.source")
    for name, entry in _pipeline_index(components).items():
        if isinstance(entry, list) and entry[:1] and entry[0] not in _LIBRARIES:
            raise ModelError(
                f"base_model.components: model_index.json takes {name} from {entry[0]!r}, no model library.",
                "Name a Stable Diffusion pipeline of the diffusers library.",
            )
    from diffusers import StableDiffusionPipeline

    try:
        pipeline = StableDiffusionPipeline.from_single_file(
            str(checkpoint), config=str(components), local_files_only=True, safety_checker=None
        )
        _require_whole(pipeline)
    except MemoryError:
        raise
    except Exception as error:  # As in `_model_errors`, it can be almost any.
        raise_if_limit(error)
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{checkpoint.name} is not a Stable Diffusion checkpoint that matches {components}: {reason}.",
            "Check base_model.source and base_model.components.",
        ) from error
    pipeline.save_pretrained(folder)


def _require_whole(pipeline: Any) -> None:
    """Raise ValueError if weights have no values, since the checkpoint lacked them."""
    parts = (getattr(pipeline, name) for name in WITH_WEIGHTS)
    lacking = [name for part in parts for name, weight in part.named_parameters() if weight.is_meta]
    if lacking:
        raise ValueError(f"its weights lack {', '.join(lacking[:3])}")
