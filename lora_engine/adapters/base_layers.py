"""The layers of Stable Diffusion 1.5 that adapters can go to, known before anything is loaded. Torch-free.

Those of 2.x have the same names. What the layers of a model at hand are, `lora_engine.adapters.targets` says.
"""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from lora_engine.adapters.layer_names import OF_TEXT_MODEL, ends_in, unused_pattern
from lora_engine.config.adapter import LISTED, LoraConfig

TEXT_TOKENS = 77
_WIDTHS = (320, 640, 1280, 1280)  # of the blocks on the way down
_DEEPEST = len(_WIDTHS) - 1  # which has no attention
_TIME_WIDTH, _TEXT_WIDTH = 1280, 768
_TEXT_LAYERS, _TEXT_MLP = 12, 3072
_ENDS = (
    *("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2", "proj_in", "proj_out"),
    *("conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv"),
)


class BaseLayer(NamedTuple):
    """A linear layer, or a convolution, as the base model has it."""

    name: str
    inputs: int
    outputs: int
    pixels: float = 0  # that it sees, of each of the latents'
    tokens: int = 0  # that it sees besides, whatever the resolution
    kernel: int = 1  # its side
    stride: int = 1
    is_convolution: bool = False

    def sees(self, latents: int) -> float:
        """How many pixels or tokens of an image go in.

        Args:
            latents: pixels of the image's latents.
        """
        return self.pixels * latents + self.tokens

    def gives(self, latents: int) -> float:
        """How many come out."""
        return self.sees(latents) / self.stride**2

    @property
    def is_spatial(self) -> bool:
        """Whether it is a convolution of more than one pixel."""
        return self.kernel > 1

    @property
    def weights(self) -> int:
        """How many weights it has."""
        return self.inputs * self.kernel**2 * self.outputs

    def parameters(self, rank: int, *, is_dora: bool = False) -> int:
        """How many weights an adapter of that rank has here."""
        return rank * (self.inputs * self.kernel**2 + self.outputs) + (self.outputs if is_dora else 0)


@cache
def unet_layers() -> tuple[BaseLayer, ...]:
    """All layers of the UNet that files in kohya's format can carry weights for."""
    return tuple(_layers())


def text_encoder_layers() -> Iterator[BaseLayer]:
    """The layers of the text encoder that get adapters where it is trained."""
    for number in range(_TEXT_LAYERS):
        within = f"{OF_TEXT_MODEL}encoder.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield BaseLayer(f"{within}.self_attn.{name}", _TEXT_WIDTH, _TEXT_WIDTH, tokens=TEXT_TOKENS)
        yield BaseLayer(f"{within}.mlp.fc1", _TEXT_WIDTH, _TEXT_MLP, tokens=TEXT_TOKENS)
        yield BaseLayer(f"{within}.mlp.fc2", _TEXT_MLP, _TEXT_WIDTH, tokens=TEXT_TOKENS)


def adapted(lora: LoraConfig) -> Iterator[tuple[BaseLayer, int]]:
    """The layers that get adapters, each with its rank, the text encoder's last. What names none is passed by."""
    for layer in unet_layers():
        if _is_meant(layer, lora):
            yield layer, lora.size_of(layer.name, is_spatial=layer.is_spatial)[0]
    if lora.text_encoder is not None:
        yield from ((layer, lora.size_in_text_encoder[0]) for layer in text_encoder_layers())


def misfit(lora: LoraConfig) -> tuple[str, str] | None:
    """The first name of the settings that no layer of a UNet fits, as a sentence, and what to do; None where all do."""
    for wanted in lora.target_modules if isinstance(lora.target_modules, tuple) else ():
        if not any(ends_in(layer.name, [wanted]) for layer in unet_layers()):
            return (
                f"lora.target_modules names {wanted!r}, which is no linear layer and no convolution in a block of the "
                "UNet. Programs that load kohya's format leave all others out.",
                f"Choose among {', '.join(_ENDS)}, or longer ends of names.",
            )
    return unused_pattern(lora.patterns, [layer.name for layer in unet_layers() if _is_meant(layer, lora)])


def _is_meant(layer: BaseLayer, lora: LoraConfig) -> bool:
    if lora.target_modules == "full":
        return True
    if lora.target_modules == "kohya":
        return ".attentions." in layer.name
    names = LISTED.get(lora.target_modules, ()) if isinstance(lora.target_modules, str) else lora.target_modules
    return ends_in(layer.name, names)


def _layers() -> Iterator[BaseLayer]:
    """Block by block, on the way down, in the middle and on the way up."""
    before = _WIDTHS[0]
    for at, width in enumerate(_WIDTHS):
        block = f"down_blocks.{at}"
        for number in range(2):
            yield from _resnet(f"{block}.resnets.{number}", before, width, at)
            if at < _DEEPEST:
                yield from _transformer(f"{block}.attentions.{number}", width, at)
            before = width
        if at < _DEEPEST:
            yield _convolution(f"{block}.downsamplers.0.conv", width, width, at, stride=2)
    for number in range(2):
        yield from _resnet(f"mid_block.resnets.{number}", before, before, _DEEPEST)
    yield from _transformer("mid_block.attentions.0", before, _DEEPEST)
    for at, level in enumerate(reversed(range(len(_WIDTHS)))):
        block, width, beside = f"up_blocks.{at}", _WIDTHS[level], _WIDTHS[max(level - 1, 0)]
        for number in range(3):
            skipped = beside if number == 2 else width
            yield from _resnet(f"{block}.resnets.{number}", before + skipped, width, level)
            if level < _DEEPEST:
                yield from _transformer(f"{block}.attentions.{number}", width, level)
            before = width
        if level:
            yield _convolution(f"{block}.upsamplers.0.conv", width, width, level - 1)


def _resnet(within: str, inputs: int, width: int, level: int) -> Iterator[BaseLayer]:
    yield _convolution(f"{within}.conv1", inputs, width, level)
    yield BaseLayer(f"{within}.time_emb_proj", _TIME_WIDTH, width, tokens=1)
    yield _convolution(f"{within}.conv2", width, width, level)
    if inputs != width:
        yield _convolution(f"{within}.conv_shortcut", inputs, width, level, kernel=1)


def _transformer(within: str, width: int, level: int) -> Iterator[BaseLayer]:
    block, pixels = f"{within}.transformer_blocks.0", 4.0**-level
    yield _convolution(f"{within}.proj_in", width, width, level, kernel=1)
    for attention in ("attn1", "attn2"):
        yield BaseLayer(f"{block}.{attention}.to_q", width, width, pixels)
        for name in ("to_k", "to_v"):
            of_text = BaseLayer(f"{block}.{attention}.{name}", _TEXT_WIDTH, width, tokens=TEXT_TOKENS)
            yield of_text if attention == "attn2" else of_text._replace(inputs=width, pixels=pixels, tokens=0)
        yield BaseLayer(f"{block}.{attention}.to_out.0", width, width, pixels)
    yield BaseLayer(f"{block}.ff.net.0.proj", width, 8 * width, pixels)
    yield BaseLayer(f"{block}.ff.net.2", 4 * width, width, pixels)
    yield _convolution(f"{within}.proj_out", width, width, level, kernel=1)


def _convolution(name: str, inputs: int, outputs: int, level: int, *, kernel: int = 3, stride: int = 1) -> BaseLayer:
    return BaseLayer(name, inputs, outputs, 4.0**-level, kernel=kernel, stride=stride, is_convolution=True)
