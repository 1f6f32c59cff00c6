"""How well raters agree with each other: intraclass correlations and Krippendorff's alpha, fit for a bootstrap."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, get_args

import numpy as np

from benchmark.distances.base import Floats
from benchmark.human_agreement.correlations import Ints, Ordered
from benchmark.human_agreement.intervals import OfRows, OfSums, Statistic, sums_by
from benchmark.human_agreement.measures import Measured, measured

IccForm = Literal["ICC(1,1)", "ICC(A,1)", "ICC(C,1)", "ICC(1,k)", "ICC(A,k)", "ICC(C,k)"]
ICC_FORMS: tuple[IccForm, ...] = get_args(IccForm)
Level = Literal["nominal", "ordinal", "interval"]

NO_ICC = "needs two raters at least, two items that both rated, and ratings that differ between items"
NO_ALPHA = "needs an item that two raters judged, and answers that are not all the same"
ROUNDING = 1e-12


def icc(ratings: Floats, form: IccForm) -> Measured:
    """Intraclass correlation, named as by McGraw & Wong (1996): 1 one-way, A absolute agreement, C consistency; of one
    rater (1) or of the mean of k raters (k). ICC(A,1) is Shrout & Fleiss' ICC2, ICC(C,1) their ICC3. At most 1.

    Args:
        ratings: `[items, raters]`, none missing.

    >>> round(icc(np.array([[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]]), "ICC(C,1)").value, 6)
    1.0
    """
    if len(ratings) < 2 or ratings.shape[1] < 2:
        return Measured(None, NO_ICC)
    statistic = icc_of_groups(np.zeros(len(ratings), np.intp), 1, ratings, form)
    return measured(statistic(np.ones((1, 1)))[0], NO_ICC)


def icc_of_groups(groups: Ints, n_groups: int, ratings: Floats, form: IccForm) -> Statistic:
    """`icc` as a statistic of the weights of groups of items."""
    ratings = ratings - ratings.mean()  # sums of squares of far-off numbers would cancel
    k = ratings.shape[1]
    rows = ratings.sum(axis=1)
    squares = (ratings**2).sum(axis=1)
    sums = sums_by(groups, n_groups, np.ones(len(rows)), rows, squares, rows**2 / k, *ratings.T)
    return OfSums(sums, partial(_icc, _ICC[form]))


def _icc(form: Callable[..., tuple[Floats, Floats]], sums: Floats) -> Floats:
    n, total, squares, rows, columns = sums[:, 0], sums[:, 1], sums[:, 2], sums[:, 3], sums[:, 4:]
    k = columns.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = total**2 / (n * k)
        all_, between, raters = squares - middle, rows - middle, (columns**2).sum(axis=1) / n - middle
        items, judges = between / (n - 1), raters / (k - 1)
        error, within = (all_ - between - raters) / ((n - 1) * (k - 1)), (all_ - between) / (n * (k - 1))
        above, below = form(items, judges, error, within, n, k)
        found: Floats = np.where((n > 1) & (below > ROUNDING * all_ / (n * k)), above / below, np.nan)
    return found


# Mean squares of items, raters, error, and within items; numbers of items and raters.
_ICC: Mapping[IccForm, Callable[..., tuple[Floats, Floats]]] = {
    "ICC(1,1)": lambda i, r, e, w, n, k: (i - w, i + (k - 1) * w),
    "ICC(A,1)": lambda i, r, e, w, n, k: (i - e, i + (k - 1) * e + k / n * (r - e)),
    "ICC(C,1)": lambda i, r, e, w, n, k: (i - e, i + (k - 1) * e),
    "ICC(1,k)": lambda i, r, e, w, n, k: (i - w, i),
    "ICC(A,k)": lambda i, r, e, w, n, k: (i - e, i + (r - e) / n),
    "ICC(C,k)": lambda i, r, e, w, n, k: (i - e, i),
}


def krippendorff_alpha(units: Ints, values: Floats, level: Level, times: Floats | None = None) -> Measured:
    """Krippendorff's alpha (2011, *Computing Krippendorff's alpha-reliability*): 1 where all agree, 0 as by
    chance, below 0 where they agree less. Units that were judged once say nothing and are left out.

    Args:
        units, values: `[N]` what was judged, and the answer.
        times: how many raters gave that answer; one each where None.

    >>> krippendorff_alpha(np.array([0, 0, 1, 1]), np.array([1.0, 1.0, 2.0, 2.0]), "nominal").value
    1.0
    """
    if not len(units):
        return Measured(None, NO_ALPHA)
    times = np.ones(len(units)) if times is None else times
    statistic = alpha_of_groups(np.zeros(len(units), np.intp), 1, units, values, times, level)
    return measured(statistic(np.ones((1, 1)))[0], NO_ALPHA)


def alpha_of_groups(groups: Ints, n_groups: int, units: Ints, values: Floats, times: Floats, level: Level) -> Statistic:
    """`krippendorff_alpha` as a statistic of the weights of groups of units."""
    n_answers = np.bincount(units, times)
    pairable = (n_answers[units] > 1) & (times > 0)
    groups, units, values, times = groups[pairable], units[pairable], values[pairable], times[pairable]
    if not len(units):
        return OfSums(np.zeros((n_groups, 1)), lambda sums: np.full(len(sums), np.nan))
    _, first, unit = np.unique(units, return_index=True, return_inverse=True)
    n: Floats = np.bincount(unit, times).astype(np.float64)
    own = groups[first]
    if level == "interval":
        values = values - np.average(values, weights=times)
        total, squares = (np.bincount(unit, times * values**power).astype(np.float64) for power in (1, 2))
        observed: Floats = 2 * (n * squares - total**2) / (n - 1)
        return OfSums(sums_by(own, n_groups, observed, n, total, squares), _interval_alpha)
    if level == "ordinal":
        order = np.argsort(unit, kind="stable")
        return OfRows(groups[order], np.ones(len(order)), _OrdinalAlpha(unit[order], values[order], times[order]))
    _, value = np.unique(values, return_inverse=True)
    counts = np.zeros((len(n), value.max() + 1))  # [units, values]
    np.add.at(counts, (unit, value), times)
    observed = (n**2 - (counts**2).sum(axis=1)) / (n - 1)
    return OfSums(sums_by(own, n_groups, observed, *counts.T), _nominal_alpha)


def _alpha(observed: Floats, expected: Floats, n: Floats) -> Floats:
    """1 - observed / expected disagreement, where the latter is more than rounding of sums over n answers."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.where(expected > ROUNDING * n, 1 - observed / expected, np.nan)
    return found


