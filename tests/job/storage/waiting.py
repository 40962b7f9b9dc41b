"""What a process that waits for a store or a hub is told, and says."""

import threading
from collections.abc import Callable

from job.storage import Patience, Storage
from job.storage.patience import PatientStorage, Wait


class Waiting:
    """The patience of such a process; `down` is set once it says that it waits."""

    def __init__(self, minutes: float, check: Callable[[], None] = lambda: None) -> None:
        self.said: list[str] = []
        self.down = threading.Event()
        self.excused = 0.0
        self.patience = Patience(minutes, check, self._say, self._excuse)

    def around(self, storage: Storage) -> PatientStorage:
        """The storage, which waits so."""
        return PatientStorage(storage, Wait(self.patience))

    def _say(self, event: str, text: str) -> None:
        self.said.append(event)
        if event.startswith("waiting for "):
            assert "for up to" in text
            self.down.set()

    def _excuse(self, until: float) -> None:
        self.excused = until
