"""Weights & Biases, through accelerate's tracker: one of its runs for each adapter, in the group of the job's run."""

import base64
import hashlib
import io

import wandb
from accelerate.tracking import WandBTracker
from PIL import Image

from job.manifest.trackers import WandbConfig
from job.trackers.messages import Adapter, Kind, Record, Request


class Wandb:
    """Shows records in Weights & Biases.

    Its own steps can only grow, and an evaluation comes after later updates. So each kind of record has its step as a
    value of its own, and is drawn over that.
    """

    def __init__(self, config: WandbConfig) -> None:
        self._config = config
        self._trackers: dict[str, WandBTracker] = {}  # by the identity of the adapter

    def take(self, request: Request) -> None:
        """Show the records that it has not had from an earlier attempt."""
        tracker = self._trackers.get(request.of.identity) or self._begin(request.of)
        shown = tracker.tracker.summary.get(f"{request.kind}/step", -1)
        for record in request.records:
            if record.texts:
                tracker.tracker.summary.update(record.texts)
            elif record.step > shown:
                tracker.log(_values(request.kind, record))

    def _begin(self, adapter: Adapter) -> WandBTracker:
        tracker = WandBTracker(
            self._config.project,
            entity=self._config.entity,
            id=hashlib.sha256(adapter.identity.encode()).hexdigest()[:16],
            name=adapter.path,
            group=adapter.run,
            config=adapter.settings,
            resume="allow",
            reinit="create_new",  # several at a time
            settings=wandb.Settings(console="off", disable_git=True, disable_code=True),
        )
        tracker.start()
        for kind in ("train", "validation", "samples"):
            tracker.tracker.define_metric(f"{kind}/*", step_metric=f"{kind}/step")
        self._trackers[adapter.identity] = tracker
        return tracker

    def finish(self) -> None:
        """Wait until all is uploaded."""
        for tracker in self._trackers.values():
            tracker.finish()
        wandb.teardown()  # Waits for W&B's own process, which goes on writing after a run's `finish`.


def _values(kind: Kind, record: Record) -> dict[str, object]:
    pictures = {
        picture.name: wandb.Image(
            Image.open(io.BytesIO(base64.b64decode(picture.png)), formats=("PNG",)), caption=picture.prompt
        )
        for picture in record.pictures
    }
    return {f"{kind}/step": record.step} | dict(record.scalars) | pictures
