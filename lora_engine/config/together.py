"""Which settings of one adapter exclude each other, though each of them is right by itself."""

from collections.abc import Iterator

from lora_engine.config.adapter import LoraConfig
from lora_engine.config.optimizer import ProdigyConfig, ScheduleFreeAdamWConfig
from lora_engine.config.training import TrainingConfig


def exclusions(lora: LoraConfig, training: TrainingConfig) -> Iterator[tuple[str, str, str]]:
    """The key of a setting that does not go with another one, what stands there, and what may."""
    optimizer = training.optimizer
    if isinstance(optimizer, ProdigyConfig) and lora.plus_ratio is not None:
        yield (
            "lora.plus_ratio",
            f"{lora.plus_ratio:g} with the optimizer prodigy",
            "null, since prodigy finds one rate for all weights; or another training.optimizer",
        )
    if isinstance(optimizer, ScheduleFreeAdamWConfig) and training.ema is not None:
        yield (
            "training.ema",
            "an average with the optimizer schedule_free_adamw",
            "null, since that optimizer averages the weights itself; or another training.optimizer",
        )
    if lora.dropout and training.compile != "off":
        yield (
            "training.compile",
            f"{training.compile} with lora.dropout {lora.dropout:g}",
            "off, since dropout draws anew for every update; or lora.dropout: 0",
        )
    text_encoder = lora.text_encoder
    if text_encoder is not None and isinstance(optimizer, ProdigyConfig | ScheduleFreeAdamWConfig):
        why = (
            "prodigy finds one rate for all weights"
            if isinstance(optimizer, ProdigyConfig)
            else "schedule_free_adamw averages all weights on"
        )
        keys = ("learning_rate", "stop_after") if isinstance(optimizer, ProdigyConfig) else ("stop_after",)
        for key in keys:
            if (value := getattr(text_encoder, key)) is not None:
                yield f"lora.text_encoder.{key}", f"{value:g}", f"null, since {why}; or another training.optimizer"
    for key in ("conv_rank", "conv_alpha"):
        if getattr(lora, key) is not None and isinstance(lora.target_modules, str) and lora.target_modules != "full":
            yield (
                f"lora.{key}",
                f"{getattr(lora, key):g} with lora.target_modules {lora.target_modules}",
                "null, since none of these layers is a convolution of 3x3; or lora.target_modules: full",
            )
