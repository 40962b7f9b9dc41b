"""The processes that train one pack together: each computes a slice of an update's images, and gradients are added up.

Tensors on a GPU travel by NCCL, all else by gloo, so that agreeing on a flag does not wait for a GPU. torch takes
seconds to import, so it is imported only to join: a process knows its place among the others before that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from lora_engine.config.models import DeviceChoice
from lora_engine.errors import LostPeerError, ResourceError

if TYPE_CHECKING:
    from torch import Tensor

_TIMEOUT = timedelta(days=30)  # the others wait as long as the first process prepares or evaluates alone


@dataclass(frozen=True)
class Processes:
    """This process's place among those that train together. Where it is alone, nothing is sent or waited for."""

    rank: int = 0  # 0 is the first process
    count: int = 1
    local_rank: int = 0  # among the processes of this machine

    @contextmanager
    def joined(
        self, device: DeviceChoice = "auto", wait: Callable[[Callable[[], None]], None] = lambda work: work()
    ) -> Iterator[None]:
        """Be in touch with the other processes while the block runs, on a GPU of its own where there are any.

        Args:
            device: what is computed on; `cpu` leaves GPUs alone.
            wait: calls the function that it is given, which waits for the others. It may do so in another thread and
                raise before the function returns, since torch lets no signal through while it waits.

        Raises:
            ResourceError: there are more processes on this machine than GPUs.
        """
        if self.count == 1:
            yield
            return
        wait(_import_torch)
        import torch
        from torch import distributed

        backend = "gloo"
        if device != "cpu" and torch.cuda.is_available():
            backend = "cpu:gloo,cuda:nccl"
            _take_gpu(self.local_rank, torch.cuda.device_count())
        init = partial(distributed.init_process_group, backend, rank=self.rank, world_size=self.count, timeout=_TIMEOUT)
        wait(init)
        yield
        # An error skips this: leaving the group could wait for a process that is gone.
        distributed.destroy_process_group()

    def local_slice(self, images: int) -> slice:
        """The images of an update, in [0, images), that this process computes. The first has the most, by one at most.

        Raises:
            ResourceError: there are not enough for all processes.
        """
        if images < self.count:
            raise ResourceError(
                f"Of {self.count} processes some would have none of an update's images: training.batch_size x "
                f"gradient_accumulation is {images}.",
                "Start fewer processes, or raise training.batch_size.",
            )
        first, last = (-(-images * rank // self.count) for rank in (self.rank, self.rank + 1))
        return slice(first, last)

    def sum_(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all processes, the same bits in each. Does not wait for a GPU.

        Raises:
            LostPeerError: another process is gone.
        """
        if self.count > 1:
            from torch import distributed

            with _lost_peers():
                distributed.all_reduce(tensor)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all are asked at once. Does not wait for a GPU.

        Raises:
            LostPeerError: another process is gone.
        """
        if self.count == 1:
            return flag
        import torch

        flags = torch.tensor(int(flag))
        self.sum_(flags)
        return bool(flags)

    def broadcast(self, message: bytes) -> None:
        """Send a message to all other processes; only the first process may.

        Raises:
            LostPeerError: another process is gone.
        """
        if self.count > 1:
            import torch
            from torch import distributed

            with _lost_peers():
                distributed.broadcast(torch.tensor(len(message)), 0)
                distributed.broadcast(torch.frombuffer(bytearray(message), dtype=torch.uint8), 0)

    def receive(self) -> bytes:
        """Wait for the next message of the first process, for as long as that lives.

        Raises:
            LostPeerError: the first process is gone.
        """
        import torch
        from torch import distributed

        length = torch.tensor(0)
        with _lost_peers():
            distributed.broadcast(length, 0)
            message = torch.empty(int(length), dtype=torch.uint8)
            distributed.broadcast(message, 0)
        return message.numpy().tobytes()


ALONE = Processes()


def _import_torch() -> None:
    import torch.distributed  # noqa: F401


def _take_gpu(local_rank: int, gpus: int) -> None:
    """Compute on this process's own GPU from now on."""
    import torch

    if local_rank >= gpus:
        raise ResourceError(
            f"This is process {local_rank} of this machine, counted from 0, and there are {gpus} GPUs.",
            "Start as many processes as there are GPUs, or fewer.",
        )
    torch.cuda.set_device(local_rank)


@contextmanager
def _lost_peers() -> Iterator[None]:
    """Turn the errors by which torch reports a process that is gone into LostPeerError."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise LostPeerError(
            f"Another process of this training is gone ({' '.join(str(error).split())[:200]}).",
            "Its own last line says why. Start all of them again to continue.",
        ) from error
