"""Shows a plan to a person."""

import json
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from job.plan import PackPlan, Plan, VariantPlan
from job.prospect import RatingProspect
from lora_engine.evaluation.ratings.win_rate import FEWEST_PROMPTS
from lora_engine.evaluation.statistics import FEWEST_GROUPS

_UNKNOWN = "unknown until downloaded"
_WIDTH = 120  # characters
_UNBROKEN = "\N{NO-BREAK SPACE}"  # where no line ends, shown as a space
_MOST_PAIRS = 6  # that are listed where a rule says as much


def _scratch(size: int) -> str:
    return f"about {size / 2**20:.0f} MiB of prepared images, and what is fetched over a network"


def _render_comparison(plan: Plan) -> list[str]:
    comparison, work = plan.comparison, _UNKNOWN
    if comparison.scored is not None and comparison.share is not None:
        work = (
            f"{comparison.scored} images under one text at one timestep each, {comparison.share:.0%} of training's work"
        )
    lines = [f"scoring           {work}", *_wrapped("compared", _compared(plan))]
    if comparison.pairs:
        found = (
            _UNKNOWN if comparison.scored is None else f"none: {FEWEST_GROUPS} independent held-out images are needed"
        )
        if comparison.smallest_effect is not None:
            found = f"{comparison.smallest_effect:.0%} of what training gains, if losses spread as in the planted study"
        lines.append(f"smallest effect   {found}")
    return lines


def _compared(plan: Plan) -> str:
    """Which variants are compared; where that is a rule for many of them, the rule."""
    pairs, names = plan.comparison.pairs, [variant.name for variant in plan.variants]
    if len(pairs) > _MOST_PAIRS and len(pairs) == math.comb(len(names), 2):
        return f"each of the {len(names)} variants with each, {len(pairs)} pairs"
    if len(pairs) > _MOST_PAIRS and pairs == tuple(f"{names[0]} - {name}" for name in names[1:]):
        return f"each variant with {names[0]}, {len(pairs)} pairs"
    return ", ".join(pair.replace(" ", _UNBROKEN) for pair in pairs) or "nothing"


def _render_variants(variants: Sequence[VariantPlan]) -> Iterator[str]:
    """Lines for each variant, with what it sets otherwise than some other."""
    for at, variant in enumerate(variants):
        own = [f"{key}{_UNBROKEN}{json.dumps(variant.settings[key], ensure_ascii=False)}" for key in variant.own]
        rest = "as lora and training are" if variant.settings and not own else ", ".join(own)
        yield from _wrapped(
            "" if at else f"variants ({len(variants)})", f"{variant.name}: {rest}" if rest else variant.name
        )


def _render_starts(starts: Mapping[str, str]) -> Iterator[str]:
    """A line for each file that variants start from."""
    for at, source in enumerate(dict.fromkeys(starts.values())):
        names = ", ".join(name for name, of in starts.items() if of == source)
        yield f"{'' if at else 'starts from':<18}{source}: {names}; scored once more before the first step"


def _render_pack(at: int, pack: PackPlan) -> Iterator[str]:
    yield from _wrapped(f"pack {at} ({len(pack.members)})", ", ".join(pack.members))
    steps, epochs, checkpoints = "unknown", "", "unknown"
    if pack.fewest_steps:
        steps = _from_to(f"{pack.fewest_steps}", f"{pack.steps}")
        checkpoints = _from_to(f"{pack.fewest_checkpoints}", f"{pack.checkpoints}")
    if pack.fewest_steps and pack.epochs is not None:
        fewest = pack.epochs * pack.fewest_steps / pack.steps
        epochs = f", {_from_to(f'{fewest:.1f}', f'{pack.epochs:.1f}')} epochs"
    differs = f"; differs in {', '.join(pack.differs)}" if pack.differs else ""
    yield from _wrapped(
        "", f"{steps} steps x {pack.images_per_step} images{epochs}, {checkpoints} checkpoints each{differs}"
    )


def _from_to(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _wrapped(label: str, text: str) -> list[str]:
    """Lines that are no longer than a wide terminal, but for a word that is."""
    wrapper = textwrap.TextWrapper(_WIDTH, f"{label:<18}", " " * 18, break_long_words=False, break_on_hyphens=False)
    return [line.replace(_UNBROKEN, " ") for line in wrapper.wrap(text)]


def _render_hours(hours: dict[str, float]) -> str:
    return ", ".join(f"{device} {taken:g} h" for device, taken in hours.items())


def _render_samples(plan: Plan) -> str:
    if not plan.pictures:
        return "none"
    return f"about {plan.pictures} pictures, {_render_hours(plan.picture_hours)} (SD 1.5, estimated)"


def _render_rating(rating: RatingProspect | None) -> Iterator[str]:
    if rating is not None:
        few = "" if rating.is_enough else f", which may be too few to tell them apart: {FEWEST_PROMPTS} are needed"
        prompts = "1 prompt" if rating.fewest_prompts == 1 else f"{rating.fewest_prompts} prompts"
        yield from _wrapped(
            "blind rating", f"{rating.trials} choices; any two stand beside each other on about {prompts} or more{few}"
        )


def render_plan(plan: Plan) -> str:
    """The plan as text for a person."""
    lines = [
        f"run               {plan.name}",
        f"device            {plan.device}",
        f"images            {_UNKNOWN if plan.images is None else f'{plan.images}, if none is broken or a copy'}",
        f"held out          {_UNKNOWN if plan.validation_images is None else f'about {plan.validation_images}'}",
        *_wrapped("caption sets", ", ".join(plan.caption_sets)),
        *_render_variants(plan.variants),
        *(f"{'' if at else 'merged into base':<18}{each}" for at, each in enumerate(plan.merged)),
        *_render_starts(plan.starts),
    ]
    has_steps = all(pack.fewest_steps for pack in plan.packs)  # else they wait for the images to be counted
    lines += [
        *(line for at, pack in enumerate(plan.packs) for line in _render_pack(at, pack)),
        *_render_comparison(plan),
        f"files             {f'about {plan.files}' if has_steps else _UNKNOWN}",
        f"checkpoints       {f'about {plan.checkpoint_bytes / 2**20:.0f} MiB (SD 1.5)' if has_steps else _UNKNOWN}",
        f"scratch           {_UNKNOWN if plan.scratch_bytes is None else _scratch(plan.scratch_bytes)}",
        f"memory            about {plan.memory_bytes / 2**30:.1f} GiB (SD 1.5, estimated)",
        f"training alone    {f'{_render_hours(plan.training_hours)} (SD 1.5, estimated)' if has_steps else _UNKNOWN}",
        f"samples           {_render_samples(plan)}",
        *_render_rating(plan.rating),
        *(f"warning           {warning}" for warning in plan.warnings),
    ]
    return "\n".join(lines)
