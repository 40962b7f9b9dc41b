"""Turns the numbers of updates, which stay on the device until several can be read at once, into records.

Shape legend: K members that took part in an update.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lora_engine.dataset.draws import DrawHashes
from lora_engine.records import StepRecord
from lora_engine.training.losses import PLAIN
from lora_engine.training.lr_schedule import learning_rate
from lora_engine.training.members import PackMembers
from lora_engine.training.update import UpdateNumbers

# What a step says of a member that took no part in it.
_NOTHING = UpdateNumbers(math.nan, math.nan, 0.0, 0.0, math.nan, math.nan)
_FLUSH_STEPS = 10  # reading a number waits for the device, so numbers stay there for this many steps ...
_FLUSH_SECONDS = 1.0  # ... or, where steps are slow, until this much time has passed


@dataclass(frozen=True)
class _Measured:
    """The numbers of one update, on the device."""

    step: int
    places: tuple[int, ...]  # of the K members that took part, in the pack
    numbers_6K: Tensor  # as `PackUpdate` returns them
    hashes: Sequence[DrawHashes]  # one for each distinct seed


class StepLog:
    """The updates that were done since the log was last flushed. Its clock starts when it is made.

    Args:
        images_per_step: of one member.
        remarks: is given a sentence at the first update that each member has refused by its own fault.
    """

    def __init__(self, members: PackMembers, images_per_step: int, remarks: list[str]) -> None:
        self._members, self._images_per_step, self._remarks = members, images_per_step, remarks
        self._pending: list[_Measured] = []
        self._since = time.monotonic()

    def add(self, step: int, numbers_6K: Tensor, hashes: Sequence[DrawHashes]) -> None:
        """Take up an update of the members that are active now, without waiting for the device.

        Args:
            numbers_6K: as `PackUpdate` returns them.
            hashes: of what each distinct seed drew for the update.
        """
        self._pending.append(_Measured(step, tuple(self._members.active_places), numbers_6K, hashes))

    @property
    def is_due(self) -> bool:
        """Whether updates have waited long enough for `flush`."""
        return len(self._pending) >= _FLUSH_STEPS or time.monotonic() - self._since >= _FLUSH_SECONDS

    def flush(self) -> Iterator[dict[str, StepRecord]]:
        """Yield the members' records, by name, for every update since the last, and count the updates refused.

        Waits for the device.
        """
        if self._pending:
            values = torch.cat([measured.numbers_6K for measured in self._pending], dim=1).double().cpu().numpy()
            images = self._images_per_step * values.shape[1]
            images_per_second = images / max(time.monotonic() - self._since, 1e-9)
            start = 0
            for measured in self._pending:
                columns = values[:, start : start + len(measured.places)].T.tolist()
                start += len(measured.places)
                numbers = {place: UpdateNumbers(*each) for place, each in zip(measured.places, columns, strict=True)}
                for place, each in numbers.items():
                    if each.at_fault and self._members.count_refused(place) == 1:
                        self._remarks.append(self._first_refusal(measured.step, place, each.loss))
                yield self._records(measured, numbers, images_per_second)
        # The clock starts again only now: what the caller did with the records is not the updates' time.
        self._pending, self._since = [], time.monotonic()

    def _first_refusal(self, step: int, place: int, loss: float) -> str:
        what = "its gradient is not finite, though its loss is" if np.isfinite(loss) else "its loss is not finite"
        name, most = self._members.all[place].name, self._members.configs[place].training.max_skipped_steps
        return f"{name}: the update of step {step} was refused, since {what}; more than {most} of these freeze it"

    def _records(
        self, measured: _Measured, numbers: Mapping[int, UpdateNumbers[float]], images_per_second: float
    ) -> dict[str, StepRecord]:
        """A record for every member that has not done all of its steps; a frozen one's says that nothing was updated.

        Args:
            numbers: by the places of the members that took part.
        """
        result = {}
        for place, (member, config) in enumerate(zip(self._members.all, self._members.configs, strict=True)):
            said = numbers.get(place, _NOTHING)
            hashes = measured.hashes[self._members.seeds.index(member.seed)]
            trained = config.training.loss, config.training.weighting
            if measured.step <= config.training.last_step:
                result[member.name] = StepRecord(
                    step=measured.step,
                    loss=_finite(said.loss),
                    learning_rate=learning_rate(config.training, measured.step),
                    grad_norm=_finite(said.grad_norm),
                    images_per_second=images_per_second,
                    skipped=not said.finite,
                    order_sha256=hashes.order_sha256,
                    timesteps_sha256=hashes.timesteps_sha256,
                    noise_sha256=hashes.noise_sha256,
                    squared_error=None if trained == PLAIN else _finite(said.squared_error),
                    d=_finite(said.d),
                )
        return result


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
