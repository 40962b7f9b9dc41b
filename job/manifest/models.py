"""The models that a study reads, and where each comes from: the engine's settings with places and revisions."""

from pydantic import Field, model_validator

from job.manifest.places import ModelSource, Revision
from lora_engine.config.base import Config
from lora_engine.config.evaluation import EvaluationConfig, SamplesConfig
from lora_engine.config.models import (
    AllowPickle,
    BaseModelUse,
    CaptionerConfig,
    ClipSkip,
    PredictionChoice,
    TerminalChoice,
)

_REVISION = "Commit, tag or branch of an hf:// source."


class MergeConfig(Config):
    """A LoRA that is added to the weights of the base model."""

    source: ModelSource = Field(
        description="A .safetensors file in kohya's or diffusers' format: a path, s3://... or hf://owner/name/FILE; or "
        "a folder that has it as pytorch_lora_weights.safetensors."
    )
    strength: float = Field(default=1.0, ge=-10, le=10, description="By which what it adds is multiplied.")
    revision: Revision | None = Field(default=None, description=_REVISION)


class BaseModelConfig(Config):
    """The Stable Diffusion model that stays frozen."""

    source: ModelSource = Field(
        description="A folder in diffusers layout, s3://..., hf://owner/name, one .safetensors checkpoint, "
        "or miniature://stable-diffusion."
    )
    revision: Revision | None = Field(default=None, description=_REVISION)
    components: ModelSource = Field(
        default="hf://stable-diffusion-v1-5/stable-diffusion-v1-5",
        description="Where the configuration and tokenizer of a single .safetensors file come from; "
        "weights in it are not read.",
    )
    vae: ModelSource | None = Field(
        default=None,
        description="The autoencoder to use instead of the model's own: a folder in diffusers layout, s3://..., "
        "hf://owner/name, or one .safetensors file.",
    )
    vae_revision: Revision | None = Field(default=None, description="Commit, tag or branch of an hf:// `vae`.")
    merge: tuple[MergeConfig, ...] = Field(
        default=(),
        max_length=16,
        description="LoRAs that are added to the weights of UNet and text encoder, in this order, before anything is "
        "computed: the base model is the sum.",
    )
    prediction_type: PredictionChoice = "auto"
    zero_terminal_snr: TerminalChoice = "auto"
    clip_skip: ClipSkip = 1
    allow_pickle: AllowPickle = False

    @property
    def use(self) -> BaseModelUse:
        """How the model is used, without where it is."""
        return BaseModelUse(**self.model_dump(include=set(BaseModelUse.model_fields)))

    @model_validator(mode="after")
    def _check_terminal_snr(self) -> "BaseModelConfig":
        if self.zero_terminal_snr is True and self.prediction_type == "epsilon":
            raise ValueError(
                "zero_terminal_snr is true, but prediction_type is epsilon: where all is noise, the noise says "
                "nothing of the picture; prediction_type: v_prediction, or zero_terminal_snr: false"
            )
        return self


class CaptionerModelConfig(CaptionerConfig):
    """The image-to-text model and how it generates."""

    source: ModelSource = Field(description="A folder, s3://..., hf://owner/name or miniature://blip.")
    revision: Revision | None = Field(default=None, description=_REVISION)


class ClipConfig(Config):
    """The CLIP model that scores how well samples fit their prompts."""

    source: ModelSource = Field(description="A folder, s3://..., hf://owner/name or miniature://clip.")
    revision: Revision | None = Field(default=None, description=_REVISION)
    allow_pickle: AllowPickle = False


class ScoredSamplesConfig(SamplesConfig):
    """Images generated from fixed prompts and seeds, measured for likeness to the training images."""

    clip: ClipConfig | None = Field(default=None, description="Scores the samples; without it they have no CLIP score.")


class ScoredEvaluationConfig(EvaluationConfig):
    """When and how finely the held-out images are scored."""

    samples: ScoredSamplesConfig | None = None
