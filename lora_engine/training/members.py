"""The members of a pack: which of them still train, and all that continuing each of them needs."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lora_engine.adapters import lora
from lora_engine.config.optimizer import AdamWConfig
from lora_engine.dataset.draws import PackMember
from lora_engine.training.weights import Moments, PackWeights

_NEVER = -1  # stands for "not frozen" in a state, which holds tensors alone


class PackMembers:
    """The members of a pack, of which some may have diverged.

    Those are frozen: they keep their weights and moments, and take no part in updates. The others are active, and
    `weights` gathers theirs.

    Args:
        unet: it has had an adapter injected for every member.
        members: in the pack's order, by which a member's place counts from 0.
    """

    def __init__(self, unet: nn.Module, members: Sequence[PackMember], optimizer: AdamWConfig) -> None:
        self.all = tuple(members)
        self.seeds = tuple(dict.fromkeys(member.seed for member in members))  # distinct, in the order of the members
        self.frozen_at: dict[str, int] = {}  # name of a frozen member to the step at which it was frozen
        self._refused = {member.name: 0 for member in members}  # updates refused by the member's own fault
        self._resting: Mapping[str, Moments] = {}  # name of a frozen member to its moments
        self._unet, self._optimizer = unet, optimizer
        self._gather({})

    @property
    def active(self) -> tuple[PackMember, ...]:
        """The members that are not frozen."""
        return tuple(member for member in self.all if member.name not in self.frozen_at)

    @property
    def active_places(self) -> list[int]:
        """The places of the active members in the pack."""
        return [place for place, member in enumerate(self.all) if member.name not in self.frozen_at]

    @property
    def active_seeds(self) -> list[int]:
        """The place of each active member's seed among the distinct seeds."""
        return [self.seeds.index(member.seed) for member in self.active]

    def freeze(self, name: str, step: int) -> None:
        """Let a member keep its weights from this step on. `weights` is another object afterwards."""
        moments = {member.name: self._moments(member.name) for member in self.all}
        self.frozen_at[name] = step
        self._gather(moments)

    def count_refused(self, place: int) -> int:
        """Remember that an update was refused by the fault of the member at this place; how many were so far."""
        name = self.all[place].name
        self._refused[name] += 1
        return self._refused[name]

    def diverged(self, max_refused: int) -> list[str]:
        """The names of the active members by whose fault more than `max_refused` updates were refused."""
        return [member.name for member in self.active if self._refused[member.name] > max_refused]

    def state(self, name: str) -> dict[str, Tensor]:
        """The tensors that continuing one member needs, live: its counters, weights and moments."""
        state = {
            "skipped": torch.tensor(self._refused[name]),
            "frozen_at": torch.tensor(self.frozen_at.get(name, _NEVER)),
        }
        state |= with_prefix("adapter.", {k: w.detach() for k, w in lora.parameters(self._unet, name).items()})
        return state | with_prefix("optimizer.", self._moments(name))

    def restore(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue from what `state` gave for every member. `weights` is another object afterwards.

        Raises:
            ValueError, KeyError, RuntimeError: a state lacks something, or is that of another adapter.
        """
        for name, state in states.items():
            lora.load(self._unet, name, under_prefix("adapter.", state))
            self._refused[name] = int(state["skipped"])
            if int(state.get("frozen_at", _NEVER)) != _NEVER:
                self.frozen_at[name] = int(state["frozen_at"])
        self._gather({name: under_prefix("optimizer.", state) for name, state in states.items()})

    def _moments(self, name: str) -> Moments:
        return self._resting[name] if name in self._resting else self.weights.moments(name)

    def _gather(self, moments: Mapping[str, Moments]) -> None:
        """Gather the weights of the active members anew, with these moments; none are those of a new optimizer."""
        self._resting = {name: moments[name] for name in self.frozen_at}
        names = [member.name for member in self.active]
        if not names:
            return
        self.weights = PackWeights(self._unet, names, self._optimizer)
        for name in names:
            if name in moments:
                self.weights.load_moments(name, moments[name])


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, each name behind the prefix."""
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
