"""What the comparison of a study will cost and can find: scoring, samples, and the smallest effect."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from job.manifest.packs import Pack
from job.manifest.schema import Manifest
from job.run.samples import SampleSet, make_sample_set
from lora_engine.captions.prompts import HELD_OUT_PROMPTS
from lora_engine.config.captions import ConstantCaptions, plain_parts
from lora_engine.config.evaluation import SamplesConfig, compared_pairs, partners_of
from lora_engine.evaluation.components import NO_PROMPT, Components, Condition
from lora_engine.evaluation.ratings.trials import BASE, Picture, make_trials
from lora_engine.evaluation.ratings.win_rate import FEWEST_PROMPTS
from lora_engine.evaluation.statistics import CONFIDENCE, FEWEST_GROUPS, FEWEST_SEEDS, Estimate
from lora_engine.training.estimate import forward_flops, picture_flops

FORWARDS_OF_TRAINING = 3  # an image that is trained on costs as much as so many that are scored

# The spread of a difference as trained over images, and over seeds, as shares of the gain: of right captions against
# shuffled ones in the planted study (manifests/planted-effect.yaml), which spreads most of its pairs.
IMAGE_SPREAD, SEED_SPREAD = 0.18, 0.014
_FEW_VARIANTS, _ENOUGH_SEEDS = 3, 5  # for more variants than these, so many seeds are recommended


@dataclass(frozen=True)
class Prospect:
    """What the comparison of a study costs and can find."""

    pairs: tuple[str, ...]  # of variants that are compared
    scored: int | None  # images, under one text at one timestep each; None where images cannot be counted
    share: float | None  # of scoring in training, both as forward passes
    # The share of the gain over the base model that 80 of 100 such studies find; None where images cannot be counted,
    # no pair is compared, or fewer images are held out than a verdict needs.
    smallest_effect: float | None


def foresee(manifest: Manifest, packs: Sequence[Pack], held_out: int | None) -> Prospect:
    """What the comparison of the manifest's study costs and can find.

    Args:
        held_out: images; None where they cannot be counted.
    """
    pairs = compared_pairs(manifest.evaluation.pairs, tuple(variant.name for variant in manifest.variants))
    scored = None if held_out is None else held_out * _scored_per_image(manifest, packs, pairs)
    trained = sum(pack.image_count for pack in packs)
    return Prospect(
        pairs=tuple(f"{a} - {b}" for a, b in pairs),
        scored=scored,
        share=None if scored is None else scored / (trained * FORWARDS_OF_TRAINING),
        smallest_effect=None if held_out is None or not pairs else _smallest_effect(manifest, len(pairs), held_out),
    )


def forward_passes(manifest: Manifest, pack: Pack, held_out: int) -> float:
    """The work of training and scoring a pack and of drawing its samples, in forward passes of one image.

    Args:
        held_out: images.
    """
    pairs = compared_pairs(manifest.evaluation.pairs, tuple(variant.name for variant in manifest.variants))
    scored = held_out * _scored_per_image(manifest, [pack], pairs)
    drawn = foresee_pictures(manifest, [pack], held_out).flops / forward_flops(manifest.preprocess.resolution)
    return scored + pack.image_count * FORWARDS_OF_TRAINING + drawn


def passes_of_a_picture(manifest: Manifest, pack: Pack, held_out: int) -> float:
    """The work of drawing a sample, on the average over the pack's, in forward passes of one image of the dataset.

    Args:
        held_out: images.
    """
    drawn = foresee_pictures(manifest, [pack], held_out)
    return drawn.flops / drawn.pictures / forward_flops(manifest.preprocess.resolution) if drawn.pictures else 0.0


@dataclass(frozen=True)
class PictureProspect:
    """The samples of a study."""

    pictures: int  # that are generated, roughly where held-out captions are the prompts
    flops: float  # of generating them with SD 1.5


def foresee_pictures(manifest: Manifest, packs: Sequence[Pack], held_out: int | None) -> PictureProspect:
    """How many samples the manifest's study draws, and how much work they are.

    Args:
        held_out: images; None where they cannot be counted.
    """
    config = manifest.evaluation.samples
    if config is None:
        return PictureProspect(0, 0.0)
    wanted = _wanted(manifest, config, held_out)
    pictures, flops = 0, 0.0
    for pack in packs:
        for step, on_the_way, members in pack.samplings(manifest.evaluation.every, config.when):
            for prompt, _ in wanted.wanted(on_the_way=on_the_way):
                setting = wanted.settings[prompt]
                texts = [{wanted.prompts[prompt], wanted.as_trained[member.variant][prompt]} for member in members]
                count = sum(map(len, texts)) if step else len(set.union(*texts))
                passes = setting.steps * (2 if setting.guidance > 1 else 1) * (2 if config.sampler == "heun" else 1)
                pictures += count
                flops += count * picture_flops(setting.width, setting.height, passes)
    return PictureProspect(pictures, flops)


def _wanted(manifest: Manifest, config: SamplesConfig, held_out: int | None) -> SampleSet:
    prompts = tuple(f"caption {number}" for number in range(min(held_out or HELD_OUT_PROMPTS, HELD_OUT_PROMPTS)))
    adapters = {variant.name: (variant.captions, variant.prompt_template) for variant in manifest.variants}
    # No text is cut: where words go is known only to the base model's files, and not to a plan.
    return make_sample_set("", config, manifest.preprocess.resolution, adapters, lambda: prompts, lambda _: 0, None)


@dataclass(frozen=True)
class RatingProspect:
    """The page for blind rating of a study, if all that draws draws something else."""

    trials: int
    fewest_prompts: int  # on which any two contenders stand beside each other; which those are is drawn for each run
    is_enough: bool  # to tell any two apart


def foresee_rating(manifest: Manifest, packs: Sequence[Pack], held_out: int | None) -> RatingProspect | None:
    """What there will be to rate; None where there will be nothing.

    Args:
        held_out: images; None where they cannot be counted.
    """
    config = manifest.evaluation.samples
    if config is None:
        return None
    places = list(_wanted(manifest, config, held_out).wanted(on_the_way=False))
    steps = {step for pack in packs for step, *_ in pack.samplings(manifest.evaluation.every, config.when)}
    contenders = {variant.name: manifest.seeds for variant in manifest.variants} | ({BASE: (0,)} if 0 in steps else {})
    drawn = {
        name: {place: [Picture(f"{name} {place} {seed}", name, seed) for seed in seeds] for place in places}
        for name, seeds in contenders.items()
    }
    trials = make_trials(manifest.name, "", "", (), drawn)
    if trials is None:
        return None
    return RatingProspect(len(trials.trials), trials.fewest_prompts, trials.fewest_prompts >= FEWEST_PROMPTS)


def more_seeds_advised(manifest: Manifest) -> str | None:
    """Why the study should have more seeds; None where it has enough, or does not ask for a verdict over seeds."""
    variants, seeds = len(manifest.variants), len(manifest.seeds)
    pairs = len(compared_pairs(manifest.evaluation.pairs, tuple(variant.name for variant in manifest.variants)))
    if variants <= _FEW_VARIANTS or not FEWEST_SEEDS <= seeds < _ENOUGH_SEEDS or not pairs:
        return None
    now, then = (_seed_quantile(count, pairs) for count in (seeds, _ENOUGH_SEEDS))
    return (
        f"with {seeds} seeds and {pairs} pairs, an interval reaches {now:.1f} standard errors over seeds, with "
        f"{_ENOUGH_SEEDS} seeds {then:.1f}: {_ENOUGH_SEEDS} are recommended for more than {_FEW_VARIANTS} variants"
    )


def _seed_quantile(seeds: int, pairs: int) -> float:
    """How many standard errors an interval over seeds reaches, where images do not vary."""
    known = Estimate(0.0, 0.0, 1.0, 1.0, seeds, images=1, groups=1, skew=None)
    high = known.interval(1 - (1 - CONFIDENCE) / pairs).high
    assert high is not None, "of seeds alone there is an interval"
    return high


def _smallest_effect(manifest: Manifest, pairs: int, held_out: int) -> float | None:
    """The smallest difference that is found, as a share of the gain; None for too few images."""
    seeds = len(manifest.seeds)
    over_seeds = seeds >= FEWEST_SEEDS
    rows = pairs if over_seeds else pairs * seeds
    if held_out < FEWEST_GROUPS:
        return None
    assumed = Estimate(
        mean=0.0,
        images_variance=IMAGE_SPREAD**2 / held_out,
        images_freedom=held_out - 1,
        seeds_variance=SEED_SPREAD**2 / seeds if over_seeds else 0.0,
        seeds=seeds if over_seeds else 1,
        images=held_out,
        groups=held_out,
        skew=None,
    )
    return assumed.minimum_detectable(1 - (1 - CONFIDENCE) / rows)


def _scored_per_image(manifest: Manifest, packs: Sequence[Pack], pairs: Sequence[tuple[str, str]]) -> int:
    """On how many texts and timesteps each held-out image is scored, over all adapters and evaluations."""
    config, components = manifest.evaluation, _components(manifest)
    listened = next(iter(components.shuffled), None)

    def strata(conditions: Sequence[Condition]) -> int:
        return sum(config.final_timesteps if each.whole else config.timesteps for each in conditions)

    total = 0
    for pack in packs:
        total += strata(components.of_base())
        for member in pack.members:
            on_the_way = math.ceil(pack.ends[member] / config.every) - 1
            variant = member.variant
            total += on_the_way * strata(components.on_curve(variant))
            total += strata(components.at_end(variant, partners_of(variant, pairs), listened))
    return total


def _components(manifest: Manifest) -> Components:
    """The study's components, each named by the settings that it follows from, and with no texts yet."""
    own: dict[str, dict[str, float]] = {}
    shuffled: dict[str, str] = {}
    for variant in manifest.variants:
        own[variant.name] = {NO_PROMPT: 1.0} if variant.captions.caption_dropout else {}
        for _, part in plain_parts(variant.captions):
            name = part.model_dump_json(exclude={"caption_dropout"})
            own[variant.name][name] = 1.0
            if not isinstance(part, ConstantCaptions):
                shuffled[name] = f"{name} shuffled"
    return Components({}, own, shuffled)
