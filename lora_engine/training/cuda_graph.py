"""A whole update as one CUDA graph, whose thousands of kernels the CPU starts at once instead of one by one."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_WARM_UPS = 3  # updates before the capture, in which libraries choose their kernels; torch asks for a few
_FREE_FRACTION = 0.5  # of what the graph keeps, which must still be free: an evaluation needs less than an update
_TOLERANCE = 0.02  # relative, between losses of equal inputs: kernels may add up in another order


class CapturedUpdate:
    """An update that was captured once and is replayed for any inputs of the same shapes.

    Args:
        update: a function of tensors on the device to one tensor; it waits for nothing and allocates nothing that
            outlives it.
        inputs: those that it is captured with, on the device.
        state: every tensor that it changes; they are as before when this returns or fails.

    Raises:
        RuntimeError: the update cannot be captured, a replay gives something else than it does, or the graph leaves too
            little memory.
    """

    def __init__(
        self, update: Callable[[Sequence[Tensor]], Tensor], inputs: Sequence[Tensor], state: Sequence[Tensor]
    ) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        saved = [tensor.clone() for tensor in state]

        def result_of(work: Callable[[], Tensor]) -> Tensor:
            try:
                return work().clone()
            finally:
                for tensor, before in zip(state, saved, strict=True):
                    # `.data` hides the write from autograd, which refuses to use slices of a tensor that were made
                    # before it was written to.
                    tensor.data.copy_(before)

        # torch asks for another stream than the default one, on which nothing can be captured: autograd remembers the
        # stream on which it first met each gradient.
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                expected = result_of(lambda: update(self._inputs))
        torch.cuda.current_stream().wait_stream(aside)
        self._capture(update)
        replayed = result_of(self._replay)
        if not torch.allclose(replayed, expected, rtol=_TOLERANCE, equal_nan=True):
            raise RuntimeError("a replay gives other losses than the update itself")

    def _capture(self, update: Callable[[Sequence[Tensor]], Tensor]) -> None:
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info()[0]
        self._graph = torch.cuda.CUDAGraph()
        # The capture is this thread's alone, since the thread that reads the next inputs pins memory meanwhile. In the
        # default mode that would be an error.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = update(self._inputs)
        left = torch.cuda.mem_get_info()[0]
        if left < _FREE_FRACTION * (free - left):
            gib = 2**30
            raise RuntimeError(
                f"it would keep {(free - left) / gib:.1f} GiB and leave {left / gib:.1f} for evaluations"
            )

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """Update with these inputs, which may lie on the CPU. Nothing waits for the device."""
        for ours, given in zip(self._inputs, inputs, strict=True):
            ours.copy_(given, non_blocking=True)
        return self._replay().clone()

    def _replay(self) -> Tensor:
        self._graph.replay()
        return self._result
