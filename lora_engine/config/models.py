"""Where the frozen models come from."""

import re
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from lora_engine.config.base import Config

_FORMS = {
    "s3": "s3://bucket/prefix",
    "hf": "hf://owner/name",
    "miniature": "miniature://name",
    "file": "file:///path",
}
_GOOGLE = "; Google Cloud Storage is s3:// with storage.endpoint_url"


class SchemeError(ValueError):
    """A URI of a scheme that is not allowed, or one that is misspelt; `suggestion` is what was probably meant."""

    def __init__(self, allowed: str, suggestion: str | None) -> None:
        super().__init__(allowed)
        self.suggestion = suggestion


def _address(value: str) -> str:
    if re.match(r"[A-Za-z0-9+.-]+://[^/]*@", value):
        raise ValueError("an address without credentials; they come from the environment")
    if "\n" in value or "\t" in value:
        raise ValueError("one line without tabs")
    return value


def _place(*schemes: str) -> Callable[[str], str]:
    """Checks a plain path or a URI of one of `schemes`. A colon may stand in a path: `a:b`, `./s3:/x`."""

    def check(value: str) -> str:
        if value.startswith("~"):
            raise ValueError("a path without ~, which only a shell resolves; ./~ if it is a name")
        match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):(/*)", value)
        if match is None:
            return _address(value)
        written, slashes, known = match[1], match[2], match[1].lower()
        if "//" not in slashes and known not in _FORMS:
            return _address(value)
        if written not in schemes or "//" not in slashes:
            meant = f"{known}://{'/' * (known == 'file')}{value[match.end() :]}" if known in schemes else None
            forms = ", ".join(("a path", *(_FORMS[scheme] for scheme in schemes)))
            raise SchemeError(forms + _GOOGLE * (known in ("gs", "gcs")), meant)
        return _address(value)

    return check


def _revision(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][-A-Za-z0-9._/+]{0,199}", value) or ".." in value:
        raise ValueError("a commit, tag or branch: up to 200 letters, digits and ._/+-")
    return value


_Address = Annotated[str, Field(min_length=1, max_length=1024)]
Endpoint = Annotated[_Address, AfterValidator(_address)]
Destination = Annotated[_Address, AfterValidator(_place("file", "s3"))]
DataSource = Annotated[_Address, AfterValidator(_place("file", "s3", "miniature"))]
Source = Annotated[_Address, AfterValidator(_place("file", "s3", "hf", "miniature"))]  # of a model
Revision = Annotated[str, AfterValidator(_revision)]
Precision = Literal["auto", "bf16", "fp16", "fp32"]
AllowPickle = Annotated[
    bool,
    Field(
        description="Where a model has no safetensors, read its pickles (`.bin`) by torch's weights-only reader. "
        "Only for a model whose author you trust."
    ),
]


class BaseModelConfig(Config):
    """The Stable Diffusion model that stays frozen."""

    source: Source = Field(
        description="A folder in diffusers layout, s3://..., hf://owner/name, one .safetensors checkpoint, "
        "or miniature://stable-diffusion."
    )
    revision: Revision | None = Field(default=None, description="Commit, tag or branch of an hf:// source.")
    components: Source = Field(
        default="hf://stable-diffusion-v1-5/stable-diffusion-v1-5",
        description="Where the configuration and tokenizer of a single .safetensors file come from; "
        "weights in it are not read.",
    )
    allow_pickle: AllowPickle = False


class CaptionerConfig(Config):
    """The image-to-text model and how it generates."""

    source: Source = Field(description="A folder, s3://..., hf://owner/name or miniature://blip.")
    revision: Revision | None = Field(default=None, description="Commit, tag or branch of an hf:// source.")
    prompt: str = Field(default="", max_length=500, description="Text that the caption continues; empty for none.")
    beams: int = Field(default=1, ge=1, le=16, description="1 is greedy search.")
    max_new_tokens: int = Field(default=40, ge=1, le=200)
    batch_size: int = Field(default=8, ge=1, le=256)
    precision: Precision = "auto"
    allow_pickle: AllowPickle = False


class ClipConfig(Config):
    """The CLIP model that scores how well samples fit their prompts."""

    source: Source = Field(description="A folder, s3://..., hf://owner/name or miniature://clip.")
    revision: Revision | None = Field(default=None, description="Commit, tag or branch of an hf:// source.")
    allow_pickle: AllowPickle = False
