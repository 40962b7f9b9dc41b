"""`samples.json`: the settings and the measures of one member's samples at one step."""

from pydantic import ConfigDict, Field, model_validator

from job.storage.stored import StoredJson
from lora_engine.evaluation.line_art import Measures


class SampleSettings(StoredJson):
    """All that decides what given weights generate, and which model scores it.

    Only the keys below are read by themselves. The others, and those of later versions, are kept to be compared.
    """

    model_config = ConfigDict(extra="allow")

    prompts: tuple[str, ...] = Field(min_length=1)
    clip_sha256: str | None = None  # of the CLIP model that scores the samples; None where none does


class SampleRow(StoredJson):
    """One sample."""

    file: str | None  # the name of its image within the folder of the step; None where its pixels were not finite
    sha256: str = ""
    prompt: int  # the place of its prompt among the prompts, from 0
    seed: int = 0
    line_art: Measures | None  # None where there is no image
    clip_cosines: tuple[float, ...] | None = None  # of its image with every prompt; None where no CLIP model scores it


class SampleIndex(StoredJson):
    """The samples of one member at one step. It is written after all of their images."""

    settings: SampleSettings
    images: tuple[SampleRow, ...]

    @model_validator(mode="after")
    def _check_prompts(self) -> "SampleIndex":
        count = len(self.settings.prompts)
        if {image.prompt for image in self.images} != set(range(count)):
            raise ValueError("a prompt without an image, or an image without a prompt")
        if any(image.clip_cosines is not None and len(image.clip_cosines) != count for image in self.images):
            raise ValueError("cosines of other prompts than there are")
        return self
