"""Loads the parts of a Stable Diffusion pipeline, one at a time, from a folder in diffusers layout."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from lora_engine.adapters.targets import matching_modules
from lora_engine.config.adapter import LoraConfig
from lora_engine.errors import ModelError
from lora_engine.models import merge
from lora_engine.models.accepted import WITH_WEIGHTS
from lora_engine.models.checkpoint import NAME_A_VAE, current_name, read_header, require_tensors
from lora_engine.models.files import LocalModel, how_to_load, weight_files
from lora_engine.models.finite import REMEDY, why_not_finite
from lora_engine.models.loading import empty_part, json_object, model_errors
from lora_engine.models.schedule import load_noise_schedule
from lora_engine.models.use import latent_channels, require_layers, require_vae

# The keys of a UNet's configuration that ask for inputs which Stable Diffusion 1.x and 2.x do not have.
_OTHER_INPUTS = (
    "class_embed_type",
    "num_class_embeds",
    "addition_embed_type",
    "encoder_hid_dim",
    "encoder_hid_dim_type",
    "dual_cross_attention",
)
_SCALE = 0.18215  # of latents, where a VAE's configuration says nothing, as the library has it
_OTHER_LATENTS = ("shift_factor", "latents_mean", "latents_std")  # keys of a VAE's configuration that are not used here
_SHORTEST = 3  # tokens of a text: its start, a word, its end
_SMALLER = "Name another LoRA, or a smaller strength; fp16 holds numbers up to 65504, bf16 and fp32 larger ones."
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


def _require_finite(
    model: LocalModel, component: str, weights: Mapping[str, Tensor], *, is_merged: bool = False
) -> None:
    """Refuse weights that are not numbers, which would make every loss and every picture as bad."""
    if (reason := why_not_finite(weights.items())) is not None:
        why = f"The base model's {component} in {model.path} cannot be used: {reason}"
        if is_merged:
            raise ModelError(f"{why} with what base_model.merge adds.", _SMALLER)
        raise ModelError(f"{why}.", REMEDY)


def require_weights(model: LocalModel, *, has_vae: bool = True, has_weights: bool = True) -> None:
    """Refuse a pipeline whose weights could hold code or are not whole, without loading them.

    Args:
        has_vae: whether the VAE is on this machine, too.
        has_weights: whether those of its own parts lie in the folder, too, and not in another file.

    Raises:
        ModelError: a part has no safetensors and pickles are not allowed, a file is damaged, the VAE or the text
            encoder lacks a tensor, as `require_trainable` says of the UNet, the VAE's latents or the tokenizer's
            tokens are not what the UNet and the text encoder know, or what is to be merged is for other layers.
    """
    if has_vae and not model.part("vae").path.is_dir():
        raise ModelError(f"base_model.source: {model.path.name} has no VAE.", NAME_A_VAE)
    if model.vae is not None:
        require_vae(model.vae, latent_channels(model.path), allow_pickle=model.allow_pickle)
    has_vae_weights = has_vae and (has_weights or model.vae is not None)
    for component in WITH_WEIGHTS:
        if not (has_vae_weights if component == "vae" else has_weights):
            continue
        files = weight_files(model.part(component), _key(model, component))
        if files and component != "unet":
            _require_whole(empty_part(model.part(component).path, component), files, _key(model, component))
    if has_vae:
        _require_scale(model)
    load_tokenizer(model)
    if model.merge:
        shapes = merge.layer_shapes(model)
        for at, each in enumerate(model.merge):
            merge.require_fitting(each.path, shapes, f"base_model.merge[{at}]")


def _require_scale(model: LocalModel) -> None:
    """Refuse a VAE whose latents are scaled or shifted otherwise than the UNet learned them, as that of SDXL."""
    config = _config(model, "vae")
    scale, own = config.get("scaling_factor", _SCALE), None
    with model_errors(model.part("vae").path, "vae"):
        if not (isinstance(scale, int | float) and 0 < scale < math.inf):
            raise ValueError(f"its scaling_factor is {scale!r}, no number above 0")
        if others := [key for key in _OTHER_LATENTS if config.get(key)]:
            raise ValueError(f"it has a {others[0]}, as VAEs of other families have")
    if model.vae is not None and (model.path / "vae" / "config.json").is_file():
        own = _config(replace(model, vae=None), "vae").get("scaling_factor", _SCALE)
    if own is not None and own != scale:
        raise ModelError(
            f"base_model.vae: its latents are scaled by {scale:g}, and those that the base model learned by {own:g}, "
            "so it is of another family.",
            NAME_A_VAE,
        )


def _config(model: LocalModel, part: str) -> dict[str, Any]:
    with model_errors(model.part(part).path, part):
        return json_object(model.part(part).path / "config.json")


def _key(model: LocalModel, component: str) -> str:
    """The manifest's key of a part of the base model, for messages."""
    return "base_model.vae" if component == "vae" and model.vae else f"base_model.source: the {component}"