def _nominal_alpha(sums: Floats) -> Floats:
    observed, counts = sums[:, 0], sums[:, 1:]
    n = counts.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = (n**2 - (counts**2).sum(axis=1)) / (n - 1)
    return _alpha(observed, expected, n)


def _interval_alpha(sums: Floats) -> Floats:
    observed, n, total, squares = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = 2 * (n * squares - total**2) / (n - 1)
    return _alpha(observed, expected, squares)


class _OrdinalAlpha:
    """Alpha of ranks: the ordinal difference of two values is that of their midranks among all answers."""

    def __init__(self, unit: Ints, values: Floats, times: Floats) -> None:
        """Rows sorted by unit, numbered from 0; each has two answers."""
        self.ordered, self.times = Ordered(values), times
        self.starts = np.searchsorted(unit, np.arange(unit[-1] + 1))
        self.n = np.add.reduceat(times, self.starts)

    def __call__(self, weights: Floats) -> Floats:
        """`[B]` of `[B, rows]`: how often each row's unit stands in the sample."""
        drawn = weights * self.times
        n = drawn.sum(axis=1)
        ranks = self.ordered.midranks(drawn) - (n[:, None] + 1) / 2
        total, squares = (np.add.reduceat(self.times * ranks**p, self.starts, axis=1) for p in (1, 2))
        observed = 2 * (self.n * squares - total**2) / (self.n - 1)
        units = weights[:, self.starts]
        sums = [(units * each).sum(axis=1) for each in (observed, self.n, total, squares)]
        return _interval_alpha(np.stack(sums, axis=1))
