"""The settings of the noise that is trained with, and of the timesteps that it is drawn for."""

from pydantic import ConfigDict, Field, model_validator

from lora_engine.config.base import Config


class MultiresConfig(Config):
    """Noise of smaller and smaller sizes, enlarged and added: errors of large areas are learned, too."""

    iterations: int = Field(default=6, ge=1, le=10, description="Sizes, of which the first is the noise's own.")
    discount: float = Field(
        default=0.3, gt=0, lt=1, description="What a size weighs of the one before; from 0.8 on colours burn."
    )


class NoiseConfig(Config):
    """What is done to the noise of training. Scores are by plain noise."""

    offset: float = Field(
        default=0.0, ge=0, le=1, description="Shift every channel of an image's noise by this deviation; 0.03 to 0.1."
    )
    multires: MultiresConfig | None = Field(
        default=None,
        description="In place of an offset; neither is for base models whose last timestep is noise alone.",
    )
    input_perturbation: float = Field(
        default=0.0, ge=0, le=1, description="Deviation of noise that the UNet sees and is not asked for; about 0.1."
    )

    @model_validator(mode="after")
    def _check_one_of_both(self) -> "NoiseConfig":
        if self.offset and self.multires is not None:
            raise ValueError(
                f"either offset: {self.offset:g} or multires: {self.multires.model_dump_json()}, which exclude each "
                "other; offset: 0 or multires: null leaves one out"
            )
        return self


class TimestepsConfig(Config):
    """The range of timesteps that is trained, in thousandths of the base model's: 1000 is where there is most noise."""

    model_config = ConfigDict(serialize_by_alias=True)

    from_: int = Field(default=0, alias="from", ge=0, le=999, description="The first that is trained.")
    to: int = Field(default=1000, ge=1, le=1000, description="The first after it that is not.")

    @model_validator(mode="after")
    def _check_order(self) -> "TimestepsConfig":
        if self.to <= self.from_:
            raise ValueError(f"from less than to (from: {self.from_}, to: {self.to})")
        return self


def refused_with_zero_terminal_snr(noise: NoiseConfig) -> str | None:
    """Why this noise cannot be trained where the last timestep is noise alone; None where it can be.

    There the sampler begins with plain noise, and the model has learned what the picture is like on the whole; noise
    whose mean or large areas differ from that would teach it to begin elsewhere.
    """
    if not noise.offset and noise.multires is None:
        return None
    found = "multires" if noise.multires is not None else f"offset: {noise.offset:g}"
    return (
        f"training.noise has {found}, but the last timestep of the base model is noise alone (zero terminal SNR), "
        "where sampling begins with plain noise."
    )
