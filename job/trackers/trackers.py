"""The trackers of an attempt: each is told what is stored, and none is waited for longer than is left of its time."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from job.layout import Member
from job.manifest.packs import ResolvedVariant
from job.manifest.trackers import TensorBoardConfig, TrackerConfig, with_defaults
from job.run.context import Attempt
from job.run.tracking import Tracking
from job.storage.folder import RunFolder
from job.trackers.feed import Feed
from job.trackers.installed import is_usable, lacking
from job.trackers.messages import Adapter
from job.trackers.sinks import EventFiles, Sink, Stream
from job.trackers.told import Began, Told, began, of_metrics, of_samples, of_stored, of_validation
from lora_engine.records import StepRecord, ValidationRecord

_SIGN_OF_LIFE_SECONDS = 0.5  # between two of them while trackers are waited for


@contextmanager
def tracked(attempt: Attempt) -> Iterator[Attempt]:
    """The attempt with the trackers of its manifest, which have ended when the block has."""
    configs = with_defaults(attempt.manifest.trackers)
    for text in lacking(configs, os.environ):
        attempt.progress.warn(text)
    trackers = Trackers(attempt, [config for config in configs if is_usable(config, os.environ)])
    try:
        yield replace(attempt, tracking=trackers)
    finally:
        trackers.close()


class Trackers(Tracking):
    """Tells every tracker."""

    def __init__(self, attempt: Attempt, configs: Sequence[TrackerConfig]) -> None:
        self._manifest, self._progress = attempt.manifest, attempt.progress
        self._members = [member for pack in attempt.packs for member in pack.members]
        self._settings = {variant.name: _settings(variant) for variant in attempt.variants}
        self._began: Began | None = None
        self._limits, self._stop = attempt.limits, attempt.stop
        scratch = attempt.workdir / "trackers"
        self._feeds = [
            Feed(config, _sink(config), self._adapter_of, scratch, self._progress.warn, self._limits.tracker_seconds)
            for config in configs
        ]

    def metrics(self, run: RunFolder, member: Member, rows: Sequence[StepRecord]) -> None:
        """Tell of the updates."""
        kept = tuple(rows)
        self._tell(Told(run, member, "train", lambda: of_metrics(kept)))

    def validation(self, run: RunFolder, member: Member, rows: Sequence[ValidationRecord]) -> None:
        """Tell of the evaluations."""
        kept = tuple(rows)
        self._tell(Told(run, member, "validation", lambda: of_validation(kept)))

    def samples(self, run: RunFolder, member: Member, set_name: str) -> None:
        """Tell of the samples."""
        self._tell(Told(run, member, "samples", lambda: of_samples(run, member, set_name)))

    def reported(self, run: RunFolder, sentence: str) -> None:
        """Tell of the verdict, and of all else that is stored: some of it may not have been shown when it was told."""
        for member in self._members:
            for told in of_stored(run, member, sentence):
                self._tell(told)
        self.settle()

    def _tell(self, told: Told) -> None:
        for feed in self._feeds:
            feed.tell(told)

    def settle(self) -> None:
        """Wait for those that have time left. After a signal, half of the time to end in is left to the job."""
        waiting = [feed for feed in self._feeds if not feed.is_settled]
        while waiting:
            left = self._limits.stop_seconds / 2 - self._stop.signalled_seconds
            seconds = waiting[0].wait(max(0, min(_SIGN_OF_LIFE_SECONDS, waiting[0].left_seconds, left)))
            self._progress.moved()
            for feed in waiting:
                feed.left_seconds -= seconds
                if not feed.is_settled and feed.left_seconds <= 0:
                    feed.give_up(f"it was waited for for limits.tracker_seconds ({self._limits.tracker_seconds:g})")
                elif not feed.is_settled and self._stop.signalled_seconds >= self._limits.stop_seconds / 2:
                    feed.give_up(
                        f"half of limits.stop_seconds ({self._limits.stop_seconds:g}) is over after the signal"
                    )
            waiting = [feed for feed in waiting if not feed.is_settled]

    def close(self) -> None:
        """Have all end, and wait for them as `settle` does."""
        for feed in self._feeds:
            feed.close()
        self.settle()

    def _adapter_of(self, told: Told) -> Adapter:
        """The adapter that something is told of."""
        if self._began is None:
            self._began = began(told.run)
        begun = self._began
        return Adapter(
            run=self._manifest.name,
            run_id=begun.run_id or f"{self._manifest.name} {begun.started_at}",
            started_at=begun.started_at,
            member=told.member,
            settings=self._settings[told.member.variant],
        )


def _sink(config: TrackerConfig) -> Sink:
    return EventFiles() if isinstance(config, TensorBoardConfig) else Stream()


def _settings(variant: ResolvedVariant) -> dict[str, Any]:
    """What a tracker shows of a variant's settings."""
    return {key: getattr(variant, key).model_dump(mode="json") for key in ("captions", "lora", "training")}
