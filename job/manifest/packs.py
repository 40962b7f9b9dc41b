"""Finds what a manifest trains: merges overrides, forms packs and names caption sets."""

from dataclasses import dataclass

from job.layout import Member
from job.manifest.overrides import OVERRIDABLE, different_fields, merge
from job.manifest.schema import Manifest
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.captions import CaptionsConfig
from lora_engine.config.training import TrainingConfig


@dataclass(frozen=True)
class ResolvedVariant:
    """A variant with its overrides merged in."""

    name: str
    captions: CaptionsConfig
    lora: LoraConfig
    training: TrainingConfig
    seed_offset: int = 0  # added to the study's seeds, for those that it is trained with


@dataclass(frozen=True)
class Pack:
    """Adapters that are trained in lockstep: their settings are equal but for captions and seed."""

    index: int
    members: tuple[Member, ...]
    lora: LoraConfig
    training: TrainingConfig
    differs: tuple[str, ...]  # dotted fields in which the pack is not like pack 0

    @property
    def unit(self) -> str:
        """The name of the run's unit that trains the pack."""
        return f"pack-{self.index}"


def resolve_variants(manifest: Manifest) -> tuple[ResolvedVariant, ...]:
    """Every variant with the settings that it is trained with."""
    lora, training = manifest.lora.model_dump(mode="json"), manifest.training.model_dump(mode="json")
    return tuple(
        ResolvedVariant(
            variant.name,
            variant.captions,
            LoraConfig.model_validate(merge(lora, variant.lora), strict=False),
            TrainingConfig.model_validate(merge(training, variant.training), strict=False),
            variant.seed_offset,
        )
        for variant in manifest.variants
    )


def packs_of(manifest: Manifest) -> tuple[Pack, ...]:
    """All adapters of the run, grouped by equal settings and as `split_packs_by` asks, in the order of the manifest."""
    groups: dict[tuple[object, ...], tuple[ResolvedVariant, list[Member]]] = {}
    split_by = manifest.split_packs_by
    for variant in resolve_variants(manifest):
        settings = variant.lora.model_dump_json() + variant.training.model_dump_json()
        for seed in manifest.seeds:
            alone = variant.name if "variant" in split_by else None, seed if "seed" in split_by else None
            groups.setdefault((settings, *alone), (variant, []))[1].append(Member(variant.name, seed))
    first = next(iter(groups.values()))[0]
    return tuple(
        Pack(at, tuple(members), variant.lora, variant.training, _differs(first, variant))
        for at, (variant, members) in enumerate(groups.values())
    )


def _differs(first: ResolvedVariant, other: ResolvedVariant) -> tuple[str, ...]:
    """Dotted names of the settings in which two variants differ."""
    result: list[str] = []
    for key, _ in OVERRIDABLE:
        mine, theirs = getattr(first, key).model_dump(mode="json"), getattr(other, key).model_dump(mode="json")
        result += different_fields(mine, theirs, key)
    return tuple(result)


def caption_sets(manifest: Manifest) -> dict[str, CaptionsConfig]:
    """The different settings of captions, each under the name of the first variant that has them.

    Variants that differ in dropout alone share a set: their texts are the same.
    """
    result: dict[str, CaptionsConfig] = {}
    for name, owner in set_of_variant(manifest).items():
        if name == owner:
            result[name] = next(variant.captions for variant in manifest.variants if variant.name == name)
    return result


def set_of_variant(manifest: Manifest) -> dict[str, str]:
    """The name of every variant's caption set."""
    owners: dict[str, str] = {}
    result = {}
    for variant in manifest.variants:
        texts = variant.captions.model_dump_json(exclude={"caption_dropout"})
        result[variant.name] = owners.setdefault(texts, variant.name)
    return result
