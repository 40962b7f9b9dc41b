"""The start of an adapter from a file: which settings the file decides, and the weights that it gives.

An adapter's update is up @ down * alpha / rank, here as in the file, so weights are taken as they are.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, get_args

from torch import Tensor

from lora_engine.adapters.layer_names import end_of, is_of_text_encoder
from lora_engine.adapters.lora_file import LoraFile, LoraLayer
from lora_engine.config.adapter import MOST_RANK, LoraConfig, Preset
from lora_engine.errors import ModelError

_SAME = 1e-3  # relative: an alpha in half precision is rounded by less
_DIGITS = 6  # of an alpha that is computed from a file's, which has seven

Size = tuple[int, float]  # rank and alpha
Targets = Callable[[LoraConfig], Collection[str]]  # the names of the UNet's layers that adapters of a setting go to


def settings_in(file: LoraFile, given: LoraConfig, targets: Targets, what: str) -> dict[str, Any]:
    """The settings of an adapter that starts from the file: its kind, its layers, and their ranks and alphas.

    Args:
        given: the settings that the manifest says; of these, what it does not say is not looked at.
        what: names the file, for messages.

    Returns:
        Keys of `LoraConfig` to their values.

    Raises:
        ModelError: there is no such setting, as where layers of the text encoder have several ranks.
    """
    kind, unet, text_encoder = _kind(file, what), _layers(file), _text_layers(file)
    if not unet:
        raise ModelError(
            f"{what} has no weights for the UNet.", "An adapter of the text encoder alone cannot be trained here."
        )
    sizes = {name: _size(layer, given, what) for name, layer in file.layers.items()}
    spatial = {name for name in unet if unet[name].is_spatial}
    own = Counter(sizes[name] for name in unet if name not in spatial or len(spatial) == len(unet))
    usual = own.most_common(1)[0][0]
    of_spatial = Counter(sizes[name] for name in spatial)
    usual_spatial = of_spatial.most_common(1)[0][0] if spatial else usual
    expected = {name: usual_spatial if name in spatial else usual for name in unet}
    return {
        "kind": kind,
        "rank": usual[0],
        "alpha": usual[1],
        "conv_rank": _unless(usual_spatial[0], usual[0]),
        "conv_alpha": _unless(usual_spatial[1], usual[1]),
        "patterns": {
            begin: {"rank": rank, "alpha": alpha} for begin, (rank, alpha) in _patterns(sizes, expected, unet, ())
        },
        "target_modules": _target_modules(set(unet), given, targets),
        "text_encoder": _of_text_encoder({sizes[name] for name in text_encoder}, usual, what),
    }


def require_alike(file: LoraFile, config: LoraConfig, targets: Targets, what: str) -> None:
    """Refuse settings that are not the file's.

    Takes `targets` and `what` as `settings_in` does.

    Raises:
        ModelError: with what the manifest says, and what the file does.
    """
    problem = next(_differences(file, config, targets, what), None)
    if problem is not None:
        key, said, found = problem
        raise ModelError(
            f"lora.{key} is {said}, but {found} in {what}, from which the adapter is to start.",
            f"Leave lora.{key} out, of the variant and of the manifest's own lora, and it is as in the file; or start "
            "from another.",
        )


def _differences(file: LoraFile, config: LoraConfig, targets: Targets, what: str) -> Iterator[tuple[str, str, str]]:
    """The keys in which settings are not the file's, with what they say and what the file does."""
    unet, text_encoder = _layers(file), _text_layers(file)
    if (kind := _kind(file, what)) != config.kind:
        yield "kind", config.kind, f"it is {kind}"
    wanted = set(targets(config))
    said = config.target_modules if isinstance(config.target_modules, str) else ", ".join(config.target_modules[:8])
    if lacking := sorted(wanted - unet.keys()):
        yield "target_modules", said, f"there are no weights for {lacking[0]}"
    if more := sorted(unet.keys() - wanted):
        yield "target_modules", said, f"there are weights for {more[0]}, too,"
    if (config.text_encoder is None) != (not text_encoder):
        say = "null" if config.text_encoder is None else "given"
        yield "text_encoder", say, f"there are {len(text_encoder) or 'no'} layers of the text encoder"
    if not any(layer.is_spatial for layer in unet.values()):
        for key, value in (("conv_rank", config.conv_rank), ("conv_alpha", config.conv_alpha)):
            if value is not None:
                yield key, f"{value:g}", "there are no convolutions of 3x3"
    for name, layer in file.layers.items():
        is_text, is_conv = is_of_text_encoder(name), layer.is_spatial
        rank, alpha = config.size_in_text_encoder if is_text else config.size_of(name, is_spatial=is_conv)
        found_rank, found_alpha = _size(layer, config, what)
        if rank != found_rank:
            yield _key_of("rank", config, name, is_conv), str(rank), f"the rank of {name} is {found_rank}"
        if not math.isclose(alpha, found_alpha, rel_tol=_SAME):
            yield _key_of("alpha", config, name, is_conv), f"{alpha:g}", f"the alpha of {name} is {found_alpha:g}"


