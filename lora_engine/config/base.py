"""The base class of all settings, and what a union of them is where it has no name."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Config(BaseModel):
    """A frozen, strict model: unknown keys, wrong types and non-finite numbers are errors.

    Strict models read sequences from JSON, so validate YAML data with `model_validate_json`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def named(default: str) -> BeforeValidator:
    """Has settings without a name be those of this one, for a union that is told apart by `name`."""

    def with_name(value: Any) -> Any:
        return {"name": default, **value} if isinstance(value, Mapping) else value

    return BeforeValidator(with_name)
