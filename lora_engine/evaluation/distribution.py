"""How far pictures are from reference images as sets, together and without each group of the pictures. Torch-free.

What such a statistic of a whole set would be without each group says how sure it is: the jackknife, which stands to it
as the variance over groups stands to a mean (Efron and Stein, "The jackknife estimate of variance", 1981).

Shape legend: N pictures, V reference images, U = N + V, G groups of pictures, D dimensions of an embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
Kernel = Callable[[Floats], Floats]  # of cosines, any shape

_SIGMA = 10  # of CMMD's Gaussian kernel
_SCALE = 1000  # of CMMD, for readable numbers


@dataclass(frozen=True)
class LeaveOneOut:
    """A statistic of a set of pictures."""

    whole: float  # of all pictures
    without_G: Floats  # of those that remain when a group is left out; of one group alone, any number
    groups_N: Places  # the group of each picture, in [0, G), each of which has some

    def pseudo_values(self) -> Floats:
        """Numbers whose mean is the statistic, and whose mean has the statistic's variance over groups. [N].

        Tukey's pseudo-values, weighted by the groups' sizes. Of a mean they are the groups' means, whose variance is
        then estimated as that of any mean. All are moved alike, so that their mean is the statistic itself, without the
        jackknife's correction of its bias.
        """
        sizes_G = np.bincount(self.groups_N)
        left_G = sizes_G.sum() - sizes_G
        influence_N: Floats = (left_G / sizes_G * (self.whole - self.without_G))[self.groups_N]
        return self.whole + influence_N - float(influence_N.mean())


def wasserstein(pictures_N: Floats, references_V: Floats, groups_N: Places) -> LeaveOneOut:
    """The Wasserstein-1 distance of the pictures' values to the references': the area between the two distributions.

    What `scipy.stats.wasserstein_distance` gives, but for all groups left out in one sort: on a thousand pictures in
    250 groups and 5000 references it is four times as fast.
    """
    values_U = np.concatenate([pictures_N, references_V])
    order_U = np.argsort(values_U)
    widths = np.diff(values_U[order_U])  # of the U - 1 steps between neighbouring values
    sizes_G = np.bincount(groups_N)
    left_G = _left(sizes_G)
    is_of_GU = np.zeros((len(sizes_G), len(values_U)))
    is_of_GU[groups_N, np.arange(len(pictures_N))] = 1
    below_GU = is_of_GU[:, order_U].cumsum(axis=1)[:, :-1]  # how many of a group are not above each step
    below_U = below_GU.sum(axis=0)
    references_below_U = (order_U >= len(pictures_N)).cumsum()[:-1] / len(references_V)
    return LeaveOneOut(
        whole=float(np.abs(below_U / len(pictures_N) - references_below_U) @ widths),
        without_G=np.abs((below_U - below_GU) / left_G[:, np.newaxis] - references_below_U) @ widths,
        groups_N=groups_N,
    )


def kid_kernel(cosines: Floats) -> Floats:
    """The kernel of the kernel inception distance, (x.y / D + 1)^3 (Binkowski et al. 2018, arXiv 1801.01401).

    There, x and y are features of an Inception network as they come, of about unit variance. Here they are embeddings
    of length 1 times the square root of D, so that x.x / D is 1 and the kernel depends on the cosine alone, whichever
    CLIP model made it.
    """
    return (cosines + 1) ** 3


def cmmd_kernel(cosines: Floats) -> Floats:
    """The kernel of CMMD, 1000 exp(-|x - y|^2 / (2 sigma^2)) with sigma 10, of x and y of length 1.

    Jayasumana et al. 2024 (arXiv 2401.09603). |x - y|^2 is 2 (1 - cosine).
    """
    return _SCALE * np.exp((cosines - 1) / _SIGMA**2)


def squared_mmd(kernel: Kernel, pictures_ND: Floats, references_VD: Floats, groups_N: Places) -> LeaveOneOut:
    """The squared maximum mean discrepancy, unbiased, of all pictures and references; it may be negative.

    Gretton et al., "A kernel two-sample test", 2012, equation 3: the complete U-statistic, without the pairs of an
    image with itself. KID is often the mean over random subsets of fixed size, which has the same expectation. CMMD's
    own code takes the biased estimate of equation 5, which counts those pairs and is larger, by about 10 (1/N + 1/V)
    times what the mean cosine of two images is below 1.

    Args:
        kernel: of cosines.
        pictures_ND: of length 1, at least two, and also without any group of several.
        references_VD: of length 1, at least two.
    """
    sizes_G = np.bincount(groups_N)
    left_G = _left(sizes_G)
    alike_NN = kernel(pictures_ND @ pictures_ND.T)
    np.fill_diagonal(alike_NN, 0)
    sums_G = np.bincount(groups_N, alike_NN.sum(axis=1))  # over the pairs with a group's picture first
    inside_G = np.bincount(groups_N, (alike_NN * (groups_N[:, np.newaxis] == groups_N)).sum(axis=1))
    across_G = np.bincount(groups_N, kernel(pictures_ND @ references_VD.T).mean(axis=1))
    of_references = _mean_over_pairs(kernel(references_VD @ references_VD.T))
    count = len(pictures_ND)
    return LeaveOneOut(
        whole=float(sums_G.sum() / (count * (count - 1)) - 2 * across_G.sum() / count + of_references),
        without_G=(sums_G.sum() - 2 * sums_G + inside_G) / np.maximum(left_G * (left_G - 1), 1)
        - 2 * (across_G.sum() - across_G) / left_G
        + of_references,
        groups_N=groups_N,
    )


def _left(sizes_G: Places) -> Places:
    """How many pictures remain without each group; 1 for a group that is alone, lest a quotient divide by 0."""
    return np.asarray(np.maximum(sizes_G.sum() - sizes_G, 1), np.int64)


def _mean_over_pairs(alike_VV: Floats) -> float:
    """The mean over pairs of two different ones."""
    count = len(alike_VV)
    return float((alike_VV.sum() - alike_VV.trace()) / (count * (count - 1)))
