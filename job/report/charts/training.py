"""The loss of each adapter in the course of its training: on held-out images, and on those it is trained on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from job.report.charts.look import WIDTH_INCHES, Looks, chart_style, new_figure, shows
from job.report.parts import Interval
from job.report.schema import Comparison, EvaluationPoint
from lora_engine.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = npt.NDArray[np.float64]

_SMOOTHING = 1 / 20  # standard deviation of the Gaussian that smooths a curve, as a share of the curve's length
_HIGHEST = 3.0  # times the base model's loss, above which curves leave the frame
_CLIPPED = 300.0  # times the base model's loss: as far as the ends of a band are drawn, out of the frame as they are


@chart_style()
def curves(comparison: Comparison, *, wide: bool = False) -> "Figure":
    """The held-out losses, each with the interval of its change from the base model's, and the training losses.

    An adapter that started from a file has its curve begin there, and the base model's loss as a line of dots.

    Both have one scale. Training losses are smoothed, and faint as they were logged. A loss far above the base model's,
    as of an adapter that diverged, leaves the frame, and so do single windows of training.

    Args:
        wide: whether the two stand side by side and under the run's name, instead of one above the other.
    """
    looks = Looks.of(comparison)
    if wide:
        figure = new_figure("curves", 11, 4.4)
        held_out, training = figure.subplots(1, 2, sharey=True)
        figure.suptitle(printable(comparison.name))
    else:
        figure = new_figure("curves", WIDTH_INCHES, 6.2)
        held_out, training = figure.subplots(2, 1, sharex=True, sharey=True)
    shown = [*_draw_held_out(held_out, comparison, looks), *_draw_training(training, comparison, looks)]
    _set_scale(held_out, comparison, np.concatenate(shown))
    captions = "as trained" if comparison.scoring > 1 else "under all caption sets"
    held_out.set_title(
        f"Held-out images {captions}\n({comparison.curve_timesteps} timesteps each; band: change from the base, 95 %)"
    )
    training.set_title("Training images, smoothed (faint: as logged)")
    training.locator_params(axis="x", integer=True)
    for axes in (held_out, training) if wide else (training,):
        axes.set_xlabel("optimizer step")
    for axes in (held_out,) if wide else (held_out, training):
        axes.set_ylabel("denoising loss (MSE)")
    looks.add_legend(figure)
    return figure


def _draw_held_out(axes: "Axes", comparison: Comparison, looks: Looks) -> list[Values]:
    """Draw the held-out losses, and return what was drawn."""
    drawn = []
    for at, member in enumerate(comparison.members):
        path, points = f"members[{at}].validation", member.validation
        steps = [point.step for point in points]
        losses, base = np.array([point.curve_loss for point in points]), points[0].curve_loss
        if member.start is not None:
            losses[0] = member.start.curve_loss
            colour = looks.colour(member.variant)
            shows(axes.axhline(base, color=colour, linestyle=":", linewidth=1), path)
            drawn.append(np.array([base]))
        (line,) = axes.plot(steps, losses, **looks.marked(member.variant, member.seed), linewidth=1.6)
        shows(line, path)
        drawn.append(losses)
        band = _band(points, member.start.change if member.start else None)
        if band is not None:
            colour, alpha = looks.colour(member.variant), 0.18 * looks.faintness
            shows(axes.fill_between(steps, *band, color=colour, alpha=alpha, linewidth=0), path)
            drawn += band
    return drawn


def _band(points: Sequence[EvaluationPoint], start: Interval | None) -> tuple[Values, Values] | None:
    """The ends of each loss's interval around the base model's loss, which is the first; None where there are none.

    Args:
        start: the change from the base model's loss at the first step, where the adapter started from a file.
    """
    base, changes = points[0].curve_loss, [point.change for point in points[1:]]
    low, high = [base], [base]
    if start is not None:
        low, high, changes = [], [], [start, *changes]
    for change in changes:
        if change is None or change.low is None or change.high is None:
            return None
        low.append(base + change.low)
        high.append(base + change.high)
    furthest = _CLIPPED * abs(base)
    ends = np.clip(np.array([low, high]), -furthest, furthest)
    return (ends[0], ends[1]) if len(points) > 1 else None


def _draw_training(axes: "Axes", comparison: Comparison, looks: Looks) -> list[Values]:
    """Draw the training losses, smoothed and as they are, and return the smoothed ones."""
    drawn = []
    for at, member in enumerate(comparison.members):
        path, look = f"members[{at}].train", looks.line(member.variant, member.seed)
        there = [(point.step, point.loss) for point in member.train if point.loss is not None]
        steps, losses = [step for step, _ in there], [loss for _, loss in there]
        smooth = smoothed([point.loss for point in member.train])
        marker = "o" if len(there) == 1 else ""
        (line,) = axes.plot(steps, losses, color=look["color"], linewidth=0.6, alpha=0.3 * looks.faintness)
        shows(line, path)
        (line,) = axes.plot(steps, smooth, **look, marker=marker, linewidth=1.6)
        shows(line, path)
        drawn.append(smooth)
    return drawn


def smoothed(losses: Sequence[float | None]) -> Values:
    """The losses that are there, each averaged with those around it that are there, by the weights of a Gaussian."""
    from scipy.ndimage import gaussian_filter1d

    there = np.array([loss is not None for loss in losses], dtype=bool)
    if not there.any():
        return np.zeros(0)
    deviation = max(_SMOOTHING * len(losses), 1.0)
    weights = gaussian_filter1d(there.astype(np.float64), deviation, mode="constant")
    sums = gaussian_filter1d(np.array([loss or 0.0 for loss in losses]), deviation, mode="constant")
    means: Values = sums[there] / weights[there]
    return means


def _set_scale(axes: "Axes", comparison: Comparison, values: Values) -> None:
    """Have all of these values in the frame that are not far above the base model's loss."""
    most = _HIGHEST * max(member.validation[0].curve_loss for member in comparison.members)
    low, high = max(float(values.min()), 0.0), min(float(values.max()), most)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(low - room, high + room)
