"""How strong each of several contenders is, of the votes on all pairs. Shape legend: K contenders."""

from dataclasses import dataclass

import numpy as np

from lora_engine.evaluation.ratings.comparisons import TIE, WIN, Comparisons, Floats

_CLOSE = 1e-9  # of a gradient, for each vote


@dataclass(frozen=True)
class Strengths:
    """The model's parameters."""

    strengths: tuple[float, ...]  # natural logarithms of worth, whose mean is 0
    tie: float  # between two of equal strength, ties are tie / (2 + tie) of the votes


@dataclass(frozen=True)
class Counts:
    """How the votes on all pairs went."""

    wins_KK: Floats  # of the row over the column
    ties_KK: Floats  # symmetric

    @classmethod
    def of(cls, votes: Comparisons, contenders: int) -> "Counts":
        """Those of votes on so many contenders."""
        wins_KK, ties_KK = np.zeros((contenders, contenders)), np.zeros((contenders, contenders))
        for score, table, places in (
            (WIN, wins_KK, (votes.first, votes.second)),
            (1 - WIN, wins_KK, (votes.second, votes.first)),
            (TIE, ties_KK, (votes.first, votes.second)),
        ):
            chosen = votes.scores == score
            np.add.at(table, (places[0][chosen], places[1][chosen]), 1)
        return cls(wins_KK, ties_KK + ties_KK.T)


def strengths(counts: Counts) -> Strengths | None:
    """The strengths that make the votes most likely; None where there are no such, or the votes do not say.

    With worths p, of the votes on i and j the shares p_i, p_j and v sqrt(p_i p_j), of their sum, are for i, for j and
    ties (Davidson, "On extending the Bradley-Terry model to accommodate ties in paired comparison experiments", Journal
    of the American Statistical Association 65, 1970). There are such p and v where, however the
    contenders are divided in two, one of either part has beaten one of the other (Ford, "Solution of a ranking problem
    from binary comparisons", 1957).
    """
    from scipy.optimize import minimize
    from scipy.sparse.csgraph import connected_components

    contenders = len(counts.wins_KK)
    parts, _ = connected_components(counts.wins_KK > 0, directed=True, connection="strong")
    if contenders < 2 or parts > 1:
        return None
    first, second = np.triu_indices(contenders, k=1)
    observed_3N = np.stack(
        [counts.wins_KK[first, second], counts.wins_KK[second, first], counts.ties_KK[first, second]]
    )
    has_ties = bool(observed_3N[2].any())
    total_N = observed_3N.sum(axis=0)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        """Minus the log-likelihood of the worths' and the tie's logarithms, and its gradient."""
        log_K, log_tie = parameters[:contenders], parameters[contenders] if has_ties else -np.inf
        logits_3N = np.stack([log_K[first], log_K[second], log_tie + (log_K[first] + log_K[second]) / 2])
        logs_3N = logits_3N - np.logaddexp.reduce(logits_3N, axis=0)
        missing_3N = total_N * np.exp(logs_3N) - observed_3N
        gradient = np.zeros(len(parameters))
        np.add.at(gradient, first, missing_3N[0] + missing_3N[2] / 2)
        np.add.at(gradient, second, missing_3N[1] + missing_3N[2] / 2)
        if has_ties:
            gradient[contenders] = missing_3N[2].sum()
        seen_3N = np.where(observed_3N > 0, logs_3N, 0)
        return -float((observed_3N * seen_3N).sum()), gradient

    start = np.zeros(contenders + has_ties)
    found = minimize(loss, start, jac=True, method="BFGS", options={"gtol": _CLOSE * total_N.sum()}).x
    log_K = found[:contenders] - found[:contenders].mean()
    return Strengths(tuple(log_K.tolist()), float(np.exp(found[contenders])) if has_ties else 0.0)
