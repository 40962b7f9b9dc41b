"""Whether an adapter reads its prompt: what another image's caption costs it. Torch-free."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lora_engine.evaluation.components import Components, changed
from lora_engine.evaluation.loss_file import EvaluationLosses
from lora_engine.evaluation.statistics import Estimate, Interval, estimate

_SHARE = 0.25  # of the base model's listening, below which an adapter has stopped


@dataclass(frozen=True)
class Listening:
    """What another image's caption costs an adapter, and what it costs the base model."""

    component: str  # whose captions were shuffled
    images: int  # that can be given another caption
    own: Interval  # loss under another image's caption less that under the own one
    base: float  # the same of the base model
    flagged: bool  # whether the adapter has stopped reading its prompt


def cost_of_shuffling(
    losses: EvaluationLosses, components: Components, component: str, curve_NC: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """What another image's caption costs, of each image that can be given another one, on the curve's timesteps.

    Raises:
        NotScoredError: the evaluation did not score one of the two.
    """
    shuffled = components.shuffled[component]
    cost_N = losses.per_image({shuffled: 1}, curve_NC) - losses.per_image({component: 1}, curve_NC)
    found: npt.NDArray[np.float64] = cost_N[changed(components.texts[component], components.texts[shuffled])]
    return found


def most_listened(base: EvaluationLosses, components: Components, curve_NC: npt.NDArray[np.int64]) -> str | None:
    """The component whose captions the base model reads most; None where every one is constant."""
    costs = {name: float(cost_of_shuffling(base, components, name, curve_NC).mean()) for name in components.shuffled}
    return max(costs, key=lambda name: costs[name], default=None)


def listening(
    adapter: EvaluationLosses,
    base: EvaluationLosses,
    components: Components,
    curve_NC: npt.NDArray[np.int64],
    groups: npt.NDArray[np.str_],
    confidence: float,
) -> Listening | None:
    """How an adapter reads the captions that the base model reads most.

    Args:
        curve_NC: each image's columns of the final grid that are on the curve.
        groups: the group of near-duplicates that each image belongs to, [N].
        confidence: of the intervals, in (0, 1).

    Returns:
        None where the data do not show that the base model reads any captions.

    Raises:
        NotScoredError: the adapter was not scored under shuffled captions.
    """
    component = most_listened(base, components, curve_NC)
    if component is None:
        return None
    costs = [cost_of_shuffling(losses, components, component, curve_NC) for losses in (adapter, base)]
    own_N, base_N = costs
    kept = groups[changed(components.texts[component], components.texts[components.shuffled[component]])]

    def estimated(values_N: npt.NDArray[np.float64]) -> Estimate:
        return estimate(values_N[np.newaxis], kept)

    if estimated(base_N).interval(confidence).sign != 1:
        return None
    flagged = estimated(own_N - _SHARE * base_N).interval(confidence).sign == -1
    return Listening(component, len(own_N), estimated(own_N).interval(confidence), float(base_N.mean()), flagged)
