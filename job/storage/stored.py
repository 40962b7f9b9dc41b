"""What every JSON file that a run keeps has in common."""

from pydantic import BaseModel, ConfigDict


class StoredJson(BaseModel):
    """A JSON object of a run as a program reads it back.

    Keys that this version does not know are ignored, since a later version may have written them. Keys that an earlier
    version did not write have defaults.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, populate_by_name=True)