def _how_to_load(model: LocalModel, component: str) -> dict[str, Any]:
    return how_to_load(model.part(component), _key(model, component))


def require_trainable(model: LocalModel, config: LoraConfig, *, has_weights: bool = True) -> None:
    """Refuse a base model that cannot be trained with adapters of that configuration, without loading its weights.

    Args:
        has_weights: whether they lie in the folder, too, and not in another file.

    Raises:
        ModelError: the UNet lacks the layers that adapters go to, or takes other inputs than Stable Diffusion's; or the
            scheduler is of another kind of diffusion.
    """
    load_noise_schedule(model)
    unet = empty_part(model.path / "unet", "unet")
    layers = _require_plain_inputs(model, unet)
    require_layers(model.use, layers)
    if has_weights and (files := _unet_files(model)):
        _require_whole(unet, files, _key(model, "unet"))
    matching_modules(unet, config)


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
            channels = json_object(vae / "config.json").get("latent_channels", 4)
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
    """The UNet, with what is merged into it, in `dtype` and evaluation mode, on the device, or on the CPU for None.

    Loading takes the memory of the weights in `dtype` and little more, whatever type the file holds.

    Raises:
        ModelError: the weights cannot be loaded.
    """
    from diffusers import UNet2DConditionModel

    device = device or torch.device("cpu")
    files, merging = _unet_files(model), merge.Merging(model.merge)
    unet: nn.Module = empty_part(model.path / "unet", "unet")
    if files:
        _require_whole(unet, files, _key(model, "unet"))
        with model_errors(model.path, "unet"):
            weights = {name: w for file in files for name, w in _read(file, dtype, device, merging)}
    else:
        wide = torch.promote_types(dtype, torch.float32) if model.merge else dtype
        pickled = _load_weights(model, "unet", UNet2DConditionModel, torch_dtype=wide, use_safetensors=False)
        weights = {name: merging.merged(name, w).to(device, dtype) for name, w in pickled.state_dict().items()}
    with model_errors(model.path, "unet"):
        unet.load_state_dict(weights, assign=True)
    _require_finite(model, "unet", weights, is_merged=bool(model.merge))
    return unet.eval()


def _unet_files(model: LocalModel) -> tuple[Path, ...]:
    """The UNet's safetensors; none where its weights are pickles that are allowed."""
    return weight_files(model.part("unet"), _key(model, "unet"))


