"""Prodigy (Mishchenko and Defazio, arXiv 2306.06101, algorithm 4), as prodigyopt 1.1.2 computes it.

Shape legend: P weights of one adapter.
"""

import math

import torch
from torch import Tensor

from lora_engine.config.optimizer import ProdigyConfig
from lora_engine.training.optimizers.row import OwnArithmetic, bias_correction, count, scalar


class Prodigy(OwnArithmetic):
    """Adam whose learning rate is a multiple of d, the distance to the best weights as it is estimated so far.

    d stays on the device: prodigyopt fetches two sums in every update, which would wait for it and break a CUDA graph.

    Args:
        weights_P: as the training begins, which is what distances are measured from; a continued one gets its state
            copied into `state()`.
    """

    def __init__(self, weights_P: Tensor, gradient_P: Tensor, config: ProdigyConfig) -> None:
        state = {
            "step": count(weights_P),
            "exp_avg": torch.zeros_like(weights_P),
            "exp_avg_sq": torch.zeros_like(weights_P),
            "p0": weights_P.detach().clone(),
            "s": torch.zeros_like(weights_P),
            "d": scalar(config.d0, weights_P),
            "d_max": scalar(config.d0, weights_P),
            "d_numerator": scalar(0.0, weights_P),
        }
        super().__init__(weights_P, gradient_P, None, state)
        self._config = config
        self._beta3 = math.sqrt(config.beta2) if config.beta3 is None else config.beta3

    def measured(self) -> dict[str, Tensor]:
        """The estimate `d`, by which the learning rate is to be multiplied."""
        return {"d": self._state["d"]}

    @torch.no_grad()
    def step(self, rate: float | Tensor, refuse: Tensor) -> None:
        """See `RowOptimizer`. Nothing happens, either, while there has been no gradient, or where the rate is 0."""
        config, state, weights_P = self._config, self._state, self._weights_P
        coupled, decoupled = (0.0, config.weight_decay) if config.decouple else (config.weight_decay, 0.0)
        gradient_P = self._gradient_P + coupled * weights_P
        step, d = state["step"] + 1, state["d"]
        own_rate = d * rate * self._correction(step)
        numerator, s_P = self._distance_statistics(gradient_P, own_rate)
        denominator = s_P.abs().sum(dtype=torch.float64)
        new_d, d_max = self._estimate(numerator / denominator)
        exp_avg_P = state["exp_avg"].lerp(d * gradient_P, 1 - config.beta1)
        exp_avg_sq_P = state["exp_avg_sq"].lerp((d * gradient_P).square(), 1 - config.beta2)
        direction_P = exp_avg_P / (exp_avg_sq_P.sqrt() + new_d * config.epsilon)
        self._write(
            refuse | (denominator == 0) | (rate == 0),
            weights_P * (1 - decoupled * own_rate) - own_rate * direction_P,
            step=step,
            exp_avg=exp_avg_P,
            exp_avg_sq=exp_avg_sq_P,
            s=s_P,
            d=new_d,
            d_max=d_max,
            d_numerator=numerator,
        )

    def _correction(self, step: Tensor) -> float | Tensor:
        """The factor of the rate that makes up for the zeros with which Adam's means begin."""
        if not self._config.use_bias_correction:
            return 1.0
        return bias_correction(self._config.beta2, step).sqrt() / bias_correction(self._config.beta1, step)

    def _distance_statistics(self, gradient_P: Tensor, own_rate: Tensor) -> tuple[Tensor, Tensor]:
        """The numerator of the distance's estimate, and s, whose sum of magnitudes is the denominator.

        Both are in units of d0, as the library has them, which keeps s from underflow in float32.
        """
        state, d = self._state, self._state["d"]
        relative = d / self._config.d0
        inner = (gradient_P * (state["p0"] - self._weights_P)).sum(dtype=torch.float64)
        numerator = self._beta3 * state["d_numerator"] + relative * own_rate * inner
        weight = relative * (d if self._config.safeguard_warmup else own_rate)
        return numerator, self._beta3 * state["s"] + weight * gradient_P

    def _estimate(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """The next d, which never falls, and the largest estimate so far."""
        config, d = self._config, self._state["d"]
        estimate = config.d_coef * distance
        begun = torch.where(d == config.d0, torch.maximum(d, estimate), d)
        d_max = torch.maximum(self._state["d_max"], estimate)
        return (d_max if config.growth_rate is None else torch.minimum(d_max, begun * config.growth_rate)), d_max
