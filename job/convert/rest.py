"""What of a configuration says which model is trained on, and when what is written."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from job.convert.folders import Folder
from job.convert.programs import TEXT_TO_IMAGE
from job.convert.settings import Reading, as_number
from job.convert.texts import decoded, read_beside
from job.convert.training import images_of_epoch
from job.errors import JobError
from job.manifest.prompt_file import read_prompts
from lora_engine.text import shortened

_SD_15 = "hf://stable-diffusion-v1-5/stable-diffusion-v1-5"
_GONE = "runwayml/stable-diffusion-v1-5"  # a hub's name of the same model, which is there no more
_SAMPLERS = {
    "dpmsolver++": "dpm++_2m", "k_euler": "euler", "k_euler_a": "euler_a", "k_lms": "lms",
    **{name: name for name in ("ddim", "pndm", "lms", "euler", "euler_a", "heun")},
}  # fmt: skip
_SIDE_OF_SAMPLES = 512
_WHEN = ("sample_every_n_steps", "sample_every_n_epochs", "sample_at_first", "validation_epochs")
_MOST_SEEDS = 64
_FEWEST_CHECKPOINTS = 2
_LONGEST_NAME = 63


def name(reading: Reading, stem: str) -> str:
    """The run's name.

    Args:
        stem: of the configuration's file, for one without a name.
    """
    for text in (reading.text("output_name", "name"), stem):
        plain = re.sub(r"[^a-z0-9]+", "-", (text or "").lower()).strip("-")[:_LONGEST_NAME].strip("-")
        if plain:
            return plain
    return "converted"


def base_model(reading: Reading) -> dict[str, Any]:
    """The manifest's `base_model`: a path, or a hub's name of a model, and how it is used."""
    key = "base_model.source"
    text = reading.text("pretrained_model_name_or_path", key)
    revision = reading.text("revision", "base_model.revision")
    unusable = _why_unusable(reading, text)
    if text is None or unusable:
        reading.lose("pretrained_model_name_or_path", unusable)
        for name in ("revision", "vae", "v_parameterization", "prediction_type", "zero_terminal_snr", "clip_skip"):
            reading.lose(name, "it is another model's")
        reading.miss(key, f"your model, an SD 1.x or 2.x one; {_SD_15} stands there")
        return {"source": _SD_15}
    if text.endswith(".safetensors") and reading.has("v2"):
        reading.miss("base_model.components", "where the configuration and tokenizer of SD 2.x are, for a single file")
    source = _source(text)
    if not source.startswith("hf://") or text == _GONE:
        reading.lose("revision", "a local model has none" if text != _GONE else "it is another model's")
        revision = None
    if text == _GONE:
        reading.remarks.append(f"{_GONE} is no longer on its hub; {_SD_15} is the same model.")
        source = _SD_15
    return {"source": source} | ({} if revision is None else {"revision": revision}) | _use(reading)


def _source(text: str) -> str:
    """A path as it is, and a hub's name with its scheme."""
    is_path = not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text) or text.endswith(".safetensors") or Path(text).exists()
    return text if is_path else f"hf://{text}"


def _use(reading: Reading) -> dict[str, Any]:
    """How the base model is used, where that is not as its files say."""
    made: dict[str, Any] = {}
    vae = reading.text("vae", "base_model.vae")
    if vae is not None and (unusable := _why_unreadable(vae)):
        reading.lose("vae", unusable)
    elif vae is not None:
        made["vae"] = _source(vae)
    if merge := _merge(reading):
        made["merge"] = merge
    predicted = reading.text("prediction_type", "base_model.prediction_type")
    if reading.flag("v_parameterization", "base_model.prediction_type"):
        predicted = "v_prediction"
    if predicted in ("epsilon", "v_prediction"):
        made["prediction_type"] = predicted
    elif predicted is not None:
        reading.lose("prediction_type", "only epsilon and v_prediction can be trained")
    if reading.flag("zero_terminal_snr", "base_model.zero_terminal_snr"):
        if predicted == "v_prediction":
            made["zero_terminal_snr"] = True
        else:
            reading.lose("zero_terminal_snr", "where all is noise, only v can be learnt")
    skip = reading.count("clip_skip", "base_model.clip_skip")
    return made | ({"clip_skip": skip} if skip > 1 else {})


def _why_unusable(reading: Reading, text: str | None) -> str:
    """Why the model cannot be read here; "" where it can."""
    if reading.has("sdxl"):
        return "only SD 1.x and 2.x are trained here"
    return "" if text is None else _why_unreadable(text)


def _merge(reading: Reading) -> list[dict[str, Any]]:
    """The LoRAs that are merged into the base model first. Those without a multiplier have 1."""
    paths = reading.words("base_weights", "base_model.merge")
    strengths = reading.words("base_weights_multiplier", "base_model.merge")
    unread = next((path for path in paths if not path.endswith(".safetensors")), None)
    if unread is not None:
        reading.lose("base_weights", f"{shortened(unread, 80)} is no .safetensors file; save it as one")
        paths = []
    if not paths:
        reading.lose("base_weights_multiplier", "nothing is merged")
    factors = [as_number(text) for text in strengths] + [1.0] * len(paths)
    return [
        {"source": path} | ({} if factor == 1 or factor is None else {"strength": float(factor)})
        for path, factor in zip(paths, factors, strict=False)
    ]