def _require_whole(part: nn.Module, files: Sequence[Path], what: str) -> None:
    """Refuse files that lack a tensor of a part or hold others than it has, by their headers alone."""
    from diffusers import UNet2DConditionModel

    found: dict[str, tuple[int, ...]] = {}
    names = ", ".join(file.name for file in files[:3])
    for file in files:
        shapes = read_header(file, what).shapes
        here = {current_name(name): shape for name, shape in shapes.items()}
        if len(here) < len(shapes):
            raise ModelError(
                f"{what} ({file.name}) holds tensors twice, under two names each.", "Name a version that has them once."
            )
        found |= here
    wanted = {current_name(name): tuple(tensor.shape) for name, tensor in part.state_dict().items()}
    require_tensors(found, wanted, f"{what} ({names})", "Its config.json has to be that of the same model.")
    more = sorted(found.keys() - wanted.keys())
    if more and isinstance(
        part, UNet2DConditionModel
    ):  # Other parts of pipelines have had buffers that are unused now.
        raise ModelError(
            f"{what} ({names}) holds {more[0]}, for which its config.json has no place.",
            "Name a text-to-image model of Stable Diffusion 1.x or 2.x, with its own config.json.",
        )


def _read(file: Path, dtype: torch.dtype, device: torch.device, merging: merge.Merging) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors of a file, with what is merged into them.

    The file is mapped into memory anew for every few tensors: as long as it is mapped, what was read stays in memory.
    """
    with safe_open(file, framework="pt") as opened:
        names = list(opened.keys())
    for start in range(0, len(names), _TENSORS_AT_ONCE):
        with safe_open(file, framework="pt") as opened:
            for name in names[start : start + _TENSORS_AT_ONCE]:
                # The tensor is moved first, so that a GPU, which is faster at it, converts it.
                yield name, merging.merged(name, opened.get_tensor(name).to(device)).to(dtype)


def load_vae(model: LocalModel) -> Any:
    """The autoencoder, in fp32, since its encoder overflows in fp16."""
    from diffusers import AutoencoderKL

    return _load_weights(model, "vae", AutoencoderKL, torch_dtype=torch.float32, **_how_to_load(model, "vae"))


def load_text_encoder(model: LocalModel, dtype: torch.dtype) -> tuple[Any, Any]:
    """The CLIP tokenizer, and the text encoder, with what is merged into it, in `dtype`.

    Raises:
        ModelError: one of them cannot be loaded, or does not fit the other.
    """
    from transformers import CLIPTextModel

    merging = merge.Merging(model.merge)
    is_changed = merging.changes_text_encoder()
    wide = torch.promote_types(dtype, torch.float32) if is_changed else dtype
    options = {"weights_only": True, **_how_to_load(model, "text_encoder")}
    text_encoder = _load_weights(model, "text_encoder", CLIPTextModel, dtype=wide, **options)
    if is_changed:
        merge.merge_text_encoder(text_encoder, merging)
    text_encoder = text_encoder.to(dtype)
    if is_changed:
        _require_finite(model, "text_encoder", text_encoder.state_dict(), is_merged=True)
    return load_tokenizer(model), text_encoder


def load_tokenizer(model: LocalModel) -> Any:
    """The CLIP tokenizer without the text encoder.

    Raises:
        ModelError: it cannot be loaded; or the text encoder, by its configuration, takes fewer tokens at a time, or
            knows others: the library makes a tokenizer without words where its files are lacking.
    """
    from transformers import CLIPTextConfig, CLIPTokenizer

    tokenizer, text = _load(model, "tokenizer", CLIPTokenizer), _load(model, "text_encoder", CLIPTextConfig)
    longest, positions = tokenizer.model_max_length, text.max_position_embeddings
    with model_errors(model.path, "tokenizer"):
        if not _SHORTEST <= longest <= positions:  # Without a length in its configuration, it is a huge number.
            raise ValueError(f"its model_max_length is {longest}, and the text encoder has {positions} positions")
        if not text.vocab_size // 2 < len(tokenizer) <= text.vocab_size:
            raise ValueError(f"it has {len(tokenizer)} tokens, and the text encoder {text.vocab_size}")
    return tokenizer


def native_resolution(model: LocalModel) -> int:
    """The side of the pictures that the base model was made for, in pixels."""
    with model_errors(model.path, "unet"):
        latents = int(_config(model, "unet")["sample_size"])
    with model_errors(model.path, "vae"):
        levels = len(_config(model, "vae")["block_out_channels"])
    return int(latents * 2 ** (levels - 1))
