"""Which settings of one adapter exclude each other, though each of them is right by itself."""

import re
from collections.abc import Iterator

from lora_engine.config.adapter import LoraConfig
from lora_engine.config.optimizer import ProdigyConfig, ScheduleFreeAdamWConfig
from lora_engine.config.training import TrainingConfig

_SPATIAL = re.compile(r"(.+\.)?conv[12]?")  # ends of names of convolutions of 3x3


def exclusions(lora: LoraConfig, training: TrainingConfig) -> Iterator[tuple[str, str, str]]:
    """The key of a setting that does not go with another one, what stands there, and what may."""
    yield from _of_layers(lora)
    yield from _of_text_encoder(lora, training)
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


def _of_layers(lora: LoraConfig) -> Iterator[tuple[str, str, str]]:
    targets = lora.target_modules
    if lora.init_from is not None and "target_modules" not in lora.model_fields_set:
        return  # The file says the layers, and what is said here has to agree with it.
    if targets == "full" or (isinstance(targets, tuple) and any(map(_SPATIAL.fullmatch, targets))):
        return
    named = targets if isinstance(targets, str) else f"[{', '.join(targets)}]"
    for key, value in (("conv_rank", lora.conv_rank), ("conv_alpha", lora.conv_alpha)):
        if value is not None:
            yield (
                f"lora.{key}",
                f"{value:g} with lora.target_modules {named}, which has no convolutions of 3x3",
                "null; or lora.target_modules: full, or a list with conv1 and conv2",
            )


def _of_text_encoder(lora: LoraConfig, training: TrainingConfig) -> Iterator[tuple[str, str, str]]:
    text, optimizer = lora.text_encoder, training.optimizer
    if text is None:
        return
    key, name = "lora.text_encoder", optimizer.name
    if isinstance(optimizer, ProdigyConfig):
        why = "since prodigy finds one rate for all weights of an adapter; or another training.optimizer"
        if text.learning_rate is not None:
            yield f"{key}.learning_rate", f"{text.learning_rate:g} with the optimizer {name}", f"null, {why}"
        if text.stop_after is not None:
            yield f"{key}.stop_after", f"{text.stop_after} with the optimizer {name}", f"null, {why}"
    elif isinstance(optimizer, ScheduleFreeAdamWConfig) and text.stop_after is not None:
        yield (
            f"{key}.stop_after",
            f"{text.stop_after} with the optimizer {name}",
            "null, since that optimizer's average of the weights goes on; or another training.optimizer",
        )
