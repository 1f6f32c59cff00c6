"""Measures of agreement on triplets and pairs: pure, without files. Those of orders are in `correlations`."""

from dataclasses import dataclass

import numpy as np

from benchmark.distances.base import Floats


@dataclass(frozen=True)
class Measured:
    """A number, or None and what it would need."""

    value: float | None
    reason: str = ""


def measured(value: float, reason: str) -> Measured:
    """`value`, or where it is NaN the reason."""
    return Measured(None, reason) if np.isnan(value) else Measured(float(value))


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


def odd_one_out_scores(distances: Floats, odd: Floats) -> Floats:
    """Whether the image that people found odd is the one outside the nearest pair, `[N]` in [0, 1].

    Of k pairs that are equally near, the right one earns 1/k: a distance that tells nothing apart scores chance, 1/3.

    Args:
        distances: `[N, 3]` of images 0 and 1, 0 and 2, 1 and 2.
        odd: `[N]` place of the odd image, 0 to 2.

    >>> odd_one_out_scores(np.array([[0.1, 0.5, 0.6], [0.4, 0.4, 0.4]]), np.array([2, 2]))
    array([1.        , 0.33333333])
    """
    is_nearest, own = _nearest_pairs(distances, odd)
    found: Floats = np.where(own, 1 / is_nearest.sum(axis=1), 0.0)
    return found


def odd_one_out_scores_ties_correct(distances: Floats, odd: Floats) -> Floats:
    """As `odd_one_out_scores`, but a tie for the nearest pair is correct: the convention of published THINGS scores
    (d12 ≤ d13 and d12 ≤ d23, DreamSim's evaluation). A distance that tells nothing apart scores 1."""
    return _nearest_pairs(distances, odd)[1].astype(np.float64)


def _nearest_pairs(distances: Floats, odd: Floats) -> tuple[np.ndarray, np.ndarray]:
    """`[N, 3]` which pairs are nearest, and `[N]` whether that without the odd image is one of them."""
    is_nearest = distances == distances.min(axis=1, keepdims=True)
    without = 2 - odd.astype(np.intp)  # the pair of the others: 1 and 2 without 0, which is the last
    return is_nearest, is_nearest[np.arange(len(distances)), without]


class SameCurve:
    """Pairs of images from the nearest on, each with the share of people who took both for the same.

    A vote for the same is a true positive, any other a false one. Pairs at equal distance enter together, so that no
    number depends on the order of rows; where there are no ties it is the order of LPIPS' evaluation.
    """

    def __init__(self, distances: Floats, same: Floats) -> None:
        self.order = np.argsort(distances, kind="stable")
        self.same = same[self.order]
        ordered = distances[self.order]
        self.ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], len(ordered) > 0))

    def _votes(self, weights: Floats) -> tuple[Floats, Floats]:
        """`[B, groups]`: votes for the same, and other votes, up to the end of each group of equal distance."""
        ordered = weights[:, self.order]
        same = np.cumsum(ordered * self.same, axis=1)[:, self.ends]
        return same, np.cumsum(ordered * (1 - self.same), axis=1)[:, self.ends]

    def average_precision(self, weights: Floats) -> Floats:
        """`[B]` area under the envelope of precision over recall, for each row of `weights`, `[B, N]`."""
        same, other = self._votes(weights)
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.nan_to_num(same / (same + other), nan=0.0)
            envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            found: Floats = (np.diff(same, axis=1, prepend=0) * envelope).sum(axis=1) / same[:, -1]
        return found

    def area(self, weights: Floats) -> Floats:
        """`[B]` chance that a vote for the same is about a nearer pair than another vote; equally near counts half."""
        same, other = self._votes(weights)
        own = np.diff(same, axis=1, prepend=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            above = (np.diff(other, axis=1, prepend=0) * (same - own / 2)).sum(axis=1)
            found: Floats = above / (same[:, -1] * other[:, -1])
        return found


def jnd_average_precision(distances: Floats, same: Floats) -> Measured:
    """JND mAP of LPIPS' evaluation (arXiv 1801.03924): pairs sorted by distance, shares as soft counts, area under the
    precision envelope (VOC), in [0, 1]. It is not the step AP of scikit-learn, which is lower or equal.

    >>> round(jnd_average_precision(np.arange(5.0), np.array([1, 0, 2 / 3, 1 / 3, 1])).value, 6)
    0.733333
    """
    if not len(distances) or not same.any():
        return Measured(None, NO_SAME)
    return measured(SameCurve(distances, same).average_precision(np.ones((1, len(same))))[0], NO_SAME)


def jnd_score(distances: Floats, same: Floats) -> Measured:
    """Area under the ROC curve with shares as soft counts, in [0, 1]; chance is one half. No threshold is chosen, so
    none is chosen on the pairs that it is judged by.

    >>> jnd_score(np.array([0.1, 0.2, 0.2]), np.array([1.0, 1.0, 0.0])).value
    0.75
    """
    if not len(distances):
        return Measured(None, NO_TWO_ANSWERS)
    return measured(SameCurve(distances, same).area(np.ones((1, len(same))))[0], NO_TWO_ANSWERS)


NO_SAME = "needs a pair that somebody took for the same"
NO_TWO_ANSWERS = "needs votes of both kinds, same and different"
