"""How many votes it takes to tell which of two is preferred."""

from statistics import NormalDist

from lora_engine.evaluation.statistics import POWER

_MOST = 1_000_000  # votes that are ever asked for


def wanted_votes(win_rate: float, confidence: float = 0.95, design_effect: float = 1.0) -> int | None:
    """Votes with which an interval of that confidence tells a win rate from a half in 80 of 100 studies.

    Independent votes without a tie, n = (z_confidence + z_power)^2 p (1 - p) / (p - 1/2)^2: the number at which the
    interval p +- z sqrt(p (1 - p) / n) does so (Chow, Shao and Wang, "Sample size calculations in clinical research",
    2003, section 4.1), to the nearest vote, times what the design costs.

    Args:
        win_rate: the true one, in [0, 1].
        design_effect: how many votes of the study say as much as one such vote.

    Returns:
        None at a half, at 0 and 1, where votes would not vary, or where it takes more than anybody gives.
    """
    quantiles = NormalDist().inv_cdf((1 + confidence) / 2) + NormalDist().inv_cdf(POWER)
    distance = win_rate - 0.5
    if abs(distance) < 1e-9 or abs(distance) == 0.5:
        return None
    votes = round(design_effect * quantiles**2 * win_rate * (1 - win_rate) / distance**2)
    return votes if votes <= _MOST else None
