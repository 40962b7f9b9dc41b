"""Tells from the files of a model how it is asked for a caption, or why it cannot give one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from lora_engine.errors import ModelError
from lora_engine.system.limits import raise_if_limit

# What a model that is asked gets as its question: of all that it says, Stable Diffusion reads 77 tokens.
QUESTION = "Describe this image in one short sentence of at most 20 words."

# continues: its text goes on from the prompt, if there is one. answers: it is asked in the words of its chat template.
Kind = Literal["continues", "answers"]
Read = Callable[[str], bytes | None]  # gives the content of a file of the model; None where it has no such file

# Models that caption without a word, and the class that does so. They are known here, so that those who have one of
# them need not wait for the library's table, with which torch is imported.
WORDLESS = {
    "blip": "BlipForConditionalGeneration",
    "blip-2": "Blip2ForConditionalGeneration",
    "git": "GitForCausalLM",
}


def captioner_kind(read: Read, prompt: str, what: str) -> Kind:
    """How the model is asked for a caption.

    Args:
        prompt: the manifest's; empty for none.
        what: the manifest's key of the model, for messages.

    Raises:
        ModelError: by its files, it is no model that captions images, or none that does so without a prompt.
    """
    config = _mapping(read, "config.json")
    kind, named = config.get("model_type"), config.get("architectures")
    captioning = _captioning_class(kind)
    if captioning is None:
        raise not_a_captioner(what, f"its model type is {kind!r}" if kind else "its config.json names no type of model")
    if isinstance(named, list) and named and captioning not in named:
        raise not_a_captioner(what, f"it holds the weights of {named[0]}, not of {captioning}")
    if kind in WORDLESS:
        return "continues"
    if _has_chat_template(read):
        return "answers"
    if not prompt:
        raise not_a_captioner(
            what, f"a model of the type {kind!r} has to be asked, and there is no chat template among its files"
        )
    return "continues"


def not_a_captioner(what: str, reason: object) -> ModelError:
    """The error of a model that cannot caption for that reason."""
    return ModelError(
        f"{what}: the model cannot caption images: {reason}.",
        "Use BLIP, BLIP-2 or GIT, or an image-text-to-text model of the transformers library with a chat template, "
        "such as LLaVA or Qwen2-VL; or set the prompt that this one was trained with.",
    )


def reader_of(folder: Path) -> Read:
    """Reads the files of a model in a local folder."""

    def read(name: str) -> bytes | None:
        try:
            return (folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise_if_limit(error)
            raise ModelError(
                f"{folder / name} cannot be read: {error.strerror}.", "Let this user read it, or name another model."
            ) from error

    return read


def _captioning_class(kind: object) -> str | None:
    """The class of the transformers library that turns an image into text with a model of that type, if one does."""
    if not isinstance(kind, str) or kind in WORDLESS:
        return WORDLESS.get(str(kind))
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    name: str | None = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(kind)
    return name


def _has_chat_template(read: Read) -> bool:
    """Whether one of the files that may hold a chat template does."""
    if (read("chat_template.jinja") or b"").strip():
        return True
    files = ("chat_template.json", "processor_config.json", "tokenizer_config.json")
    return any(_mapping(read, name).get("chat_template") for name in files)


def _mapping(read: Read, name: str) -> dict[str, Any]:
    """The JSON object in a file; an empty one where the file is not there or holds something else."""
    try:
        found = json.loads(read(name) or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
