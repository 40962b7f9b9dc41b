"""How much memory and arithmetic training adapters of Stable Diffusion 1.5 takes, known before anything is loaded.

Torch-free. `python -m benchmarks.memory` and `python -m benchmarks.ablation` measure what this says; see
docs/performance.md.
"""

from collections.abc import Iterable, Sequence

from lora_engine.adapters.base_layers import BaseLayer, adapted, text_encoder_layers
from lora_engine.config.adapter import LISTED, LoraConfig
from lora_engine.config.training import TrainingConfig

UNET_PARAMETERS = 859_520_964
TEXT_ENCODER_PARAMETERS = 123_060_480
TOLERANCE = 0.15  # relative error of what is said here: of an image's bytes before the first step, of the peak after it

# What one image keeps for the backward pass in fp32, with an adapter as `LoraConfig()` has it.
_KEPT_PIXEL_BYTES_384 = 853 * 2**20  # at 384x384, in proportion to the pixels
_KEPT_TEXT_BYTES = 8 * 2**20  # the keys and values of its caption's 77 tokens, for the most part
_KEPT_BY_TEXT_ENCODER = 54 * 2**20  # for its caption, where the text encoder is trained
_WORKING_FRACTION = 0.15  # of all of that, besides, while the backward pass is computed
LIBRARIES_BYTES = round(0.6 * 2**30)  # of the process, torch and the model libraries imported
_VALUE_BYTES = 4  # of an adapter's weight, its gradient, or a vector of its optimizer's state
# How many vectors each optimizer keeps of an adapter's weights.
_VECTORS = {"adamw": 2, "lion": 1, "prodigy": 4, "schedule_free_adamw": 2, "sgd": 1}
_DECODER_FLOPS_512 = 2.5e12  # of the VAE's decoder, for one picture of 512x512, in proportion to the pixels
_FLOPS_384, _FLOPS_512 = 877e9, 1718e9  # of one image at 384x384 and 512x512, forward and input gradients

Member = tuple[LoraConfig, TrainingConfig]


def parameters(lora: LoraConfig) -> int:
    """The weights of an adapter."""
    return sum(layer.parameters(rank, is_dora=lora.kind == "dora") for layer, rank in adapted(lora))


