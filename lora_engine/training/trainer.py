"""The training loop: a pack of adapters over one frozen UNet, updated in lockstep."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, cast

import torch
from torch import Tensor, nn

from lora_engine.config.training import TrainingConfig
from lora_engine.dataset.draws import Draws, PackMember
from lora_engine.dataset.encoded import TrainingData
from lora_engine.diffusion import NoiseSchedule
from lora_engine.records import StepRecord
from lora_engine.system.distributed import ALONE, Processes
from lora_engine.system.prefetch import prefetch
from lora_engine.training.fast_update import FastUpdate
from lora_engine.training.gradients import Batch, PackGradients
from lora_engine.training.inputs import InputReader, ReadInputs
from lora_engine.training.loss_scale import LossScale
from lora_engine.training.lr_schedule import learning_rate
from lora_engine.training.members import PackMembers, under_prefix, with_prefix
from lora_engine.training.micro_batches import MicroBatches
from lora_engine.training.step_log import StepLog
from lora_engine.training.update import PackUpdate

_READ_AHEAD = 3  # updates whose inputs are read before they are needed
_DIVERGENCE_STEPS = 10  # whether a member has diverged is asked at multiples, so that an interruption changes nothing


class PackTrainer:
    """Trains the adapters that `adapters.inject` put into `unet`, all in lockstep.

    The gradient of an adapter depends on its own images alone, and the loss is the sum of the members' means, so every
    member trains exactly as it would by itself.

    Of several processes that train together, each has a trainer made with equal arguments and does with it what all do.

    Args:
        half_precision: the UNet computes in fp16, so the loss is scaled.
    """

    def __init__(
        self,
        unet: nn.Module,
        members: Sequence[PackMember],
        data: TrainingData,
        noise_schedule: NoiseSchedule,
        config: TrainingConfig,
        *,
        half_precision: bool = False,
        processes: Processes = ALONE,
    ) -> None:
        self.step = 0  # updates done
        self._config, self._processes, self._device = config, processes, data.device
        self._members = PackMembers(unet, members, config.optimizer)
        draws = Draws(
            seeds=self._members.seeds,
            image_ids=data.image_ids,
            latent_shape=data.latent_shape,
            images_per_step=config.images_per_step,
            num_train_timesteps=noise_schedule.num_train_timesteps,
            flips=data.flips,
        )
        self._reader = InputReader(data, members, draws, processes.local_slice(config.images_per_step))
        self._scale = LossScale(data.device, enabled=half_precision)
        whole = MicroBatches(config.batch_size, len(members))
        self._gradients = PackGradients(unet, config.images_per_step, self._scale, whole)
        self._update = PackUpdate(self._gradients, data, noise_schedule, config.max_grad_norm, self._scale, processes)
        self._fast_update = FastUpdate(self._update, config, processes, data.device)
        self._remarks: list[str] = []
        self._take_up_the_active()

    @property
    def active(self) -> tuple[PackMember, ...]:
        """The members that are not frozen."""
        return self._members.active

    @property
    def frozen_at(self) -> Mapping[str, int]:
        """Name to step, of the members that have diverged and train no more."""
        return self._members.frozen_at

    @property
    def micro_batches(self) -> MicroBatches:
        """The way in which updates are cut up."""
        return self._gradients.micro_batches

    def run(self, last_step: int, stop: Callable[[], bool]) -> Iterator[tuple[StepRecord, ...]]:
        """Update up to and including `last_step`, or until `stop` says so, yielding a record a member for every step.

        A member that had more updates refused by its own fault than the configuration allows is frozen; ends when all
        of them are. Of several processes, all stop when one is told to.
        """
        log = StepLog(self._members, self._config, self._remarks)
        if self.active:
            self._members.weights.select()
        with closing(prefetch(self._reader.read, range(self.step + 1, last_step + 1), _READ_AHEAD)) as reads:
            while self.step < last_step and self.active and not self._processes.any(stop()):
                self._update_once(next(reads), log)
                is_divergence_due = self.step % _DIVERGENCE_STEPS == 0 or self.step == self._config.steps
                if is_divergence_due or log.is_due:
                    yield from log.flush()
                if is_divergence_due:
                    self._freeze_the_diverged()
        yield from log.flush()

    def _update_once(self, read: ReadInputs, log: StepLog) -> None:
        inputs = self._reader.place(read, self._members.active_places)
        numbers_4K = self._fast_update(inputs, learning_rate(self._config, read.step))
        log.add(read.step, numbers_4K, read.hashes)
        self.step += 1

    def _freeze_the_diverged(self) -> None:
        diverged = self._members.diverged(self._config.max_skipped_steps)
        for name in diverged:
            self.freeze(name)
        if diverged and self.active:
            self._members.weights.select()

    def freeze(self, name: str) -> None:
        """Let a member that has diverged keep its weights from here on; the others go on."""
        self._members.freeze(name, self.step)
        self._take_up_the_active()

    def _take_up_the_active(self) -> None:
        """Let updates be those of the members that are active now."""
        if self.active:
            seeds = torch.tensor(self._members.active_seeds, device=self._device)
            self._gradients.set_members(self._members.weights, seeds)
            self._fast_update.capture_anew()

    def image_bytes(self) -> int:
        """The bytes that one image of one member keeps for the backward pass. Computes one forward pass."""
        return self._gradients.image_bytes(self._next_batch())

    def use_micro_batches(self, micro_batches: MicroBatches) -> None:
        """Cut updates up in this way, after trying the gradients of one of them on a GPU.

        Raises:
            torch.cuda.OutOfMemoryError: they do not fit.
        """
        self._gradients.micro_batches = micro_batches
        if micro_batches.recompute:
            cast(Any, self._gradients.unet).enable_gradient_checkpointing()
        if self._device.type == "cuda":
            self._gradients.try_out(self._next_batch())

    def _next_batch(self) -> Batch:
        read = self._reader.read(self.step + 1)
        return self._update.batch(self._reader.place(read, self._members.active_places))

    def take_remarks(self) -> list[str]:
        """Hand out the remarks that are new: sentences on what was asked for and is not done, and why."""
        remarks, self._remarks[:] = [*self._fast_update.take_remarks(), *self._remarks], []
        return remarks

    def state(self, name: str) -> dict[str, Tensor]:
        """The tensors that continuing one member needs, copied to the CPU: weights, optimizer moments, counters."""
        state = {"step": torch.tensor(self.step)} | self._members.state(name)
        state |= with_prefix("loss_scale.", self._scale.state())
        return {key: value.to("cpu", copy=True).contiguous() for key, value in state.items()}

    def restore(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue from what `state` gave for every member, all at the same step.

        Raises:
            ValueError: a state lacks something, or is that of another pack.
        """
        try:
            steps, names = {int(state["step"]) for state in states.values()}, {m.name for m in self._members.all}
            if states.keys() != names or len(steps) != 1:
                raise ValueError(f"a pack of {sorted(names)} cannot continue from {sorted(states)} at {steps}")
            for state in states.values():
                self._scale.load(under_prefix("loss_scale.", state))
            self._members.restore(states)
            self.step = steps.pop()
            self._take_up_the_active()
        except (KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"a state does not fit this pack: {error}") from error
