"""The settings of how gradients become updates."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from lora_engine.config.base import Config, named

_Rate = Annotated[float, Field(gt=0, le=1, description="At its peak; the schedule says the rest.")]
_Decay = Annotated[
    float, Field(ge=0, le=1, description="Each update takes this share, times the learning rate, off every weight.")
]
_Momentum = Annotated[float, Field(ge=0, lt=1, description="How much of the mean of gradients an update keeps.")]
_Squares = Annotated[float, Field(ge=0, lt=1, description="How much of the mean of squared gradients an update keeps.")]
# Where a weight has had no gradient, this alone (times d in Prodigy) keeps the quotient from being 0/0, also in fp32.
_Epsilon = Annotated[float, Field(ge=1e-20, description="Added to the root of the mean of squared gradients.")]


class AdamWConfig(Config):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101)."""

    name: Literal["adamw"] = "adamw"
    learning_rate: _Rate = 1e-4
    weight_decay: _Decay = 0.01
    beta1: _Momentum = 0.9
    beta2: _Squares = 0.999
    epsilon: _Epsilon = 1e-8


class LionConfig(Config):
    """The sign of momentum (Chen et al., arXiv 2302.06675), for a smaller rate and a larger decay than AdamW."""

    name: Literal["lion"]
    learning_rate: _Rate = 3e-5
    weight_decay: _Decay = 0.03
    beta1: float = Field(default=0.9, ge=0, lt=1, description="How much of the mean an update's direction keeps.")
    beta2: _Momentum = 0.99


class ProdigyConfig(Config):
    """Adam that finds its own learning rate d (Mishchenko and Defazio, arXiv 2306.06101)."""

    name: Literal["prodigy"]
    learning_rate: float = Field(default=1.0, gt=0, le=10, description="A factor of d; tune d_coef instead.")
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="See decouple.")
    decouple: bool = Field(
        default=True, description="Decay as AdamW does; false adds weight_decay times the weights to the gradient."
    )
    beta1: _Momentum = 0.9
    beta2: _Squares = 0.999
    beta3: float | None = Field(
        default=None, ge=0, lt=1, description="How much of its statistics d keeps; null is the root of beta2."
    )
    epsilon: _Epsilon = 1e-8
    d0: float = Field(default=1e-6, ge=1e-12, le=1, description="d in the first update.")
    d_coef: float = Field(default=1.0, gt=0, le=100, description="A factor of every estimate of d.")
    growth_rate: float | None = Field(
        default=None, gt=1, description="d grows to this multiple at most in an update; null does not limit it."
    )
    use_bias_correction: bool = Field(default=False, description="Adam's correction of its means in early updates.")
    safeguard_warmup: bool = Field(
        default=False, description="Keep the schedule's warm-up from raising the estimate of d."
    )


class ScheduleFreeAdamWConfig(Config):
    """AdamW that averages its weights in place of a falling rate (Defazio et al., arXiv 2405.15682)."""

    name: Literal["schedule_free_adamw"]
    learning_rate: _Rate = 2.5e-4
    weight_decay: _Decay = 0.01
    # The average is found by a division by this, so were it less, rounding errors would rule the average.
    beta1: float = Field(
        default=0.9, ge=0.01, lt=1, description="How near to the average the weights are at which gradients are taken."
    )
    beta2: _Squares = 0.999
    epsilon: _Epsilon = 1e-8


class SgdConfig(Config):
    """Gradient descent with momentum and decoupled weight decay (SGDW of arXiv 1711.05101)."""

    name: Literal["sgd"]
    learning_rate: _Rate = 0.01
    weight_decay: _Decay = 0.0
    momentum: float = Field(default=0.9, ge=0, lt=1, description="How much of the sum of gradients an update keeps.")
    nesterov: bool = Field(default=False, description="Look one update ahead along the momentum.")


def _whole(value: Any) -> Any:
    """The settings as they are.

    Raises:
        ValueError: they ask for an optimizer of 8 bits.
    """
    name = value.get("name") if isinstance(value, Mapping) else None
    squeezed = name.lower().replace("_", "").replace("-", "") if isinstance(name, str) else ""
    if squeezed.endswith("8bit"):
        whole = next((kind for kind in ("lion", "sgd") if kind in squeezed), "adamw")
        raise ValueError(
            f"name: {whole} in place of {name}: its state is some megabytes an adapter, of which 8 bits would save "
            "three quarters and no more (9.6 MB at rank 8 of adamw), and members of a pack would share blocks of them"
        )
    return value


AnyOptimizer = AdamWConfig | LionConfig | ProdigyConfig | ScheduleFreeAdamWConfig | SgdConfig
OptimizerConfig = Annotated[AnyOptimizer, Field(discriminator="name"), BeforeValidator(_whole), named("adamw")]
