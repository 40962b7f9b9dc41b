"""The held-out images of a run, and how adapters are scored and compared on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from job import layout
from job.errors import ExitCode, JobError
from job.run.resolved import SCORING, Resolved
from job.storage.folder import RunFolder
from lora_engine.config.captions import CaptionsConfig
from lora_engine.config.evaluation import compared_pairs
from lora_engine.dataset.randomness import curve_columns
from lora_engine.evaluation.components import (
    Components,
    Weights,
    components_of,
    earlier_components_of,
)
from lora_engine.evaluation.loss_file import EvaluationLosses
from lora_engine.evaluation.summary import Best, choose_best, choose_lowest
from lora_engine.records import CaptionRecord, ImageRecord

_CAPTIONS: TypeAdapter[CaptionsConfig] = TypeAdapter(CaptionsConfig)


@dataclass(frozen=True)
class HeldOut:
    """The held-out images, N of them, and how adapters are scored and compared on them."""

    image_ids: tuple[str, ...]  # N, ascending
    groups: npt.NDArray[np.str_]  # [N]: the group of near-duplicates of each image
    curve_NC: npt.NDArray[np.int64]  # each image's columns of the final grid that are on the curve
    components: Components
    pairs: tuple[tuple[str, str], ...]  # of variants that are compared
    is_earlier: bool  # whether an earlier version began the run, by whose rules its curve is summed and its best chosen

    def curve_loss(self, losses: EvaluationLosses, weights: Weights) -> npt.NDArray[np.float64]:
        """The mean of each image's losses over the curve's timesteps: [N].

        Raises:
            NotScoredError: a component was not scored.
        """
        on_curve = losses.timesteps_NT.shape == self.curve_NC.shape
        return losses.per_image(weights, None if on_curve else self.curve_NC)

    def choose_best(self, curve_losses: Mapping[int, npt.NDArray[np.float64]]) -> Best | None:
        """The best of the steps above 0, by the loss of each image [N] on the curve; None where there is none."""
        if not any(step > 0 for step in curve_losses):
            return None
        if self.is_earlier:
            return choose_lowest({step: float(losses_N.mean()) for step, losses_N in curve_losses.items()})
        return choose_best(curve_losses, self.groups)

    def worth_keeping(self, curve_losses: Mapping[int, npt.NDArray[np.float64]]) -> set[int]:
        """The best of the steps above 0 and the lowest, with which the choice among later ones will compare."""
        best = self.choose_best(curve_losses)
        if best is None:
            return set()
        means = {step: losses_N.mean() for step, losses_N in curve_losses.items() if step > 0}
        return {best.step, min(means, key=lambda step: (means[step], step))}


def held_out(
    run: RunFolder,
    resolved: Resolved,
    images: Sequence[ImageRecord],
    captions: Mapping[str, Sequence[CaptionRecord]],
) -> HeldOut:
    """How the adapters of a run are scored.

    Args:
        captions: caption set to the captions of the run's images.

    Raises:
        JobError: 46 when no image is held out, or one has no captions of a kind that this version knows.
    """
    evaluation = resolved.manifest.evaluation
    validation = sorted((image for image in images if image.split == "validation"), key=lambda image: image.id)
    ids = tuple(image.id for image in validation)
    if not ids:
        raise JobError(
            ExitCode.CONFLICT,
            f"{run.uri(layout.IMAGES)} holds out no image to score adapters on.",
            "Restore it, or run under another name: --set name=...",
        )
    make = components_of if resolved.scoring >= SCORING else earlier_components_of
    try:
        configs = {
            variant.name: _CAPTIONS.validate_python(resolved.identity.variants[variant.name].captions, strict=False)
            for variant in resolved.manifest.variants
        }
        components = make(captions, resolved.set_of_variant, configs, ids)
        curve = np.stack([curve_columns(image, evaluation.timesteps, evaluation.final_timesteps) for image in ids])
    except (ValidationError, KeyError, IndexError, ValueError) as error:
        raise JobError(
            ExitCode.CONFLICT,
            f"{run.uri(layout.RESOLVED)} and the captions do not say how held-out images are scored: {error!r}.",
            "Restore them, or run under another name: --set name=...",
        ) from error
    return HeldOut(
        image_ids=ids,
        groups=np.array([str(image.group) for image in validation]),
        curve_NC=curve,
        components=components,
        pairs=compared_pairs(evaluation.pairs, tuple(configs)),
        is_earlier=resolved.scoring < SCORING,
    )
