"""What of a configuration says of which kind a network of sd-scripts is, and which layers have it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from job.convert.arguments import Arguments, plain, say_not_taken
from job.convert.blocks import patterns
from job.convert.settings import Reading, as_number, says_no
from lora_engine.config.kinds import why_not

_ALL_LINEAR = [  # and the convolutions of one pixel
    *("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
    *("proj_in", "proj_out", "time_emb_proj", "conv_shortcut"),
]
_OF_CONVOLUTIONS = ["conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv"]
# LyCORIS' presets: the layers here, what of theirs is left out, and whether they train the text encoder.
_PRESETS: Mapping[str, tuple[Any, str, bool]] = {
    "full": ("full", "conv_in, conv_out and time_embedding, too", True),
    "full-lin": (_ALL_LINEAR, "time_embedding, too", True),
    "attn-mlp": ("kohya", "", True),
    "attn-only": ("attention", "of the text encoder its attention alone", True),
    "unet-only": ("full", "conv_in, conv_out and time_embedding, too", False),
    "unet-transformer-only": ("kohya", "", False),
    "unet-convblock-only": (_OF_CONVOLUTIONS, "", False),
}
IN_FILE = "the file that the adapter starts from says it"
_SIZES = ("conv_dim", "conv_alpha", "block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas")
_PLAIN = ("", "lora", "locon", "standard", "kohyalocon")
_NEITHER = "an adapter is a LoRA or a DoRA"


@dataclass(frozen=True)
class Network:
    """What a configuration says of its network.

    Attributes:
        layers: keys of the manifest's `lora`.
        is_of_another_kind: whether what `network_dim` says may be no rank.
        arguments: those of `network_args` that were taken, or spoken of.
    """

    layers: dict[str, Any]
    trains_text_encoder: bool
    is_of_lycoris: bool
    is_of_another_kind: bool
    arguments: frozenset[str]


@dataclass
class _Said:
    """What `network_args` say, or else, as the GUI has them, settings of the same names."""

    reading: Reading
    arguments: Arguments
    taken: set[str] = field(default_factory=set)

    def of(self, name: str, key: str, setting: str = "") -> Any:
        """The value, a number where it is one; None where there is none, or it says no."""
        settings = self.reading.configuration.settings
        if name in self.arguments:
            value, found = plain(self.arguments[name]), settings["network_args"]
            self.taken.add(name)
        elif (found := self.reading.setting(setting or name)) is not None:  # type: ignore[assignment]
            value = found.value
            self.reading.taken.add(setting or name)
        else:
            return None
        self.reading.places.setdefault(key, found)
        number = as_number(value)
        return None if says_no(value) else value if number is None else number


def network_of(reading: Reading, arguments: Arguments, *, starts_from_file: bool) -> Network:
    """The kind of the network of a configuration of sd-scripts, and its layers, unless a file has them."""
    said = _Said(reading, arguments)
    is_of_lycoris, algo = _algorithm(reading, said)
    is_plain = "".join(filter(str.isalnum, algo.lower())) in _PLAIN
    trains_text_encoder = True
    if not is_plain:
        _say_not_taken(reading, said, algo)
        layers: dict[str, Any] = {"target_modules": "kohya"}
    elif is_of_lycoris:
        layers, trains_text_encoder = _of_lycoris(reading, said)
    else:
        layers = {} if starts_from_file else _of_kohya(reading, said)
    if starts_from_file:
        layers = {key: value for key, value in layers.items() if key == "kind"}
        _say_in_file(reading, said)
    return Network(layers, trains_text_encoder, is_of_lycoris, is_of_lycoris or not is_plain, frozenset(said.taken))


def _algorithm(reading: Reading, said: _Said) -> tuple[bool, str]:
    """Whether LyCORIS makes the network, and what it or sd-scripts call it; "" for what is a LoRA without a word."""
    module = reading.text("network_module", "lora.kind") or ""
    kind = reading.text("LoRA_type", "lora.kind") or ""
    if module.startswith("lycoris") or kind.startswith("LyCORIS"):
        algorithm = said.of("algo", "lora.kind") or kind.partition("/")[2]
        return True, str(algorithm)
    return False, module.removeprefix("networks.") or kind


def _say_not_taken(reading: Reading, said: _Said, algorithm: str) -> None:
    why = why_not(algorithm) or _NEITHER
    if "algo" in said.taken:
        reading.remarks.append(f"Not taken: network_args algo={algorithm}: {why}. A plain LoRA is trained.")
        return
    for name in ("network_module", "LoRA_type"):
        reading.lose(name, f"{why}. A plain LoRA is trained")


def _say_in_file(reading: Reading, said: _Said) -> None:
    """Remark on sizes and layers that are written, since the file that the adapter starts from has its own."""
    say_not_taken(
        reading, "network_args", {name: said.arguments[name] for name in _SIZES if name in said.arguments}, IN_FILE
    )
    said.taken.update(_SIZES)
    for name in _SIZES:
        reading.lose(name, IN_FILE)


def _of_lycoris(reading: Reading, said: _Said) -> tuple[dict[str, Any], bool]:
    """The layers of a LoRA by LyCORIS, and whether it trains the text encoder."""
    named = str(said.of("preset", "lora.target_modules", "LyCORIS_preset") or "full")
    if named not in _PRESETS:
        reading.remarks.append(f"Not taken: preset {named}: it is none of LyCORIS' own, and its full is used.")
    targets, others, trains_text_encoder = _PRESETS.get(named, _PRESETS["full"])
    if others:
        reading.remarks.append(f"LyCORIS' preset {named} trains {others}.")
    made: dict[str, Any] = {"target_modules": targets}
    has_convolutions = targets in ("full", _OF_CONVOLUTIONS)
    for name, key in (("conv_dim", "conv_rank"), ("conv_alpha", "conv_alpha")):
        if (value := said.of(name, f"lora.{key}")) is not None and has_convolutions:
            made[key] = value
    if said.of("dora_wd", "lora.kind"):
        made["kind"] = "dora"
    return made, trains_text_encoder


def _of_kohya(reading: Reading, said: _Said) -> dict[str, Any]:
    """The layers of a LoRA by sd-scripts, which have 3x3 convolutions only where `conv_dim` says so."""
    rank, alpha = said.of("conv_dim", "lora.conv_rank"), said.of("conv_alpha", "lora.conv_alpha")
    made: dict[str, Any] = {"target_modules": "kohya"}
    if rank:
        made = {"target_modules": "full", "conv_rank": rank, "conv_alpha": alpha or 1}
    dims = {
        name: said.of(name, "lora.patterns")
        for name in ("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas")
    }
    if dims["block_dims"] is not None:
        found, why = patterns(
            {name: str(value) for name, value in dims.items() if value is not None},
            (reading.whole("network_dim", "lora.rank"), reading.number("network_alpha", "lora.alpha")),
            (rank, alpha or 1),
        )
        if why:
            reading.remarks.append(f"Not taken: block_dims: {why}.")
        elif found:
            made["patterns"] = found
    return made
