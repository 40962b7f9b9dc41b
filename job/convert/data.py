"""What of a configuration says which images are trained on, and with which captions."""

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from job.convert.folders import Folder, is_of_class
from job.convert.settings import Reading, show
from lora_engine.images.sidecars import BESIDE

SOURCE_TO_FILL_IN = "the-folder-of-your-images"
_OF_WINDOWS = re.compile(r"[A-Za-z]:[\\/]")
_SIDE = 8  # pixels: sides are multiples
_EACH_ITS_OWN = ("image_dir", "dataset_repeats", "class_tokens", "is_reg")


def dataset(reading: Reading, folders: Sequence[Folder]) -> dict[str, Any]:
    """The manifest's `dataset`."""
    key = "dataset.source"
    if reading.configuration.subsets:
        source = _of_subsets(reading, folders)
    else:
        names = ("train_data_dir", "image_dir", "instance_data_dir")
        source = reading.text(next(filter(reading.setting, names), names[0]), key)
    if source is None or _OF_WINDOWS.match(source):
        where = "" if source is None else f", for {show(source)} is a path of Windows"
        reading.miss(key, f"the folder, archive or s3:// place of your images{where}")
        source = SOURCE_TO_FILL_IN
    share = reading.number("validation_split", "dataset.validation_fraction") or None
    if share is None:
        reading.remarks.append(
            "Some images are held out to score adapters, not trained on: dataset.validation_fraction."
        )
    _say_what_differs(reading, folders)
    return {"source": source} | ({} if share is None else {"validation_fraction": share})


def _of_subsets(reading: Reading, folders: Sequence[Folder]) -> str | None:
    """The one folder that a manifest can name."""
    reading.text("image_dir", "dataset.source")
    reading.lose("train_data_dir", "the configuration of a dataset goes before it")
    named = list(dict.fromkeys(folder.path for folder in folders if folder.path))
    if len(named) < 2:
        return named[0] if named else None
    parents = {str(PurePath(path).parent) for path in named}
    of_class = [each.get("image_dir") for each in reading.configuration.subsets if is_of_class(each)]
    beside = {str(PurePath(str(each.value)).parent) for each in of_class if each is not None}
    if len(parents) > 1 or parents & beside:
        rest = ", ".join(map(show, named[1:]))
        reading.remarks.append(f"Not taken: the images of {rest}: a study has one source. Put all into one folder.")
        return named[0]
    parent = parents.pop()
    reading.remarks.append(
        f"dataset.source {show(parent)} holds all folders of images; what else is in it counts, too."
    )
    return parent


def _say_what_differs(reading: Reading, folders: Sequence[Folder]) -> None:
    """Name what is not the same for all folders, and those whose images are not trained on."""
    first = reading.configuration.settings
    if len({folder.repeats for folder in folders}) > 1:
        reading.remarks.append("Folders have different repeats; here every image is seen as often as any other.")
    for at, subset in enumerate(reading.configuration.subsets, 1):
        if is_of_class(subset):
            reading.remarks.append(f"Folder {at} holds pictures of a class (is_reg), on which nothing is trained here.")
            continue
        for name, setting in subset.items():
            if name not in _EACH_ITS_OWN and (name not in first or first[name].value != setting.value):
                reading.remarks.append(
                    f"Not taken: {setting.name} = {show(setting.value)} of folder {at}: all images are treated alike."
                )


def preprocess(reading: Reading) -> dict[str, Any]:
    """The manifest's `preprocess`: images are squares here."""
    key = "preprocess.resolution"
    written = reading.setting("resolution")
    value = written.value if written is not None else reading.program.defaults["resolution"]
    sides = value if isinstance(value, list) else str(value).split(",")
    if written is not None and isinstance(value, list):
        reading.taken.add("resolution")
        reading.places[key] = written
    elif len(sides) > 1:
        reading.text("resolution", key)
    else:
        return {"resolution": _rounded(reading, reading.count("resolution", key))}
    numbers = [number for number in map(_pixels, sides) if number]
    if len(numbers) != len(sides) or len(numbers) not in (1, 2):
        assert written is not None, "the default is one number"
        reading.problems.append(written.problem("one or two whole numbers of pixels"))
        return {}
    if numbers[0] != numbers[-1]:
        reading.remarks.append(
            f"resolution = {show(value)} is not a square's: images are cropped to squares of the smaller side."
        )
    return {"resolution": _rounded(reading, min(numbers))}


def _pixels(side: Any) -> int | None:
    text = str(side).strip()
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text) else None


def _rounded(reading: Reading, side: int) -> int:
    if side % _SIDE:
        reading.remarks.append(f"resolution {side} becomes {side - side % _SIDE}, a multiple of {_SIDE}.")
    return side - side % _SIDE or side


def captions(reading: Reading, folders: Sequence[Folder]) -> dict[str, Any]:
    """The captions of the manifest's one variant."""
    key = "variants[0].captions"
    tokens = _class_tokens(reading, folders, key)
    known = [folder for folder in folders if folder.images is not None]
    has_captions = not known or any(folder.has_captions for folder in known)
    if tokens is not None and (not has_captions or reading.setting("instance_prompt")):
        made: dict[str, Any] = {"strategy": "constant", "text": tokens}
    else:
        made = {"strategy": "existing"}
        if tokens is not None or reading.program.is_kohya:
            made["missing"] = tokens or ""
    _say_which_are_read(reading)
    for name, ours in (("caption_prefix", "trigger"), ("caption_suffix", "style_hints")):
        text = reading.text(name, f"{key}.{ours}")
        if text:
            made |= _joined(made, ours, text)
            reading.remarks.append(f"{name} is parted from captions by a comma, and never cut.")
    dropout = reading.number("caption_dropout_rate", f"{key}.caption_dropout")
    return made | ({"caption_dropout": dropout} if dropout else {})


def _joined(made: dict[str, Any], key: str, text: str) -> dict[str, Any]:
    """The key with its text; a constant caption has no style hints, and is followed by them itself."""
    if key == "style_hints" and made["strategy"] == "constant":
        return {"text": f"{made['text']}, {text}"}
    return {key: text}


def _class_tokens(reading: Reading, folders: Sequence[Folder], key: str) -> str | None:
    """The one caption that stands for all images, or for those without their own."""
    written = reading.text("instance_prompt", f"{key}.text") or reading.text("class_tokens", f"{key}.text")
    tokens = list(dict.fromkeys(folder.class_tokens for folder in folders if folder.class_tokens))
    if len(tokens) > 1:
        others = ", ".join(map(show, tokens[1:]))
        reading.remarks.append(f"All images without captions get {show(tokens[0])}; not {others}, as of other folders.")
    return tokens[0] if tokens else written


def _say_which_are_read(reading: Reading) -> None:
    """A remark on captions with an extension that is not read."""
    extension = reading.text("caption_extension", "variants[0].captions.strategy")
    if reading.program.is_kohya and f".{str(extension).lstrip('.')}" not in BESIDE:
        reading.lose(
            "caption_extension",
            f"captions are read from files with {', '.join(BESIDE)}: rename those beside the images",
        )
