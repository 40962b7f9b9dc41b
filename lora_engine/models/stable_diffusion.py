"""Loads the parts of a Stable Diffusion pipeline, one at a time, from a folder in diffusers layout."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from lora_engine.adapters import lora
from lora_engine.config.adapter import LoraConfig
from lora_engine.errors import ModelError
from lora_engine.models.accepted import WITH_WEIGHTS
from lora_engine.models.checkpoint import NAME_A_VAE, current_name, read_header, require_tensors
from lora_engine.models.files import LocalModel, how_to_load, weight_files
from lora_engine.models.finite import REMEDY, why_not_finite
from lora_engine.models.loading import empty_part, model_errors
from lora_engine.models.schedule import load_noise_schedule
from lora_engine.models.use import require_layers

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
    folder = model.part(component).path
    with model_errors(folder.parent, component):
        return model_class.from_pretrained(folder.parent, subfolder=folder.name, local_files_only=True, **options)


def _load_weights(model: LocalModel, component: str, model_class: Any, **options: Any) -> Any:
    """Load a component, and refuse a file that lacks weights, which the libraries would fill with random numbers."""
    part, loaded = _load(model, component, model_class, output_loading_info=True, **options)
    with model_errors(model.path, component):
        if loaded["missing_keys"]:
            raise ValueError(f"its weights lack {', '.join(sorted(loaded['missing_keys'])[:3])}")
    _require_finite(model, component, part.state_dict())
    return part.eval()


def _require_finite(model: LocalModel, component: str, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not numbers, which would make every loss and every picture as bad."""
    if (reason := why_not_finite(weights.items())) is not None:
        raise ModelError(f"The base model's {component} in {model.path} cannot be used: {reason}.", REMEDY)


def require_weights(model: LocalModel, *, has_vae: bool = True) -> None:
    """Refuse a pipeline whose weights could hold code or are not whole, without loading them.

    Args:
        has_vae: whether the VAE is on this machine, too.

    Raises:
        ModelError: a part has no safetensors and pickles are not allowed, a file is damaged, or the VAE or the text
            encoder lacks a tensor, as `require_trainable` says of the UNet.
    """
    if has_vae and not model.part("vae").path.is_dir():
        raise ModelError(f"base_model.source: {model.path.name} has no VAE.", NAME_A_VAE)
    for component in WITH_WEIGHTS:
        if component == "vae" and not has_vae:
            continue
        files = weight_files(model.part(component), _key(model, component))
        if files and component != "unet":
            _require_whole(empty_part(model.part(component).path, component), files, _key(model, component))


def _key(model: LocalModel, component: str) -> str:
    """The manifest's key of a part of the base model, for messages."""
    return "base_model.vae" if component == "vae" and model.vae else f"base_model.source: the {component}"


def _how_to_load(model: LocalModel, component: str) -> dict[str, Any]:
    return how_to_load(model.part(component), _key(model, component))


def require_trainable(model: LocalModel, config: LoraConfig) -> None:
    """Refuse a base model that cannot be trained with adapters of that configuration, without loading its weights.

    Raises:
        ModelError: the UNet lacks the layers that adapters go to, or takes other inputs than Stable Diffusion's; or the
            scheduler is of another kind of diffusion.
    """
    load_noise_schedule(model)
    unet = empty_part(model.path / "unet", "unet")
    layers = _require_plain_inputs(model, unet)
    require_layers(model.use, layers)
    if files := _unet_files(model):
        _require_whole(unet, files, _key(model, "unet"))
    lora.matching_modules(unet, config)


def _require_plain_inputs(model: LocalModel, unet: nn.Module) -> int:
    """Refuse a UNet that takes anything else than noisy latents, a timestep and the text encoder's embeddings.

    Returns:
        How many layers the text encoder has.

    Its configuration is read for that: one pass of SD 1.5's UNet takes 0.7 s even without data.
    """
    from transformers import CLIPTextConfig

    # The file is read as JSON, since importing the VAE's class takes 0.3 s, and nothing else needs the class where all
    # latents are in the cache.
    config: Any = unet.config
    channels = config["out_channels"]  # It says as much where the VAE is not at hand.
    if (vae := model.part("vae").path).is_dir():
        with model_errors(model.path, "vae"):
            channels = json.loads((vae / "config.json").read_bytes()).get("latent_channels", 4)
    text = _load(model, "text_encoder", CLIPTextConfig)
    width = text.hidden_size
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
    return int(text.num_hidden_layers)


