"""Measures of agreement: pure, without files."""

import numpy as np

from benchmark.distances.base import Floats


def two_afc_scores(to_a: Floats, to_b: Floats, share_b: Floats) -> Floats:
    """Of each triplet the share of votes that a distance agrees with, `[N]` in [0, 1]; their mean is the 2AFC score.

    An undecided distance scores one half, whatever the votes (Zhang et al. 2018, arXiv 1801.03924).

    Args:
        to_a, to_b: `[N]` distances of the reference to either image.
        share_b: `[N]` share of the votes for b.

    >>> two_afc_scores(np.array([0.1, 0.5]), np.array([0.2, 0.5]), np.array([0.0, 1.0]))
    array([1. , 0.5])
    """
    found: Floats = np.where(to_a < to_b, 1 - share_b, np.where(to_b < to_a, share_b, 0.5))
    return found
