"""The choice among optimizers.

Shape legend: P weights of one adapter.
"""

from torch import Tensor

from lora_engine.config.optimizer import (
    AdamWConfig,
    AnyOptimizer,
    LionConfig,
    ProdigyConfig,
    ScheduleFreeAdamWConfig,
    SgdConfig,
)
from lora_engine.training.optimizers.adamw import AdamW, FusedAdamW
from lora_engine.training.optimizers.lion import Lion
from lora_engine.training.optimizers.prodigy import Prodigy
from lora_engine.training.optimizers.row import RowOptimizer
from lora_engine.training.optimizers.schedule_free import ScheduleFreeAdamW
from lora_engine.training.optimizers.sgd import Sgd


def make_optimizer(
    weights_P: Tensor, gradient_P: Tensor, config: AnyOptimizer, rate_factors_P: Tensor | None
) -> RowOptimizer:
    """Make the optimizer of one adapter.

    Args:
        weights_P: contiguous, as the training begins; updated in place.
        gradient_P: contiguous; read in every step.
        rate_factors_P: the factor of each weight's learning rate, as LoRA+ has it (Hayou et al., arXiv 2402.12354);
            None where all are 1, and for Prodigy, whose one d is of all weights.
    """
    match config:
        case AdamWConfig() if rate_factors_P is None:
            return FusedAdamW(weights_P, gradient_P, config)
        case AdamWConfig():
            return AdamW(weights_P, gradient_P, config, rate_factors_P)
        case LionConfig():
            return Lion(weights_P, gradient_P, config, rate_factors_P)
        case ProdigyConfig():
            assert rate_factors_P is None
            return Prodigy(weights_P, gradient_P, config)
        case ScheduleFreeAdamWConfig():
            return ScheduleFreeAdamW(weights_P, gradient_P, config, rate_factors_P)
        case SgdConfig():
            return Sgd(weights_P, gradient_P, config, rate_factors_P)
