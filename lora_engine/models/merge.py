"""Adds LoRAs to the weights of a base model, before these are cast to what the model computes in.

Shape legend: O and I features, or channels, out and in, h and w the size of a convolution's kernel, R rank.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lora_engine.adapters.layer_names import OF_TEXT_MODEL, is_of_text_encoder
from lora_engine.adapters.lora_file import plain_shape, read_once
from lora_engine.adapters.updates import difference
from lora_engine.errors import ModelError
from lora_engine.models.files import LocalModel, Merge
from lora_engine.models.loading import empty_part

_TEXT_MODEL = "text_model."  # a level in the names of its layers, which the library has in some versions
Shape = Sequence[int]


class Merging:
    """Adds what the files hold to a base model's weights, in fp32 at least, in the order of the files.

    Raises:
        ModelError: a file is no LoRA.
    """

    def __init__(self, merges: Sequence[Merge]) -> None:
        # A strength of 0 leaves each weight as it is, to the bit.
        self._files = [(read_once(merge.path), merge.strength) for merge in merges if merge.strength]

    def changes_text_encoder(self) -> bool:
        """Whether a file has weights for a layer of the text encoder."""
        return any(is_of_text_encoder(name) for file, _ in self._files for name in file.layers)

    def merged(self, parameter: str, weight: Tensor) -> Tensor:
        """A weight with what the files add to it; itself where they add nothing.

        Args:
            parameter: its name in the UNet, or behind `text_encoder.` as `named_in_files` gives it.
        """
        layer, _, kind = parameter.rpartition(".")
        added = [(file.layers[layer], strength) for file, strength in self._files if layer in file.layers]
        if kind != "weight" or not added:
            return weight
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
        for update, strength in added:
            weight = weight + strength * difference(weight, update)
        return weight


def merge_text_encoder(text_encoder: nn.Module, merging: Merging) -> None:
    """Put what the files add into the weights of a text encoder in place."""
    with torch.no_grad():
        for name, weight in text_encoder.named_parameters():
            weight.copy_(merging.merged(named_in_files(name), weight))


def named_in_files(name: str) -> str:
    """The name by which files know a parameter of a text encoder."""
    return f"{OF_TEXT_MODEL}{name.removeprefix(_TEXT_MODEL)}"


def text_encoder_facts(model: LocalModel) -> Iterator[str]:
    """What is merged into a base model's text encoder, one text for each file: embeddings differ where these do."""
    for merge in model.merge:
        if Merging([merge]).changes_text_encoder():
            yield f"merged {LocalModel(merge.path).sha256} {merge.strength!r}"


def layer_shapes(model: LocalModel) -> dict[str, Shape]:
    """The shapes of the weights of a base model's layers, by the layers' names in files; its configurations are read.

    Raises:
        ModelError: a part's configuration cannot be read.
    """
    unet, text_encoder = (empty_part(model.path / part, part) for part in ("unet", "text_encoder"))
    names = {name: weight.shape for name, weight in unet.state_dict().items()}
    names |= {named_in_files(name): weight.shape for name, weight in text_encoder.state_dict().items()}
    return {name.removesuffix(".weight"): tuple(shape) for name, shape in names.items() if name.endswith(".weight")}


def require_fitting(path: Path, shapes: Mapping[str, Shape], what: str) -> None:
    """Refuse a LoRA's file that has weights for what the base model lacks.

    Args:
        shapes: of the base model's layers, see `layer_shapes`.
        what: the manifest's key that names the file, for messages.

    Raises:
        ModelError: it has, or is no LoRA.
    """
    for name, layer in read_once(path).layers.items():
        shape = shapes.get(name)
        remedy = "Name a LoRA that was made for this base model, or one like it."
        if shape is None or len(shape) < 2:
            raise ModelError(
                f"{what}: {path.name} has weights for {name[:100]}, a layer that the base model lacks.", remedy
            )
        if plain_shape(shape) != layer.weight_shape:
            found, own = _times(layer.weight_shape), _times(plain_shape(shape))
            text = f"{what}: {path.name} is for a {name[:100]} of {found}; the base model's is {own}."
            raise ModelError(text, remedy)


def _times(shape: Shape) -> str:
    return "x".join(map(str, shape))
