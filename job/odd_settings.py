"""Finds settings of adapters that can hardly have been meant. Pure."""

from collections.abc import Iterator, Sequence

from job.manifest.packs import Pack
from lora_engine.config.adapter import LoraConfig


def odd_settings(packs: Sequence[Pack]) -> list[str]:
    """A warning for each alpha that was hardly chosen for its rank, and for each kind of odd schedule."""
    return [*_alphas(packs), *_odd_schedules(packs)]


def _alphas(packs: Sequence[Pack]) -> Iterator[str]:
    """A warning for each alpha that was hardly chosen for its rank.

    One that adapters of several ranks share scales them unlike; where one was left at another rank's and a rank was
    set, other trainers would take the rank. Of an adapter that starts from a file, the file says both.
    """
    plain = [each.lora for pack in packs for each in pack.variants]
    plain = [lora for lora in plain if not lora.rank_stabilized and lora.init_from is None]
    ranks: dict[float, set[int]] = {}
    for lora in plain:
        ranks.setdefault(lora.alpha, set()).add(lora.rank)
    for alpha, unlike in sorted(ranks.items()):
        if len(unlike) > 1:
            scales = ", ".join(f"{alpha / rank:g} at rank {rank}" for rank in sorted(unlike))
            yield (
                f"lora.alpha {alpha:g} scales updates by {scales}, so that not ranks alone are compared; "
                "lora.rank_stabilized: true keeps updates about as large"
            )
    for alpha_key, alpha, rank_key, rank in sorted({left for lora in plain for left in _alphas_left(lora)}):
        if alpha != rank and (alpha_key != "alpha" or len(ranks[alpha]) == 1):  # else it is said above
            yield (
                f"lora.{alpha_key} {alpha:g} at lora.{rank_key} {rank} scales the update by {alpha / rank:g}; "
                f"an alpha of {rank} scales it by 1"
            )


def _alphas_left(lora: LoraConfig) -> Iterator[tuple[str, float, str, int]]:
    """Each alpha that nobody set for a rank that somebody did: its key, its value, and those of the rank."""
    if "alpha" not in lora.model_fields_set and lora.rank != LoraConfig.model_fields["rank"].default:
        yield "alpha", lora.alpha, "rank", lora.rank
    if lora.conv_alpha is None and lora.conv_rank is not None and lora.conv_rank != lora.rank:
        yield "conv_alpha", lora.alpha, "conv_rank", lora.conv_rank
    for begin, block in lora.patterns.items():
        if block.alpha is None and block.rank is not None and block.rank != lora.rank:
            yield f"patterns.{begin}.alpha", lora.alpha, f"patterns.{begin}.rank", block.rank
    text = lora.text_encoder
    if text is not None and text.alpha is None and text.rank is not None and text.rank != lora.rank:
        yield "text_encoder.alpha", lora.alpha, "text_encoder.rank", text.rank


def _odd_schedules(packs: Sequence[Pack]) -> Iterator[str]:
    """A warning for each kind of schedule that can hardly have been meant."""
    variants = {variant.name: variant.training for pack in packs for variant in pack.variants}
    lengths = {name: (each.schedule.warmup(each.last_step), each.last_step) for name, each in variants.items()}
    for warmup, steps in sorted({each for each in lengths.values() if each[0] >= each[1] > 0}):
        names = [name for name, each in lengths.items() if each == (warmup, steps)]
        yield f"{', '.join(names)}: a warm-up of {warmup} updates is not over when all {steps} steps are done"
    falling = [
        name
        for name, each in variants.items()
        if each.optimizer.name == "schedule_free_adamw" and each.schedule.name != "constant"
    ]
    if falling:
        yield (
            f"{', '.join(falling)}: schedule_free_adamw averages in place of a rate that falls; it is made for "
            "training.schedule constant, with a warm-up"
        )