def _why_unreadable(text: str) -> str:
    """Why a place of a model cannot be read; "" where it can."""
    if text.lower().endswith((".ckpt", ".pt", ".bin")):
        return "pickles are not read; convert it to .safetensors"
    if re.match(r"https?://", text):
        return "models are not downloaded from the web; save it and name the file"
    if re.match(r"[A-Za-z]:[\\/]", text):
        return "it is a path of Windows"
    return ""


def evaluation(reading: Reading, folders: Sequence[Folder], training: dict[str, Any]) -> dict[str, Any]:
    """The manifest's `evaluation`: checkpoints and samples come with evaluations."""
    key = "evaluation.every"
    made: dict[str, Any] = {}
    steps = reading.whole("save_every_n_steps", key) or reading.whole("checkpointing_steps", key)
    epochs = reading.whole("save_every_n_epochs", key)
    seen = images_of_epoch(reading, folders)
    if steps:
        made["every"] = steps
        if epochs:
            reading.lose("save_every_n_epochs", "save_every_n_steps says it")
    elif epochs and seen:
        made["every"] = epochs * math.ceil(seen / (training["batch_size"] * training["gradient_accumulation"]))
    elif epochs:
        reading.lose("save_every_n_epochs", f"how many updates {epochs} epochs have cannot be told: no images are here")
    reading.lose("save_n_epoch_ratio", "evaluation.every says it in updates")
    if made.get("every", 0) > training.get("steps", math.inf):
        made["every"] = training["steps"]  # There, too, a checkpoint is written at the end.
    samples = _samples(reading)
    return made | ({"samples": samples} if samples else {})


def _samples(reading: Reading) -> dict[str, Any] | None:
    """The manifest's `evaluation.samples`; None where no prompts are given."""
    key = "evaluation.samples"
    made: dict[str, Any] = {
        "prompts": _prompts(reading, f"{key}.prompts"),
        "steps": reading.program.defaults["sample_steps"],
    }
    if not made["prompts"]:
        for setting in (*_WHEN, "sample_sampler", "num_validation_images"):
            reading.lose(setting, "no prompts are given, and no samples drawn")
        return None
    if reading.program.is_kohya:
        made["size"] = _SIDE_OF_SAMPLES
        written = reading.text("sample_sampler", f"{key}.sampler") or ""
        if written in _SAMPLERS:
            made["sampler"] = _SAMPLERS[written]
        else:
            reading.lose("sample_sampler", "the base model's own is used")
        is_asked = any(map(reading.has, _WHEN))
        made["when"] = "evaluations" if is_asked else "end"
    else:
        made["seeds"] = list(range(min(reading.count("num_validation_images", f"{key}.seeds"), _MOST_SEEDS)))
    for setting in _WHEN:
        reading.lose(setting, "samples are drawn with the base model and with every evaluation")
    return made


def _prompts(reading: Reading, key: str) -> list[Any]:
    """The prompts of samples: those of the file that is named, or, as the GUI saves them, the text itself."""
    prompt = reading.text("validation_prompt", key)
    if prompt is not None:
        return [prompt]
    named = reading.setting("sample_prompts")
    text = reading.text("sample_prompts", key)
    if named is None or text is None:
        return []
    found = read_beside(text, named.origin)
    try:
        if found is not None:
            prompts = read_prompts(decoded(*found).encode(), found[1])
        elif "\n" in text or not re.search(r"\.(txt|toml|json)\s*$", text):
            prompts = read_prompts(text.encode(), f"{named.name}.txt")
        else:
            return _without_prompts(reading, "no such file is here")
    except JobError as error:
        return _without_prompts(reading, " ".join(str(error).split()))
    return [each.model_dump(exclude_none=True, mode="json") for each in prompts]


def _without_prompts(reading: Reading, why: str) -> list[Any]:
    reading.lose("sample_prompts", f"no samples are drawn: {why}")
    return []


def output(reading: Reading) -> dict[str, Any]:
    """The manifest's `output`."""
    destination = reading.text("output_dir", "output.destination")
    if destination is not None and re.match(r"[A-Za-z]:[\\/]", destination):
        reading.lose("output_dir", "it is a path of Windows; results go to runs")
        destination = None
    made: dict[str, Any] = {"destination": destination or "runs"}
    for setting in ("save_last_n_epochs", "checkpoints_total_limit"):
        kept = reading.whole(setting, "output.keep_checkpoints")
        if kept is not None and kept >= _FEWEST_CHECKPOINTS:
            made["keep_checkpoints"] = kept
        elif kept is not None:
            reading.lose(setting, f"{_FEWEST_CHECKPOINTS} checkpoints are kept at least; all are")
    for setting, key in (("metadata_license", "license"), ("metadata_description", "description")):
        if text := reading.text(setting, f"output.{key}"):
            made[key] = text
    return made


def seeds(reading: Reading) -> list[int] | None:
    """The manifest's `seeds`; None where none is set."""
    seed = reading.whole("seed", "seeds[0]")
    if seed is None:
        reading.remarks.append("Without a seed, that of the program is used: 1337.")
        return None
    return [seed]


def say_what_is_lost_silently(reading: Reading) -> None:
    """Remark on what a trainer does without being told to."""
    if reading.program is TEXT_TO_IMAGE:
        reading.remarks.append("The script clips no gradients, whatever max_grad_norm is: its list of them is used up.")
    if not reading.program.is_kohya and not reading.has("center_crop"):
        reading.remarks.append("Without center_crop the script crops at random; the middle of an image is used here.")
