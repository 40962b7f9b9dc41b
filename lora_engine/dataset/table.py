"""Tensors of one shape by row number: all of them on the training device where they fit, else read when asked for."""

from collections.abc import Callable

import torch
from torch import Tensor

from lora_engine.dataset.randomness import Ints


class TensorTable:
    """A table whose rows are read in one thread and placed on the device in another, before an update needs them.

    Args:
        row: gives the row of a number in [0, count), on the CPU; all rows have one shape and dtype.
        dtype: of the rows that `place` gives.
        resident: put all rows on the device now.
    """

    def __init__(
        self, row: Callable[[int], Tensor], count: int, device: torch.device, dtype: torch.dtype, *, resident: bool
    ) -> None:
        self.count, self.device, self.dtype = count, device, dtype
        self.shape = tuple(row(0).shape)  # a row's
        self._row = row
        self._all = torch.stack([row(number) for number in range(count)]).to(device, dtype) if resident else None

    @property
    def resident(self) -> bool:
        """Whether all rows are on the device."""
        return self._all is not None

    def read(self, numbers: Ints) -> Tensor:
        """Read what `place` needs to give the rows of these numbers: a tensor on the CPU, led by their shape."""
        if self._all is not None:
            return self._pinned(torch.from_numpy(numbers))
        rows = torch.stack([self._row(int(number)) for number in numbers.flat])
        return self._pinned(rows.view(*numbers.shape, *self.shape))

    def place(self, read: Tensor) -> Tensor:
        """The rows that were read, on the device: [..., *shape]. Nothing waits for the device."""
        placed = read.to(self.device, non_blocking=True)
        return placed.to(self.dtype) if self._all is None else self._all[placed]

    def _pinned(self, tensor: Tensor) -> Tensor:
        """The tensor in memory that a GPU can copy from while the CPU goes on."""
        return tensor.pin_memory() if self.device.type == "cuda" else tensor
