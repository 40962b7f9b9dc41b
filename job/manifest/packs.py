"""Finds what a manifest trains: merges overrides, forms packs and names caption sets."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from job.layout import Member
from job.manifest.overrides import OVERRIDABLE, different_fields, merge
from job.manifest.schema import Manifest
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.captions import CaptionsConfig
from lora_engine.config.training import SHARED, TrainingConfig

# The rule by which adapters are put together: by equal settings as in the first version, or by those that shape a pass.
# A run keeps the one that it was begun with.
BY_SETTINGS, BY_PASS = 1, 2

Starts = Mapping[str, Mapping[str, Any]]  # variant to the settings of `lora` that the file decides that it starts from
NO_STARTS: Starts = MappingProxyType({})


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
    """Adapters that are trained in lockstep: of their settings, those that shape a pass through the UNet are equal."""

    index: int
    members: tuple[Member, ...]
    variants: tuple[ResolvedVariant, ...]  # of the members, in their order
    differs: tuple[str, ...]  # dotted fields for which the pack is not one with pack 0

    @property
    def shared(self) -> TrainingConfig:
        """The settings of a member, of which those of `SHARED` are all members'."""
        return self.variants[0].training

    @property
    def steps(self) -> int:
        """The updates of the member that has most."""
        return max(self.ends.values())

    @property
    def image_count(self) -> int:
        """How many images the members are trained on, counting each as often as an update sees it."""
        return self.shared.images_per_step * sum(self.ends.values())

    @property
    def rank(self) -> int:
        """The largest rank of a member, up to which the others are filled up with zeros."""
        return max(variant.lora.max_rank for variant in self.variants)

    @property
    def trains_text_encoder(self) -> bool:
        """Whether a member trains the text encoder, which then encodes the texts of all in every pass."""
        return any(variant.lora.text_encoder is not None for variant in self.variants)

    @property
    def ends(self) -> dict[Member, int]:
        """The updates of each member."""
        return {m: variant.training.last_step for m, variant in zip(self.members, self.variants, strict=True)}

    def last_steps(self, step: int) -> dict[Member, int]:
        """The step that each member is at when the pack is at `step`: that, or its own last one."""
        return {member: min(step, end) for member, end in self.ends.items()}

    def evaluations(self, every: int) -> dict[int, tuple[Member, ...]]:
        """The members that are scored at each step, ascending: at 0, at multiples of `every`, and at their last."""
        ends = self.ends
        steps = {0, *range(0, self.steps, every), *ends.values()}
        return {step: _scored(ends, step, every) for step in sorted(steps)}

    def scored_at(self, step: int, every: int) -> tuple[Member, ...]:
        """The members that are scored at this step."""
        return _scored(self.ends, step, every)

    def samplings(
        self, every: int, when: Literal["evaluations", "end"]
    ) -> Iterator[tuple[int, bool, tuple[Member, ...]]]:
        """The steps at which members are sampled, ascending, whether on the way, and which members."""
        ends = self.ends
        for step, members in self.evaluations(every).items():
            at_end = tuple(member for member in members if step in (0, ends[member]))
            on_the_way = tuple(member for member in members if member not in at_end)
            if on_the_way and when == "evaluations":
                yield step, True, on_the_way
            if at_end and (step or when == "evaluations"):
                yield step, False, at_end

    @property
    def unit(self) -> str:
        """The name of the run's unit that trains the pack."""
        return f"pack-{self.index}"


def _scored(ends: Mapping[Member, int], step: int, every: int) -> tuple[Member, ...]:
    """The members that are scored at a step, of those that have so many updates."""
    return tuple(member for member, end in ends.items() if step == end or (step < end and not step % every))


def resolve_variants(
    manifest: Manifest, images: int | None = None, starts: Starts = NO_STARTS
) -> tuple[ResolvedVariant, ...]:
    """Every variant with the settings that it is trained with.

    Args:
        images: that are trained on, by which epochs are steps; None leaves variants with epochs at 0 steps.
        starts: what the files say that adapters start from; without it, what the manifest does not say is at its
            defaults.
    """
    # What is not given is left out, so that the fields of each variant's `lora` that are set are those that are given.
    lora, training = (
        manifest.lora.model_dump(mode="json", exclude_unset=True),
        manifest.training.model_dump(mode="json"),
    )
    return tuple(
        ResolvedVariant(
            variant.name,
            variant.captions,
            _begun(merge(lora, variant.lora), starts.get(variant.name)),
            _counted(TrainingConfig.model_validate(merge(training, variant.training), strict=False), images),
            variant.seed_offset,
        )
        for variant in manifest.variants
    )


def different_loras(variants: Iterable[ResolvedVariant]) -> list[LoraConfig]:
    """The settings of adapters that variants have, each once, in their order."""
    return list({variant.lora.model_dump_json(): variant.lora for variant in variants}.values())


def _begun(given: Mapping[str, Any], start: Mapping[str, Any] | None) -> LoraConfig:
    """The settings of an adapter: those that are given, over those of the file that it starts from, if any."""
    if start is not None:
        said = {key: value for key, value in given.items() if value is not None or key == "text_encoder"}
        if isinstance(text_encoder := said.get("text_encoder"), Mapping):
            said["text_encoder"] = {key: value for key, value in text_encoder.items() if value is not None}
        given = merge(start, said)
    return LoraConfig.model_validate(given, strict=False)


def _counted(training: TrainingConfig, images: int | None) -> TrainingConfig:
    return training if images is None else training.counted(images)


def packs_of(
    manifest: Manifest, packing: int = BY_PASS, images: int | None = None, starts: Starts = NO_STARTS
) -> tuple[Pack, ...]:
    """All adapters of the run, put together by that rule and as `split_packs_by` asks, in the order of the manifest.

    Takes `images` and `starts` as `resolve_variants` does.
    """
    groups: dict[tuple[object, ...], list[tuple[Member, ResolvedVariant]]] = {}
    split_by = manifest.split_packs_by
    for variant in resolve_variants(manifest, images, starts):
        if packing == BY_PASS:
            settings = variant.training.model_dump_json(include=set(SHARED))
        else:
            settings = variant.lora.model_dump_json() + variant.training.model_dump_json()
        is_dora = variant.lora.kind == "dora"  # It needs the norms of whole weights, which are its own.
        for seed in manifest.seeds:
            alone = (
                variant.name if is_dora or "variant" in split_by else None,
                seed if is_dora or "seed" in split_by else None,
            )
            groups.setdefault((settings, *alone), []).append((Member(variant.name, seed), variant))
    first = next(iter(groups.values()))[0][1]
    result = []
    for at, group in enumerate(groups.values()):
        members, variants = zip(*group, strict=True)
        differs = _differs(first, variants[0], SHARED if packing == BY_PASS else None)
        result.append(Pack(at, members, variants, differs))
    return tuple(result)


def _differs(first: ResolvedVariant, other: ResolvedVariant, shared: Iterable[str] | None) -> tuple[str, ...]:
    """Dotted names of the settings in which two variants differ: of these fields of `training`, or of all for None."""
    result: list[str] = []
    for key, _ in OVERRIDABLE:
        mine, theirs = getattr(first, key).model_dump(mode="json"), getattr(other, key).model_dump(mode="json")
        result += different_fields(mine, theirs, key)
    return tuple(name for name in result if shared is None or name in {f"training.{field}" for field in shared})


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
