"""What of a configuration says which adapter is trained: of which kind, where it is, and of what size."""

from typing import Any

from job.convert.arguments import Arguments, plain, read_arguments, say_not_taken
from job.convert.network import IN_FILE, Network, network_of
from job.convert.settings import Reading, says_no, show
from job.convert.text_encoder import text_encoder
from lora_engine.config.adapter import MOST_RANK

_PLUS_RATIOS = ("loraplus_unet_lr_ratio", "loraplus_lr_ratio")  # the first that is written counts


def lora(reading: Reading, training: dict[str, Any]) -> dict[str, Any]:
    """The manifest's `lora`.

    Args:
        training: the manifest's.
    """
    if not reading.program.is_kohya:
        return _of_diffusers(reading, training)
    arguments = read_arguments(reading, "network_args", "lora")
    start = _start(reading)
    network = network_of(reading, arguments, starts_from_file=bool(start))
    made = (start or _size(reading, network)) | network.layers | _of_network(reading, arguments, network, training)
    if network.trains_text_encoder:
        made |= text_encoder(reading, training)
    else:
        for name in ("text_encoder_lr", "stop_text_encoder_training", "stop_text_encoder_training_pct"):
            reading.lose(name, "LyCORIS' preset trains the UNet alone")
    if start and "text_encoder" not in made:
        made["text_encoder"] = None  # Unsaid it would be as in the file.
    return made


def _of_diffusers(reading: Reading, training: dict[str, Any]) -> dict[str, Any]:
    rank = reading.whole("rank", "lora.rank")
    alpha = reading.number("lora_alpha", "lora.alpha") or rank
    made: dict[str, Any] = {"rank": rank, "alpha": alpha, **_dropout(reading, "lora_dropout")}
    if reading.flag("use_dora", "lora.kind"):
        made["kind"] = "dora"
    return made | text_encoder(reading, training)


def _size(reading: Reading, network: Network) -> dict[str, Any]:
    rank, alpha = reading.whole("network_dim", "lora.rank"), reading.number("network_alpha", "lora.alpha")
    if rank is not None and rank > MOST_RANK and network.is_of_another_kind:
        for name in ("network_dim", "network_alpha"):
            reading.lose(name, "it is another kind of network's, for which it may mean full rank")
        return {}
    return {"rank": rank, "alpha": alpha}


def _start(reading: Reading) -> dict[str, Any]:
    """The file that the adapter starts from, which says its rank, alpha and layers; nothing where there is none."""
    path = reading.text("network_weights", "lora.init_from")
    if path is None or not path.endswith(".safetensors"):
        reading.lose("network_weights", "it is no .safetensors file; save it as one")
        reading.lose("dim_from_weights", "it is of network_weights, of which there are none")
        return {}
    for name in ("network_dim", "network_alpha"):
        reading.lose(name, IN_FILE)
    reading.flag("dim_from_weights", "lora.init_from")
    return {"init_from": path}


def _of_network(reading: Reading, arguments: Arguments, network: Network, training: dict[str, Any]) -> dict[str, Any]:
    """What `network_args` and the GUI's own settings say, beside the network's kind, layers and size."""
    known = {"rs_lora", *_PLUS_RATIOS, *network.arguments}
    made: dict[str, Any] = _dropout(reading, "network_dropout")
    if network.is_of_lycoris and "dropout" in arguments:
        known.add("dropout")
        made = {"dropout": plain(arguments["dropout"])}
    if not says_no(plain(arguments.get("rs_lora", "False"))):
        made["rank_stabilized"] = True
    ratio = _plus_ratio(reading, arguments)
    if ratio and training["optimizer"]["name"] == "prodigy":
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
