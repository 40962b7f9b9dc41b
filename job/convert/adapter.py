"""What of a configuration says which adapter is trained: where it is, and of what size."""

from typing import Any

from job.convert.arguments import Arguments, plain, read_arguments, say_not_taken
from job.convert.settings import Reading, says_no, show

_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
_FEED_FORWARD = ["ff.net.0.proj", "ff.net.2"]
_PROJECTIONS = ["proj_in", "proj_out"]  # linear in SD 2.x
_LARGEST_RANK = 512
_PLUS_RATIOS = ("loraplus_unet_lr_ratio", "loraplus_lr_ratio")  # the first that is written counts


def lora(reading: Reading, optimizer_name: str) -> dict[str, Any]:
    """The manifest's `lora`."""
    if not reading.program.is_kohya:
        rank = reading.whole("rank", "lora.rank")
        return {"rank": rank, "alpha": rank, "target_modules": _ATTENTION, **_dropout(reading, "lora_dropout")}
    if reading.has("v2"):
        targets = [*_ATTENTION, *_FEED_FORWARD, *_PROJECTIONS]
    else:
        targets = [*_ATTENTION, *_FEED_FORWARD]
        reading.remarks.append(
            "sd-scripts also train the 1x1 convolutions proj_in and proj_out, 32 of an SD 1.x model's 192 layers."
        )
    if start := _start(reading):
        return start | _of_network(reading, optimizer_name)
    others = {"target_modules": targets, **_of_network(reading, optimizer_name)}
    rank, alpha = reading.whole("network_dim", "lora.rank"), reading.number("network_alpha", "lora.alpha")
    if rank is not None and rank > _LARGEST_RANK and _is_of_another_kind(reading):
        for name in ("network_dim", "network_alpha"):
            reading.lose(name, "it is another kind of network's, for which it may mean full rank")
        return others
    return {"rank": rank, "alpha": alpha, **others}


def _start(reading: Reading) -> dict[str, Any]:
    """The file that the adapter starts from, which says its rank, alpha and layers; nothing where there is none."""
    path = reading.text("network_weights", "lora.init_from")
    if path is None:
        return {}
    if not path.endswith(".safetensors"):
        reading.lose("network_weights", "it is no .safetensors file; save it as one")
        return {}
    for name in ("network_dim", "network_alpha"):
        reading.lose(name, "the file that the adapter starts from says it")
    reading.flag("dim_from_weights", "lora.init_from")
    return {"init_from": path}


def _of_network(reading: Reading, optimizer_name: str) -> dict[str, Any]:
    """What `network_args` and the GUI's own settings say, beside the network's size."""
    arguments = read_arguments(reading, "network_args", "lora")
    known = {"rs_lora", *_PLUS_RATIOS}
    dropout = _dropout(reading, "network_dropout")
    if _is_of_another_kind(reading) and "dropout" in arguments:
        known.add("dropout")
        dropout = {"dropout": plain(arguments["dropout"])}
    made: dict[str, Any] = dropout
    if not says_no(plain(arguments.get("rs_lora", "False"))):
        made["rank_stabilized"] = True
    ratio = _plus_ratio(reading, arguments)
    if ratio and optimizer_name == "prodigy":
        reading.remarks.append(f"Not taken: a loraplus_lr_ratio of {show(ratio)}: prodigy finds one learning rate.")
    elif ratio:
        made["plus_ratio"] = ratio
    say_not_taken(reading, "network_args", {name: arguments[name] for name in arguments if name not in known})
    return made


def _plus_ratio(reading: Reading, arguments: Arguments) -> Any:
    """The ratio of the UNet's learning rates, in `network_args` or, in the GUI, a setting of its own."""
    for name in _PLUS_RATIOS:
        ratio = plain(arguments.get(name, "0")) or reading.number(name, "lora.plus_ratio")
        if ratio:
            if name in arguments:
                reading.places["lora.plus_ratio"] = reading.configuration.settings["network_args"]
            return ratio
    return None


def _dropout(reading: Reading, name: str) -> dict[str, Any]:
    dropout = reading.number(name, "lora.dropout")
    if dropout and not reading.program.is_kohya:
        reading.remarks.append(
            "lora_dropout drops what goes into an adapter's layer there, and its hidden values here."
        )
    return {"dropout": dropout} if dropout else {}


def _is_of_another_kind(reading: Reading) -> bool:
    """Whether the network is none of LoRA's two matrices a layer."""
    kinds = {"network_module": "networks.lora", "LoRA_type": "Standard"}
    return any((found := reading.setting(name)) is not None and found.value != plain for name, plain in kinds.items())
