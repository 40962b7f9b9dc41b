"""How much memory and arithmetic training adapters of Stable Diffusion 1.5 takes, known before anything is loaded.

Torch-free. `python -m benchmarks.memory` and `python -m benchmarks.ablation` measure what this says; see
docs/performance.md.
"""

from lora_engine.config.training import TrainingConfig

UNET_PARAMETERS = 859_520_964
PARAMETERS_PER_RANK = 199_296  # of an adapter of all attention: 1,594,368 at rank 8
TOLERANCE = 0.15  # relative error of what is said here: of an image's bytes before the first step, of the peak after it

# What one image keeps for the backward pass in fp32.
_KEPT_PIXEL_BYTES_384 = 853 * 2**20  # at 384x384, in proportion to the pixels
_KEPT_TEXT_BYTES = 8 * 2**20  # the keys and values of its caption's 77 tokens, for the most part
_WORKING_FRACTION = 0.15  # of both, besides, while the backward pass is computed
LIBRARIES_BYTES = round(0.6 * 2**30)  # of the process, torch and the model libraries imported
_VALUE_BYTES = 4  # of an adapter's weight, its gradient, or a vector of its optimizer's state
# How many vectors each optimizer keeps of an adapter's weights.
_VECTORS = {"adamw": 2, "lion": 1, "prodigy": 4, "schedule_free_adamw": 2, "sgd": 1}
_DECODER_FLOPS_512 = 2.5e12  # of the VAE's decoder, for one picture of 512x512, in proportion to the pixels
_FLOPS_384, _FLOPS_512 = 877e9, 1718e9  # of one image at 384x384 and 512x512, forward and input gradients


def kept_bytes(resolution: int, value_bytes: int) -> int:
    """The bytes that one image of one adapter keeps for the backward pass.

    Args:
        resolution: pixels a side.
        value_bytes: of a value in the UNet's dtype.
    """
    return round((_KEPT_PIXEL_BYTES_384 * (resolution / 384) ** 2 + _KEPT_TEXT_BYTES) * value_bytes / 4)


def state_bytes(rank: int, training: TrainingConfig) -> int:
    """The bytes of what continuing an adapter needs: its weights, its optimizer's vectors and their average."""
    vectors = 1 + _VECTORS[training.optimizer.name] + (training.ema is not None)
    return rank * PARAMETERS_PER_RANK * vectors * _VALUE_BYTES


def file_bytes(rank: int) -> int:
    """The bytes of the two files, in fp32, that programs load an adapter from."""
    return 2 * rank * PARAMETERS_PER_RANK * _VALUE_BYTES


def adapter_bytes(rank: int, training: TrainingConfig) -> int:
    """The bytes on the device of an adapter: its state and its gradient.

    Args:
        rank: the largest of its pack, to which it is filled up.
    """
    return state_bytes(rank, training) + rank * PARAMETERS_PER_RANK * _VALUE_BYTES


def training_bytes(resolution: int, value_bytes: int, images: float, adapters: int) -> int:
    """The bytes on the device: the UNet, what so many images that are computed at once need, and the adapters.

    Args:
        resolution: pixels a side.
        value_bytes: of a value in the UNet's dtype.
        images: of all members; a part of one where activations are computed again.
        adapters: the bytes of all of them, see `adapter_bytes`.
    """
    unet = UNET_PARAMETERS * value_bytes
    activations = images * kept_bytes(resolution, value_bytes) * (1 + _WORKING_FRACTION)
    return round(unet + activations + adapters)


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