def kept_bytes(resolution: int, value_bytes: int, loras: Sequence[LoraConfig] = (LoraConfig(),)) -> int:
    """The bytes that one image of one adapter keeps for the backward pass.

    Args:
        resolution: pixels a side.
        value_bytes: of a value in the UNet's dtype.
        loras: of the adapters that train in lockstep, whose layers all images pass through.
    """
    latents = (resolution // 8) ** 2
    usual = _KEPT_PIXEL_BYTES_384 * (resolution / 384) ** 2 + _KEPT_TEXT_BYTES
    usual += _KEPT_BY_TEXT_ENCODER if any(lora.text_encoder for lora in loras) else 0
    ranks = _ranks(loras)
    more = _kept_values(ranks, latents) - _kept_values(_ranks([LoraConfig()]), latents)
    if any(lora.kind == "dora" for lora in loras):
        more += sum(layer.outputs * layer.gives(latents) for layer in ranks)  # what magnitudes multiply
    if len(loras) > 1:  # A convolution of several adapters has their images side by side, which is a copy.
        more += sum(layer.inputs * layer.sees(latents) for layer in ranks if layer.is_convolution)
    return round(usual * value_bytes / 4 + more * value_bytes)


def _kept_values(ranks: dict[BaseLayer, int], latents: int) -> float:
    """How many values an image keeps for adapters alone: between down and up, and what goes into some layers.

    Of attention the latter is counted already, and a convolution keeps it even where it is frozen.

    Args:
        ranks: of the adapters' layers.
        latents: pixels of the image's latents.
    """
    total = 0.0
    for layer, rank in ranks.items():
        total += rank * layer.gives(latents)
        if not layer.is_convolution and layer.pixels and not layer.name.endswith(LISTED["attention"]):
            total += layer.inputs * layer.sees(latents)
    return total


def _ranks(loras: Iterable[LoraConfig]) -> dict[BaseLayer, int]:
    """The layers in which any of the adapters has weights, with the rank to which all are filled up there."""
    ranks: dict[BaseLayer, int] = {}
    for lora in loras:
        for layer, rank in adapted(lora):
            ranks[layer] = max(rank, ranks.get(layer, 0))
    return ranks


def state_bytes(lora: LoraConfig, training: TrainingConfig) -> int:
    """The bytes of what continuing an adapter needs: its weights, its optimizer's vectors and their average."""
    return parameters(lora) * _vectors(training) * _VALUE_BYTES


def _vectors(training: TrainingConfig) -> int:
    return 1 + _VECTORS[training.optimizer.name] + (training.ema is not None)


def file_bytes(lora: LoraConfig) -> int:
    """The bytes of the two files, in fp32, that programs load an adapter from."""
    return 2 * parameters(lora) * _VALUE_BYTES


def adapters_bytes(members: Sequence[Member]) -> int:
    """The bytes on the device of the adapters of a pack: each with its state and gradient, filled up."""
    is_dora = any(lora.kind == "dora" for lora, _ in members)
    ranks = _ranks(lora for lora, _ in members)
    filled_up = sum(layer.parameters(rank, is_dora=is_dora) for layer, rank in ranks.items())
    return sum(filled_up * (_vectors(training) + 1) * _VALUE_BYTES for _, training in members)


def training_bytes(resolution: int, value_bytes: int, images: float, members: Sequence[Member]) -> int:
    """The bytes on the device: the base model, what so many images that are computed at once need, and the adapters.

    Args:
        resolution: pixels a side.
        value_bytes: of a value in the UNet's dtype.
        images: of all members; a part of one where activations are computed again.
        members: the settings of the pack's adapters.
    """
    loras = [lora for lora, _ in members]
    trains_text = any(lora.text_encoder for lora in loras)
    base = (UNET_PARAMETERS + (TEXT_ENCODER_PARAMETERS if trains_text else 0)) * value_bytes
    activations = images * kept_bytes(resolution, value_bytes, loras) * (1 + _WORKING_FRACTION)
    return round(base + activations + adapters_bytes(members))


def training_flops(resolution: int, lora: LoraConfig) -> float:
    """Floating-point operations of training an adapter on one image, forward and backward.

    Of the base's layers only inputs have gradients; of an adapter's the weights, too.
    """
    latents = (resolution // 8) ** 2
    more = _adapter_flops(lora, latents) - _adapter_flops(LoraConfig(), latents)
    if lora.text_encoder is not None:
        more += 2 * sum(2 * layer.weights * layer.tokens for layer in text_encoder_layers())
    return image_flops(resolution) + more


def _adapter_flops(lora: LoraConfig, latents: int) -> float:
    """Those of an adapter's own products on one image, of which each is computed three times."""
    total = 0.0
    for layer, rank in adapted(lora):
        total += 3 * 2 * layer.parameters(rank) * layer.gives(latents)
        total += 2 * rank * layer.weights if lora.kind == "dora" else 0  # its update as a matrix, for the norms
    return total


def image_flops(resolution: int) -> float:
    """Floating-point operations of one image of so many pixels a side, forward and backward.

    The part of them that attention takes grows with the resolution.
    """
    flops, side = (_FLOPS_512, 512) if resolution >= 512 else (_FLOPS_384, 384)
    return flops * (resolution / side) ** 2


def forward_flops(resolution: int) -> float:
    """Floating-point operations of one forward pass of one image."""
    return image_flops(resolution) / 2


def picture_flops(width: int, height: int, passes: int) -> float:
    """Floating-point operations of generating one picture with so many forward passes of the UNet."""
    pixels = width * height
    return passes * forward_flops(round(pixels**0.5)) + _DECODER_FLOPS_512 * pixels / 512**2
