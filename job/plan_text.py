"""A plan as text for a person. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence

from job.plan import Plan, VariantPlan
from job.prospect import Prospect
from lora_engine.evaluation.statistics import FEWEST_GROUPS


def _scratch(size: int) -> str:
    return f"about {size / 2**20:.0f} MiB of prepared images, and what is fetched over a network"


def _render_comparison(comparison: Prospect) -> list[str]:
    unknown = "unknown until downloaded"
    work = unknown
    if comparison.scored is not None and comparison.share is not None:
        work = (
            f"{comparison.scored} images under one text at one timestep each, {comparison.share:.0%} of training's work"
        )
    lines = [f"scoring           {work}", f"compared          {', '.join(comparison.pairs) or 'nothing'}"]
    if comparison.pairs:
        found = (
            unknown if comparison.scored is None else f"none: {FEWEST_GROUPS} independent held-out images are needed"
        )
        if comparison.smallest_effect is not None:
            found = f"{comparison.smallest_effect:.0%} of what training gains, if losses spread as in the planted study"
        lines.append(f"smallest effect   {found}")
    return lines


def _render_variants(variants: Sequence[VariantPlan]) -> Iterator[str]:
    """A line for each variant, with what it sets otherwise than some other."""
    for at, variant in enumerate(variants):
        settings = ", ".join(
            f"{key} {json.dumps(value, ensure_ascii=False)}" for key, value in variant.settings.items()
        )
        yield f"{'' if at else f'variants ({len(variants)})':<18}{variant.name}{f': {settings}' if settings else ''}"


def _render_starts(starts: Mapping[str, str]) -> Iterator[str]:
    """A line for each file that variants start from."""
    for at, source in enumerate(dict.fromkeys(starts.values())):
        names = ", ".join(name for name, of in starts.items() if of == source)
        yield f"{'' if at else 'starts from':<18}{source}: {names}; scored once more before the first step"


def _render_hours(hours: dict[str, float]) -> str:
    return ", ".join(f"{device} {taken:g} h" for device, taken in hours.items())


def _render_samples(plan: Plan) -> str:
    if not plan.pictures:
        return "none"
    return f"about {plan.pictures} pictures, {_render_hours(plan.picture_hours)} (SD 1.5, estimated)"


def render_plan(plan: Plan) -> str:
    """The plan as text for a person."""
    unknown = "unknown until downloaded"
    lines = [
        f"run               {plan.name}",
        f"device            {plan.device}",
        f"images            {unknown if plan.images is None else f'{plan.images}, if none is broken or a copy'}",
        f"held out          {unknown if plan.validation_images is None else f'about {plan.validation_images}'}",
        f"caption sets      {', '.join(plan.caption_sets)}",
        *_render_variants(plan.variants),
        *(f"{'' if at else 'merged into base':<18}{each}" for at, each in enumerate(plan.merged)),
        *_render_starts(plan.starts),
    ]
    has_steps = all(pack.steps for pack in plan.packs)  # else they wait for the images to be counted
    for at, pack in enumerate(plan.packs):
        epochs = "" if pack.epochs is None else f", {pack.epochs:.1f} epochs"
        differs = f"; differs in {', '.join(pack.differs)}" if pack.differs else ""
        lines.append(f"pack {at}            {', '.join(pack.members)}")
        lines.append(
            f"                  {pack.steps or 'unknown'} steps x {pack.images_per_step} images{epochs}, "
            f"{pack.checkpoints if pack.steps else 'unknown'} checkpoints each{differs}"
        )
    lines += [
        *_render_comparison(plan.comparison),
        f"files             {f'about {plan.files}' if has_steps else unknown}",
        f"checkpoints       {f'about {plan.checkpoint_bytes / 2**20:.0f} MiB (SD 1.5)' if has_steps else unknown}",
        f"scratch           {unknown if plan.scratch_bytes is None else _scratch(plan.scratch_bytes)}",
        f"memory            about {plan.memory_bytes / 2**30:.1f} GiB (SD 1.5, estimated)",
        f"training alone    {f'{_render_hours(plan.training_hours)} (SD 1.5, estimated)' if has_steps else unknown}",
        f"samples           {_render_samples(plan)}",
        *(f"warning           {warning}" for warning in plan.warnings),
    ]
    return "\n".join(lines)
