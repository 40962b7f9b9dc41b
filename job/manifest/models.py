"""The models that a study reads, and where each comes from: the engine's settings with places and revisions."""

from pydantic import Field

from job.manifest.places import ModelSource, Revision
from lora_engine.config.base import Config
from lora_engine.config.evaluation import EvaluationConfig, SamplesConfig
from lora_engine.config.models import AllowPickle, CaptionerConfig

_REVISION = "Commit, tag or branch of an hf:// source."


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
    allow_pickle: AllowPickle = False


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
