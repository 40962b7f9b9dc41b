"""When an attempt ends by itself, and how long it waits."""

from pydantic import Field

from lora_engine.config.base import Config


class LimitsConfig(Config):
    """When an attempt ends by itself."""

    attempt_hours: float | None = Field(default=None, gt=0, description="Commit and exit 55 after so many hours.")
    max_hours: float | None = Field(default=None, gt=0, description="Over all attempts: commit and exit 48.")
    stall_minutes: float | None = Field(default=None, gt=0, description="Exit 54 after so long without progress.")
    stop_seconds: float = Field(
        default=90,
        ge=1,
        le=3600,
        description="After SIGTERM, SIGINT or SIGHUP, end within so long even where the store does not answer. "
        "`render` gives platforms 30 s more.",
    )
    storage_wait_minutes: float = Field(
        default=10,
        ge=0,
        description="Wait so long for a store or hub that is down or busy, then exit 50. Not counted by stall_minutes.",
    )
    lease_wait: float = Field(
        default=10, ge=0, description="Minutes to wait for another process that works on this run; then exit 52."
    )
    tracker_seconds: float = Field(
        default=10,
        ge=0,
        le=600,
        description="Wait so long, over an attempt, for trackers that have not yet taken what they were told.",
    )
    lease_seconds: float = Field(
        default=60, ge=1, le=3600, description="A process that is silent for so long has lost its unit to the next."
    )
