"""The training loop: a pack of adapters over one frozen UNet, updated in lockstep."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from typing import Any, cast

import torch
from torch import Tensor, nn

from lora_engine.config.training import require_shared
from lora_engine.dataset.draws import Draws, PackMember
from lora_engine.dataset.encoded import TrainingData
from lora_engine.diffusion import NoiseSchedule
from lora_engine.records import StepRecord
from lora_engine.system.distributed import ALONE, Processes
from lora_engine.system.prefetch import prefetch
from lora_engine.training.fast_update import FastUpdate
from lora_engine.training.gradients import Batch, PackGradients
from lora_engine.training.inputs import InputReader, ReadInputs
from lora_engine.training.losses import PackLosses
from lora_engine.training.lr_schedule import learning_rate
from lora_engine.training.members import MemberConfig, PackMembers
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
        configs: of the members, in their order. What shapes a pass is equal in all, see `SHARED`.
        half_precision: the UNet computes in fp16, so losses are scaled.
    """

    def __init__(
        self,
        unet: nn.Module,
        members: Sequence[PackMember],
        data: TrainingData,
        noise_schedule: NoiseSchedule,
        configs: Sequence[MemberConfig],
        *,
        half_precision: bool = False,
        processes: Processes = ALONE,
    ) -> None:
        require_shared([config.training for config in configs])
        shared = configs[0].training
        self._processes, self._device, self._images_per_step = processes, data.device, shared.images_per_step
        self._steps = max(config.training.last_step for config in configs)
        self._members = PackMembers(unet, members, configs, half_precision=half_precision)
        draws = Draws(
            seeds=self._members.seeds,
            image_ids=data.image_ids,
            latent_shape=data.latent_shape,
            images_per_step=shared.images_per_step,
            num_train_timesteps=noise_schedule.num_train_timesteps,
            flips=data.flips,
            views=self._members.views,
        )
        self._reader = InputReader(data, members, draws, processes.local_slice(shared.images_per_step))
        whole = MicroBatches(shared.batch_size, len(members))
        self._gradients = PackGradients(unet, shared.images_per_step, whole)
        self._update = PackUpdate(self._gradients, data, noise_schedule, processes)
        self._fast_update = FastUpdate(self._update, shared, self._steps, processes, data.device)
        self._remarks: list[str] = []
        self._take_up_the_active()

    @property
    def step(self) -> int:
        """How many updates were done, by members that have not done all of theirs."""
        return self._members.step

    @property
    def active(self) -> tuple[PackMember, ...]:
        """The members that take part in the next update."""
        return self._members.active

    @property
    def frozen_at(self) -> Mapping[str, int]:
        """Name to step, of the members that have diverged and train no more."""
        return self._members.frozen_at

    @property
    def micro_batches(self) -> MicroBatches:
        """The way in which updates are cut up."""
        return self._gradients.micro_batches

    def run(self, last_step: int, stop: Callable[[], bool]) -> Iterator[dict[str, StepRecord]]:
        """Update up to and including `last_step`, or until `stop` says so, yielding the members' records of every step.

        A member that had more updates refused by its own fault than its settings allow is frozen, and one that has done
        its last takes no further part; ends when none is left. Of several processes, all stop when one is told to.
        """
        log = StepLog(self._members, self._images_per_step, self._remarks)
        if self.active:
            self._members.weights.select()
        with closing(prefetch(self._reader.read, range(self.step + 1, last_step + 1), _READ_AHEAD)) as reads:
            while self.step < last_step and self.active and not self._processes.any(stop()):
                has_an_end = self._update_once(next(reads), log)
                is_divergence_due = self.step % _DIVERGENCE_STEPS == 0 or has_an_end
                if is_divergence_due or log.is_due:
                    yield from log.flush()
                if is_divergence_due:
                    self._freeze_the_diverged()
        yield from log.flush()

    def _update_once(self, read: ReadInputs, log: StepLog) -> bool:
        """Update; whether a member has done its last step."""
        places = self._members.active_places
        rates = [learning_rate(self._members.configs[place].training, read.step) for place in places]
        log.add(read.step, self._fast_update(self._reader.place(read, places), rates), read.hashes)
        has_an_end = self._members.advance()
        if has_an_end:
            self._take_up_the_active()
        return has_an_end

    def _freeze_the_diverged(self) -> None:
        for name in self._members.diverged():
            self.freeze(name)

    def freeze(self, name: str) -> None:
        """Let a member that has diverged keep its weights from here on, or since its last step; the others go on."""
        self._members.freeze(name)
        self._take_up_the_active()

    def _take_up_the_active(self) -> None:
        """Let updates be those of the members that are active now."""
        if self.active:
            views = torch.tensor(self._members.active_views, device=self._device)
            configs = [self._members.configs[place] for place in self._members.active_places]
            losses = PackLosses([config.training for config in configs], self._update.noise_schedule)
            shares = [config.lora.dropout for config in configs]
            dropout = torch.tensor(shares, device=self._device) if any(shares) else None
            self._members.weights.select()
            self._gradients.set_members(self._members.weights, self._members.scale, losses, views, dropout)
            self._fast_update.capture_anew()

    def averaged(self) -> AbstractContextManager[None]:
        """Within, members whose averaged weights are those to score and export have these."""
        return self._members.averaged()

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
        state = self._members.state(name)
        return {key: value.to("cpu", copy=True).contiguous() for key, value in state.items()}

    def restore(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue from what `state` gave for every member, all at the same step of the pack.

        Raises:
            ValueError: a state lacks something, or is that of another pack.
        """
        try:
            self._members.restore(states)
            self._take_up_the_active()
        except (KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"a state does not fit this pack: {error}") from error
