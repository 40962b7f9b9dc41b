"""The loss curves as a picture."""

import io

from job.report.figures import plain_labels
from job.report.schema import Comparison

# Okabe and Ito's palette, whose colours can be told apart with any colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def _held_out_title(comparison: Comparison) -> str:
    captions = "as trained" if comparison.scoring > 1 else "under all caption sets"
    return f"Held-out images {captions}, {comparison.curve_timesteps} timesteps each"


@plain_labels()
def plot_curves(comparison: Comparison) -> bytes:
    """The loss curves as a PNG: validation on the left, training on the right; a colour a variant, a line a seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    variants = list(dict.fromkeys(member.variant for member in comparison.members))
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    held_out, training = figure.subplots(1, 2)
    labelled: set[str] = set()
    for member in comparison.members:
        colour = _COLOURS[variants.index(member.variant) % len(_COLOURS)]
        label = member.variant if member.variant not in labelled else None
        labelled.add(member.variant)
        points = member.validation
        held_out.plot([p.step for p in points], [p.curve_loss for p in points], color=colour, marker="o", label=label)
        train = [point for point in member.train if point.loss is not None]
        training.plot([p.step for p in train], [p.loss for p in train], color=colour, linewidth=1)
    held_out.set(title=_held_out_title(comparison), xlabel="optimizer step", ylabel="noise-prediction MSE")
    training.set(title="Training images", xlabel="optimizer step", ylabel="noise-prediction MSE")
    held_out.legend(frameon=False)
    for axes in (held_out, training):
        axes.grid(alpha=0.25)
    figure.suptitle(comparison.name)
    data = io.BytesIO()
    canvas.print_figure(data, format="png", dpi=110, metadata={"Software": None})
    return data.getvalue()
