"""`samples.json`: what the samples of one member at one step are, and how they measure."""

from pydantic import ConfigDict

from job.storage.stored import StoredJson
from lora_engine.evaluation.line_art import Measures


class SampleSettings(StoredJson):
    """All that decides what given weights generate, and who scores it. What a later version adds is kept."""

    model_config = ConfigDict(extra="allow")

    prompts: tuple[str, ...]
    clip_sha256: str | None = None  # of the CLIP model that scores; None where there is none


class SampleRow(StoredJson):
    """One sample."""

    file: str  # its name within the folder of the step
    sha256: str = ""
    prompt: int  # its place among the prompts
    seed: int = 0
    line_art: Measures
    clip_cosines: tuple[float, ...] | None = None  # with every prompt


class SampleIndex(StoredJson):
    """The samples of one step, written after all of them."""

    settings: SampleSettings
    images: tuple[SampleRow, ...]
