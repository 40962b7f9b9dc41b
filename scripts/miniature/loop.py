"""A training loop that goes on where it was killed. Randomness is a function of (seed, stage, step) alone."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Recipe:
    """How long and how fast a model learns: AdamW, linear warm-up, cosine decay to 0, and once more with `cycles`."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 100
    weight_decay: float = 0.01
    ema_decay: float | None = None
    cycles: int = 1


def generator(*names: object) -> torch.Generator:
    """A generator seeded by names and numbers."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def train(
    name: str,
    model: nn.Module,
    loss_of: Callable[[torch.Generator], Tensor],
    recipe: Recipe,
    folder: Path,
    seed: int,
    save_seconds: float = 60,
) -> None:
    """Train `model` in place; with `ema_decay`, it ends up holding the average of its weights.

    The state is saved every `save_seconds` and at the end, whole or not at all, and progress is printed as a JSON line.
    """
    state = _State(model, recipe, folder / f"{name}.safetensors")
    model.train()
    saved, losses = time.monotonic(), []
    while state.step < recipe.steps:
        loss = loss_of(generator(seed, name, state.step))
        state.update(loss)
        losses.append(loss.item())
        now = time.monotonic()
        if state.step == recipe.steps or now - saved > save_seconds:
            state.save()
            mean, rate = sum(losses) / len(losses), (now - saved) / len(losses)
            print(json.dumps({"stage": name, "step": state.step, "loss": mean, "seconds_per_step": rate}), flush=True)
            saved, losses = now, []
    state.finish()
    model.eval()


class _State:
    def __init__(self, model: nn.Module, recipe: Recipe, path: Path) -> None:
        self._recipe, self._path = recipe, path
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(),
            recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            betas=(0.9, 0.98),
            fused=True,
        )
        self._average = {name: p.detach().clone() for name, p in self._parameters.items()}
        self.step = 0
        if path.exists():
            self._load()

    def update(self, loss: Tensor) -> None:
        recipe = self._recipe
        warm = min(1.0, (self.step + 1) / recipe.warmup_steps)
        cycle = recipe.steps // recipe.cycles
        decay = 0.5 * (1 + math.cos(math.pi * (self.step % cycle) / cycle))
        self._optimizer.param_groups[0]["lr"] = recipe.learning_rate * warm * decay
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters.values(), 1.0)
        self._optimizer.step()
        self.step += 1
        if recipe.ema_decay is not None:
            # a young average forgets its random start faster
            decay = min(recipe.ema_decay, self.step / (self.step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(list(self._average.values()), list(self._parameters.values()), 1 - decay)

    def save(self) -> None:
        tensors = {}
        for name, parameter in self._parameters.items():
            moments = self._optimizer.state[parameter]
            tensors |= {
                f"weights/{name}": parameter.detach().contiguous(),
                f"average/{name}": self._average[name].contiguous(),
                f"exp_avg/{name}": moments["exp_avg"].contiguous(),
                f"exp_avg_sq/{name}": moments["exp_avg_sq"].contiguous(),
            }
        partial = self._path.with_suffix(".partial")
        save_file(tensors, partial, metadata={"step": str(self.step)})
        partial.replace(self._path)

    def _load(self) -> None:
        with safe_open(self._path, framework="pt") as file:
            self.step = int(file.metadata()["step"])
            for name, parameter in self._parameters.items():
                parameter.data.copy_(file.get_tensor(f"weights/{name}"))
                self._average[name].copy_(file.get_tensor(f"average/{name}"))
                self._optimizer.state[parameter] = {
                    "step": torch.tensor(float(self.step)),
                    # the fused kernel wants the moments laid out in memory as the parameter is
                    "exp_avg": torch.empty_like(parameter.detach()).copy_(file.get_tensor(f"exp_avg/{name}")),
                    "exp_avg_sq": torch.empty_like(parameter.detach()).copy_(file.get_tensor(f"exp_avg_sq/{name}")),
                }

    def finish(self) -> None:
        if self._recipe.ema_decay is not None:
            for name, parameter in self._parameters.items():
                parameter.data.copy_(self._average[name])