def _key_of(what: str, config: LoraConfig, name: str, is_conv: bool) -> str:
    """The key that says the rank or alpha of a layer."""
    if is_of_text_encoder(name):
        return f"text_encoder.{what}"
    begin = config.pattern_of(name)
    if begin is not None and getattr(config.patterns[begin], what) is not None:
        return f"patterns.{begin}.{what}"
    return f"conv_{what}" if is_conv else what


def weights_in(file: LoraFile, adapter: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file's weights for an adapter of its settings.

    Layers of the text encoder that the file lacks, as some programs train but a few kinds of them, keep what they have:
    as long as it is not trained, that adds nothing.

    Args:
        adapter: as it was made, see `lora.parameters`.

    Raises:
        ValueError: a weight has another size.
    """
    result = {}
    for key, tensor in adapter.items():
        name, _, part = key.removesuffix(".weight").rpartition(".")
        layer = file.layers.get(name)
        if layer is None and is_of_text_encoder(name):
            result[key] = tensor.detach().clone()
            continue
        found = None if layer is None else _part(layer, part)
        if found is None or found.numel() != tensor.numel():
            raise ValueError(f"the file has no {key} of {tuple(tensor.shape)}")
        result[key] = found.to(tensor.dtype).reshape(tensor.shape)  # a convolution of one pixel may be stored as linear
    return result


def _part(layer: LoraLayer, part: str) -> Tensor | None:
    return {"lora_A": layer.down, "lora_B": layer.up, "lora_magnitude_vector": layer.magnitude}[part]


def _layers(file: LoraFile) -> dict[str, LoraLayer]:
    """The UNet's."""
    return {name: layer for name, layer in file.layers.items() if not is_of_text_encoder(name)}


def _text_layers(file: LoraFile) -> list[str]:
    return [name for name in file.layers if is_of_text_encoder(name)]


def _kind(file: LoraFile, what: str) -> str:
    has_magnitude = {layer.magnitude is not None for layer in file.layers.values()}
    if len(has_magnitude) > 1:
        raise ModelError(
            f"{what} is DoRA in some layers and plain LoRA in others.",
            "An adapter is trained as the one or the other: start from another file, or merge it: base_model.merge.",
        )
    return "dora" if True in has_magnitude else "lora"


def _size(layer: LoraLayer, given: LoraConfig, what: str) -> Size:
    """The rank of a layer, and the alpha by which settings say what its file does."""
    alpha = layer.alpha / math.sqrt(layer.rank) if given.rank_stabilized else layer.alpha
    if layer.rank > MOST_RANK or not alpha > 0:
        said = f"a rank of {layer.rank}" if layer.rank > MOST_RANK else f"an alpha of {alpha:g}"
        raise ModelError(
            f"{what} has a layer with {said}.", f"Ranks up to {MOST_RANK}, and alphas above 0, can be trained."
        )
    return layer.rank, float(f"{alpha:.{_DIGITS}g}")


def _unless(value: Any, usual: Any) -> Any:
    """The value; None where it is the usual one, which None stands for."""
    return None if value == usual else value


def _patterns(
    sizes: Mapping[str, Size], expected: Mapping[str, Size], names: Collection[str], begin: tuple[str, ...]
) -> Iterator[tuple[str, Size]]:
    """The shortest beginnings of names whose layers are all of one size, which is not what is expected of them all.

    Args:
        names: of the layers that begin so.
    """
    found = {sizes[name] for name in names}
    if all(sizes[name] == expected[name] for name in names):
        return
    if begin and len(found) == 1:
        yield ".".join(begin), found.pop()
        return
    below: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        below.setdefault(tuple(name.split(".")[: len(begin) + 1]), []).append(name)
    for longer, inside in below.items():
        yield from _patterns(sizes, expected, inside, longer)


def _target_modules(names: set[str], given: LoraConfig, targets: Targets) -> Any:
    """The preset of these layers, or else the ends of their names, if no others have these, or else their names."""
    if "target_modules" in given.model_fields_set:
        return given.target_modules
    ends = [sorted({end_of(name, parts) for name in names}) for parts in (1, 2)]
    for choice in (*get_args(Preset), *ends):
        try:
            found = targets(LoraConfig.model_validate({"target_modules": choice}, strict=False))
        except ModelError:  # The UNet lacks a layer of that name.
            continue
        if set(found) == names:
            return choice
    return sorted(names)


def _of_text_encoder(sizes: set[Size], usual: Size, what: str) -> dict[str, Any] | None:
    if len(sizes) > 1:
        ranks = ", ".join(f"rank {rank} with alpha {alpha:g}" for rank, alpha in sorted(sizes)[:4])
        raise ModelError(
            f"{what} has layers of the text encoder of several sizes: {ranks}.",
            "They are trained with one rank and alpha: start from another file, or merge it: base_model.merge.",
        )
    return None if not sizes else {key: _unless(*of) for key, *of in zip(("rank", "alpha"), *sizes, usual, strict=True)}
