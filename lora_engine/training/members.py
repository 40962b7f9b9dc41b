"""The members of a pack: which of them still train, and all that continuing each of them needs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lora_engine.adapters import lora
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.training import TrainingConfig
from lora_engine.dataset.draws import PackMember, views_of
from lora_engine.training.loss_scale import LossScale
from lora_engine.training.weights import PackWeights, Row

_NEVER = -1  # stands for "not frozen" in a state, which holds tensors alone


@dataclass(frozen=True)
class MemberConfig:
    """The settings that one member trains with; those that shape a pass are equal in all of a pack."""

    lora: LoraConfig
    training: TrainingConfig


class PackMembers:
    """The members of a pack, of which some may have diverged, and others may have done all of their steps.

    Those keep their weights and moments, and take no part in updates. The others are active, and `weights` gathers
    theirs.

    Args:
        unet: it has had an adapter injected for every member.
        members: in the pack's order, by which a member's place counts from 0.
        configs: of the members, in their order.
        half_precision: the UNet computes in fp16, so losses are scaled.
    """

    def __init__(
        self, unet: nn.Module, members: Sequence[PackMember], configs: Sequence[MemberConfig], *, half_precision: bool
    ) -> None:
        self.all, self.configs = tuple(members), tuple(configs)
        self.seeds = tuple(dict.fromkeys(member.seed for member in members))  # distinct, in the order of the members
        self.views = views_of(members)
        self.frozen_at: dict[str, int] = {}  # name of a frozen member to the step at which it was frozen
        self.step = 0  # updates that the pack has done
        self._refused = {member.name: 0 for member in members}  # updates refused by the member's own fault
        self._homes: dict[str, _Home] = {}  # name of a member to where its row is
        self._unet, self._half_precision = unet, half_precision
        self._gather()

    def _is_active(self, place: int) -> bool:
        """Whether the member at this place of the pack takes part in the next update."""
        return self.all[place].name not in self.frozen_at and self.step < self.configs[place].training.last_step

    @property
    def active(self) -> tuple[PackMember, ...]:
        """The members that take part in the next update."""
        return tuple(self.all[place] for place in self.active_places)

    @property
    def active_places(self) -> list[int]:
        """The places of the active members in the pack."""
        return [place for place in range(len(self.all)) if self._is_active(place)]

    @property
    def active_views(self) -> list[int]:
        """The place of each active member's view among the distinct views."""
        return [self.views.index(member.view) for member in self.active]

    def _step_of(self, place: int) -> int:
        """The updates that the member at this place of the pack has done, or was there for while it was frozen."""
        return min(self.step, self.configs[place].training.last_step)

    def freeze(self, name: str) -> None:
        """Let a member keep its weights from its step on. `weights` may be another object afterwards."""
        self.frozen_at[name] = self._step_of(self._place(name))
        self._gather_if_any_is_active()

    def advance(self) -> bool:
        """Count an update; whether a member has done its last, or that of its text encoder.

        Then `weights` may be another object afterwards.
        """
        before = self.active_places
        self.step += 1
        has_an_end = self.active_places != before or any(self._ends_text_encoder(place) for place in before)
        if has_an_end:
            self._gather_if_any_is_active()
        return has_an_end

    def _ends_text_encoder(self, place: int) -> bool:
        """Whether the update just done is the last of this member's text encoder."""
        text_encoder = self.configs[place].lora.text_encoder
        return text_encoder is not None and text_encoder.stop_after == self.step

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, members whose averaged weights are those to use have them in place of those that are trained."""
        with ExitStack() as stack:
            for home in {id(home): home for home in self._homes.values()}.values():
                stack.enter_context(home.weights.averaged())
            yield

    def count_refused(self, place: int) -> int:
        """Remember that an update was refused by the fault of the member at this place; how many were so far."""
        name = self.all[place].name
        self._refused[name] += 1
        return self._refused[name]

    def diverged(self) -> list[str]:
        """The names of the members that had more updates refused than their settings allow, and are not frozen yet."""
        allowed = {m.name: config.training.max_skipped_steps for m, config in zip(self.all, self.configs, strict=True)}
        return [name for name, most in allowed.items() if name not in self.frozen_at and self._refused[name] > most]

    def state(self, name: str) -> dict[str, Tensor]:
        """The tensors that continuing one member needs, live: its counters, weights, moments and loss scale."""
        state = {
            "step": torch.tensor(self._step_of(self._place(name))),
            "skipped": torch.tensor(self._refused[name]),
            "frozen_at": torch.tensor(self.frozen_at.get(name, _NEVER)),
        }
        state |= with_prefix("adapter.", {k: w.detach() for k, w in lora.parameters(self._unet, name).items()})
        return state | self._row_state(name)

    def restore(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue from what `state` gave for every member, all at the same step of the pack.

        `weights` is another object afterwards.

        Raises:
            ValueError, KeyError, RuntimeError: a state lacks something, or is that of another adapter.
        """
        steps = {name: int(state["step"]) for name, state in states.items()}
        self.step = max(steps.values())
        ends = {m.name: config.training.last_step for m, config in zip(self.all, self.configs, strict=True)}
        if steps != {name: min(self.step, end) for name, end in ends.items()}:
            raise ValueError(f"a pack of {sorted(ends)} cannot continue from {steps}")
        for name, state in states.items():
            lora.load(self._unet, name, under_prefix("adapter.", state))
            self._refused[name] = int(state["skipped"])
            if int(state.get("frozen_at", _NEVER)) != _NEVER:
                self.frozen_at[name] = int(state["frozen_at"])
        self._gather(states)

    def _place(self, name: str) -> int:
        """Where a member stands in the pack."""
        return [member.name for member in self.all].index(name)

    def _row_state(self, name: str) -> dict[str, Tensor]:
        """All but a member's weights and counters, live: its optimizer's state and its loss scale."""
        home = self._homes[name]
        state = with_prefix("optimizer.", home.weights.moments(name))
        return state | with_prefix("loss_scale.", home.scale.state(home.names.index(name)))

    def _gather_if_any_is_active(self) -> None:
        """Gather the rows anew, unless nobody computes with them any more: then all stay where they are."""
        if self.active:
            self._gather()

    def _gather(self, states: Mapping[str, Mapping[str, Tensor]] | None = None) -> None:
        """Gather the rows of the active members anew, and give each of the others one of its own.

        Args:
            states: what they continue from; None for what they are now.
        """
        if states is None:
            states = {name: self._row_state(name) for name in self._homes}
        active = tuple(member.name for member in self.active)
        resting = [(member.name,) for member in self.all if member.name not in active]
        for names in [active, *resting] if active else resting:
            home = self._home(names)
            for k, name in enumerate(names):
                if name in states:
                    home.weights.load_moments(name, under_prefix("optimizer.", states[name]))
                    home.scale.load(k, under_prefix("loss_scale.", states[name]))
            self._homes |= dict.fromkeys(names, home)
            if names == active:
                self.weights, self.scale = home.weights, home.scale

    def _home(self, names: tuple[str, ...]) -> "_Home":
        """New rows for these members, as their weights are now."""
        configs = {member.name: config for member, config in zip(self.all, self.configs, strict=True)}
        rows = [_row(name, configs[name], self.step) for name in names]
        device = next(self._unet.parameters()).device
        return _Home(names, PackWeights(self._unet, rows), LossScale(device, len(names), enabled=self._half_precision))


@dataclass(frozen=True)
class _Home:
    """Where the rows of some members are: all of those that are active, or one other."""

    names: tuple[str, ...]
    weights: PackWeights
    scale: LossScale


def _row(name: str, config: MemberConfig, step: int) -> Row:
    """How a member's weights are updated after so many updates."""
    training, text_encoder = config.training, config.lora.text_encoder
    row = Row(name, training.optimizer, config.lora.plus_ratio, training.max_grad_norm, training.ema)
    if text_encoder is None or (text_encoder.learning_rate is None and text_encoder.stop_after is None):
        return row
    rate = training.optimizer.learning_rate
    return replace(
        row,
        text_encoder_rate=(text_encoder.learning_rate or rate) / rate,
        is_text_encoder_done=text_encoder.stop_after is not None and step >= text_encoder.stop_after,
    )


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, each name behind the prefix."""
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
