"""A whole update as one CUDA graph: its thousands of kernels start at once, not one by one."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_WARM_UPS = 3  # on a stream of its own, as torch asks for, so that libraries have chosen their kernels
_LEFT = 0.5  # of what it keeps for itself, which must still be free: an evaluation needs less than an update
_TOLERANCE = 0.02  # relative, between losses of equal inputs: kernels may add up in another order


class CapturedUpdate:
    """`update` of inputs that always have the same shapes, as it is the first time.

    Args:
        update: of tensors on the device to one tensor; it waits for nothing and allocates nothing that outlives it.
        inputs: the first ones.
        state: every tensor that it changes; they are as before when this returns or fails.

    Raises:
        RuntimeError: it cannot be captured, what was captured gives something else, or it leaves too little memory.
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
                    tensor.data.copy_(before)  # behind the back of autograd, which would follow it

        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                expected = result_of(lambda: update(self._inputs))
        torch.cuda.current_stream().wait_stream(aside)
        self._capture(update)
        found = result_of(self._replayed)
        if not torch.allclose(found, expected, rtol=_TOLERANCE, equal_nan=True):
            raise RuntimeError("a replay gives other losses than the update itself")

    def _capture(self, update: Callable[[Sequence[Tensor]], Tensor]) -> None:
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info()[0]
        self._graph = torch.cuda.CUDAGraph()
        # of this thread alone: the one that reads the next inputs pins memory meanwhile, which a capture forbids
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = update(self._inputs)
        left = torch.cuda.mem_get_info()[0]
        if left < _LEFT * (free - left):
            gib = 2**30
            raise RuntimeError(
                f"it would keep {(free - left) / gib:.1f} GiB and leave {left / gib:.1f} for evaluations"
            )

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """`update` of these inputs. Nothing waits for the device."""
        for ours, given in zip(self._inputs, inputs, strict=True):
            ours.copy_(given, non_blocking=True)
        return self._replayed().clone()

    def _replayed(self) -> Tensor:
        self._graph.replay()
        return self._result
