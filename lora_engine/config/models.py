"""Settings of the frozen models."""

from typing import Annotated, Literal

from pydantic import Field

from lora_engine.config.base import Config

Precision = Literal["auto", "bf16", "fp16", "fp32"]
DtypeName = Literal["bf16", "fp16", "fp32"]
DeviceChoice = Literal["auto", "cuda", "cpu"]  # auto: a GPU where there is one
AllowPickle = Annotated[
    bool,
    Field(
        description="Where a model has no safetensors, read its pickles (`.bin`) by torch's weights-only reader. "
        "Only for a model whose author you trust."
    ),
]


PredictionType = Literal["epsilon", "v_prediction"]


PredictionChoice = Annotated[
    Literal["auto", PredictionType],
    Field(
        description="What the UNet predicts: the noise, or v. auto: what a single file says of itself, or else the "
        "scheduler's configuration."
    ),
]
TerminalChoice = Annotated[
    Literal["auto"] | bool,
    Field(
        description="Whether the last timestep is noise alone (zero terminal SNR), for models of v trained so. "
        "auto: as with prediction_type."
    ),
]
ClipSkip = Annotated[
    int,
    Field(
        ge=1,
        le=32,
        description="The layer of the text encoder that gives the embeddings, counted from the last as A1111 counts; "
        "its last norm follows in any case.",
    ),
]


class BaseModelUse(Config):
    """How the frozen base model is used."""

    prediction_type: PredictionChoice = "auto"
    zero_terminal_snr: TerminalChoice = "auto"
    clip_skip: ClipSkip = 1


class CaptionerConfig(Config):
    """The image-to-text model and how it generates.

    The engine is given the model's folder; `source` and `revision` tell whoever brings it there what to bring.
    """

    source: str = Field(min_length=1, max_length=1024)
    revision: str | None = Field(default=None, max_length=200)
    prompt: str = Field(
        default="",
        max_length=500,
        description="Text that the caption continues; empty for none. A model with a chat template is asked this "
        "question instead of the usual one, for one short sentence. It never stands in the caption.",
    )
    beams: int = Field(default=1, ge=1, le=16, description="1 is greedy search.")
    max_new_tokens: int = Field(default=40, ge=1, le=200)
    batch_size: int = Field(default=8, ge=1, le=256)
    precision: Precision = "auto"
    allow_pickle: AllowPickle = False
