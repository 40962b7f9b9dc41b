"""Errors for whatever can go wrong for a reason that the user can mend. Each says what, where and what to do."""

from lora_engine.text import printable


class EngineError(Exception):
    """A failure with a cause and a remedy, each a sentence for a person, of which no character acts on a terminal."""

    def __init__(self, cause: str, remedy: str) -> None:
        self.cause, self.remedy = printable(cause), printable(remedy)
        super().__init__(f"{self.cause} {self.remedy}")


class DataError(EngineError):
    """The images or their captions cannot be used."""


class UnsafeError(EngineError):
    """An input could harm whoever handles it: it leads to other places, hides what it is, or grows without end."""


class ModelError(EngineError):
    """The base model, the captioner or the CLIP model cannot be used."""


class ResourceError(EngineError):
    """The machine lacks memory, disk or the device that was asked for."""


class LostPeerError(EngineError):
    """One of several processes that train together has ended, or cannot be reached."""


class DivergedError(EngineError):
    """Training produced non-finite numbers more often than its budget allows."""
