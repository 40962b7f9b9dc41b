"""The base class of all settings."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen, strict model: unknown keys, wrong types and non-finite numbers are errors.

    Strict models read sequences from JSON, so validate YAML data with `model_validate_json`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
