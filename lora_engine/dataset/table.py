"""Tensors of one shape, by number: all of them on the training device where they fit, else read when asked for."""

from collections.abc import Callable

import torch
from torch import Tensor

from lora_engine.dataset.randomness import Ints


class TensorTable:
    """TensorTable are read in one thread and placed in another, so that a training step finds them there.

    Args:
        row: of a number below `count`; all of one shape and dtype.
        dtype: that rows are given in.
        resident: put all of them on the device now.
    """

    def __init__(
        self, row: Callable[[int], Tensor], count: int, device: torch.device, dtype: torch.dtype, *, resident: bool
    ) -> None:
        self.count, self.device, self.dtype = count, device, dtype
        self.shape = tuple(row(0).shape)  # of a row
        self._row = row
        self._all = torch.stack([row(number) for number in range(count)]).to(device, dtype) if resident else None

    @property
    def resident(self) -> bool:
        """Whether all of them are on the device."""
        return self._all is not None

    def read(self, numbers: Ints) -> Tensor:
        """What `place` needs of the rows of these numbers: on the CPU, its first dimensions those of `numbers`."""
        if self._all is not None:
            return self._pinned(torch.from_numpy(numbers))
        rows = torch.stack([self._row(int(number)) for number in numbers.flat])
        return self._pinned(rows.view(*numbers.shape, *self.shape))

    def place(self, read: Tensor) -> Tensor:
        """The rows on the device, [..., *shape]. Nothing waits for the device."""
        placed = read.to(self.device, non_blocking=True)
        return placed.to(self.dtype) if self._all is None else self._all[placed]

    def _pinned(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if self.device.type == "cuda" else tensor