def load_unet(model: LocalModel, dtype: torch.dtype, device: torch.device | None = None) -> nn.Module:
    """The UNet in `dtype` and evaluation mode, on the device, or on the CPU for None.

    Loading takes the memory of the weights in `dtype` and little more, whatever type the file holds.

    Raises:
        ModelError: the weights cannot be loaded.
    """
    from diffusers import UNet2DConditionModel

    device = device or torch.device("cpu")
    files = _unet_files(model)
    if not files:
        pickled = _load_weights(model, "unet", UNet2DConditionModel, torch_dtype=dtype, use_safetensors=False)
        return pickled.to(device)  # type: ignore[no-any-return]
    unet: nn.Module = empty_part(model.path / "unet", "unet")
    _require_whole(unet, files, _key(model, "unet"))
    with model_errors(model.path, "unet"):
        weights = {name: w for file in files for name, w in _read(file, dtype, device)}
        unet.load_state_dict(weights, assign=True)
    _require_finite(model, "unet", weights)
    return unet.eval()


def _unet_files(model: LocalModel) -> tuple[Path, ...]:
    """The UNet's safetensors; none where its weights are pickles that are allowed."""
    return weight_files(model.part("unet"), _key(model, "unet"))


def _require_whole(part: nn.Module, files: Sequence[Path], what: str) -> None:
    """Refuse files that lack a tensor of a part, or hold one of another shape, by their headers alone."""
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        found |= {current_name(name): shape for name, shape in read_header(file, what).shapes.items()}
    wanted = {current_name(name): tuple(tensor.shape) for name, tensor in part.state_dict().items()}
    names = ", ".join(file.name for file in files[:3])
    require_tensors(found, wanted, f"{what} ({names})", "Its config.json has to be that of the same model.")


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

    return _load_weights(model, "vae", AutoencoderKL, torch_dtype=torch.float32, **_how_to_load(model, "vae"))


def load_text_encoder(model: LocalModel, dtype: torch.dtype) -> tuple[Any, Any]:
    """The CLIP tokenizer, and the text encoder in `dtype`.

    Raises:
        ModelError: one of them cannot be loaded, or the tokenizer gives more tokens than the text encoder takes.
    """
    from transformers import CLIPTextModel

    options = {"weights_only": True, **_how_to_load(model, "text_encoder")}
    encoder = _load_weights(model, "text_encoder", CLIPTextModel, dtype=dtype, **options)
    tokenizer, positions = load_tokenizer(model), encoder.config.max_position_embeddings
    with model_errors(model.path, "tokenizer"):
        if tokenizer.model_max_length > positions:  # Without a length in its configuration, it is a huge number.
            raise ValueError(f"its model_max_length is more than the text encoder's {positions} positions")
    return tokenizer, encoder


def load_tokenizer(model: LocalModel) -> Any:
    """The CLIP tokenizer without the text encoder."""
    from transformers import CLIPTokenizer

    return _load(model, "tokenizer", CLIPTokenizer)


def latent_channels(model: LocalModel) -> int:
    """The channels of the latents that the UNet takes."""
    with model_errors(model.path, "unet"):
        return int(json.loads((model.path / "unet" / "config.json").read_bytes())["in_channels"])


def native_resolution(model: LocalModel) -> int:
    """The side of the pictures that the base model was made for, in pixels."""
    with model_errors(model.path, "unet"):
        latents = int(json.loads((model.path / "unet" / "config.json").read_bytes())["sample_size"])
    with model_errors(model.path, "vae"):
        levels = len(json.loads((model.part("vae").path / "config.json").read_bytes())["block_out_channels"])
    return int(latents * 2 ** (levels - 1))
