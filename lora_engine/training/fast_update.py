"""Makes updates fast where that was asked for: by a compiled UNet, and by one CUDA graph for a whole update.

Shape legend: K members that take part.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lora_engine.config.training import TrainingConfig
from lora_engine.system.distributed import Processes
from lora_engine.training.compiled import compile_if_equal, too_few_updates
from lora_engine.training.cuda_graph import CapturedUpdate
from lora_engine.training.inputs import Inputs
from lora_engine.training.update import PackUpdate


class FastUpdate:
    """An update that compiles and captures itself at its first call. Where either fails it goes on without.

    Both wait for the first call because both need inputs to try themselves out on.

    Args:
        updates: of the whole run, by which compiling pays or does not.
    """

    def __init__(
        self, update: PackUpdate, config: TrainingConfig, updates: int, processes: Processes, device: torch.device
    ) -> None:
        self._update, self._config, self._processes, self._device = update, config, processes, device
        self._updates = updates
        self._remarks: list[str] = []
        self._is_to_compile = config.compile != "off"
        self.capture_anew()

    def __call__(self, inputs: Inputs, rates: Sequence[float]) -> Tensor:
        """Update at these learning rates of the members. Returns what `PackUpdate` does, [6, K] on the device."""
        if self._is_to_compile:
            self._compile(inputs)
        if self._is_to_capture:
            self._capture(inputs, rates)
        if self._captured is not None:
            return self._captured((*inputs, torch.tensor(rates)))
        return self._update(inputs, rates)

    def capture_anew(self) -> None:
        """Forget the CUDA graph: the next update captures another, since other members take part."""
        self._captured: CapturedUpdate | None = None
        self._is_to_capture = self._config.cuda_graph == "auto"

    def take_remarks(self) -> list[str]:
        """Hand out the remarks that are new: sentences on what was asked for and is not done, and why."""
        remarks, self._remarks = self._remarks, []
        return remarks

    def _compile(self, inputs: Inputs) -> None:
        """Compile the UNet, if that pays and works for these inputs."""
        self._is_to_compile, mode, update = False, self._config.compile, self._update
        assert mode != "off", "it is asked for"
        reason = too_few_updates(mode, self._updates)
        if reason is None:
            reason = compile_if_equal(update.gradients, update.batch(inputs), mode)
        if reason is not None:
            self._remarks.append(f"Training without compiling: {reason}.")

    def _capture(self, inputs: Inputs, rates: Sequence[float]) -> None:
        """Capture an update as one graph, if that works. On a CPU there is nothing to gain, and nothing to say."""
        self._is_to_capture = False
        if self._device.type != "cuda":
            return
        reason = "several processes train together"
        if self._processes.count == 1:
            first, update = (*inputs, torch.tensor(rates, device=self._device)), self._update
            try:
                self._captured = CapturedUpdate(lambda t: update(Inputs(*t[:-1]), t[-1]), first, update.tensors())
            except RuntimeError as error:  # an error of memory is one too, and an update without a graph needs less
                reason = " ".join(str(error).split())[:200]
            else:
                return
            # The memory of what was captured can be given back only here, where the error no longer refers to it.
            torch.cuda.empty_cache()
        self._remarks.append(f"Training without a CUDA graph: {reason}.")
