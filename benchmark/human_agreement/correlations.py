"""Correlations of distances with what people said: within groups, and pooled with weights for a bootstrap."""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from benchmark.distances.base import Floats
from benchmark.human_agreement.measures import Measured, measured

Ints = npt.NDArray[np.intp]

NO_ORDER = "needs two items at least, and neither side all equal"
MOST_PAIRS_AT_ONCE = 1_000_000
LARGE = 200
"""Items of a group from which on its pairs are not counted one by one."""


def spearman(x: Floats, y: Floats) -> Measured:
    """Spearman's rank correlation, ties by midranks, in [-1, 1].

    >>> round(spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])).value, 6)
    0.5
    """
    return _of_one(spearman_within, x, y)


def kendall(x: Floats, y: Floats) -> Measured:
    """Kendall's tau-b, in [-1, 1]."""
    return _of_one(kendall_within, x, y)


def pearson(x: Floats, y: Floats) -> Measured:
    """Pearson's correlation, in [-1, 1]."""
    return _of_one(pearson_within, x, y)


Within = Callable[[Ints, Floats, Floats, int], Floats]


def _of_one(within: Within, x: Floats, y: Floats) -> Measured:
    return measured(within(np.zeros(len(x), np.intp), x, y, 1)[0], NO_ORDER)


def midranks(groups: Ints, values: Floats) -> Floats:
    """`[N]` rank of each value among those of its group, from 1; equal values share the mean of their ranks.

    >>> midranks(np.array([0, 0, 0, 1]), np.array([5.0, 3.0, 5.0, 9.0]))
    array([2.5, 1. , 2.5, 1. ])
    """
    n = len(values)
    if n == 0:
        return np.zeros(0)
    order = np.lexsort((values, groups))
    g, v = groups[order], values[order]
    is_new_group = np.append(True, g[1:] != g[:-1])
    starts = np.flatnonzero(is_new_group | np.append(True, v[1:] != v[:-1]))
    sizes = np.diff(np.append(starts, n))
    first_of_group = np.maximum.accumulate(np.where(is_new_group, np.arange(n), 0))
    ranks = np.empty(n)
    ranks[order] = np.repeat(starts + (sizes + 1) / 2, sizes) - first_of_group
    return ranks


def pearson_within(groups: Ints, x: Floats, y: Floats, n_groups: int) -> Floats:
    """`[n_groups]` Pearson's correlation of each group; NaN where a side is constant or not finite."""
    defined = varies(groups, x, n_groups) & varies(groups, y, n_groups)
    usable = np.isfinite(x) & np.isfinite(y)
    defined &= np.bincount(groups, ~usable, n_groups) == 0
    sizes = np.maximum(np.bincount(groups, minlength=n_groups), 1)
    centred = []
    for side in (x, y):
        side = np.where(usable, side, 0.0)
        centred.append(side - (np.bincount(groups, side, n_groups) / sizes)[groups])
    dx, dy = centred
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.sqrt(np.bincount(groups, dx * dx, n_groups)) * np.sqrt(np.bincount(groups, dy * dy, n_groups))
        found = np.bincount(groups, dx * dy, n_groups) / scale
    return np.where(defined, np.clip(found, -1, 1), np.nan)


def spearman_within(groups: Ints, x: Floats, y: Floats, n_groups: int) -> Floats:
    """`[n_groups]` Spearman's correlation of each group; NaN where a side is constant."""
    return pearson_within(groups, midranks(groups, x), midranks(groups, y), n_groups)


def kendall_within(groups: Ints, x: Floats, y: Floats, n_groups: int) -> Floats:
    """`[n_groups]` Kendall's tau-b of each group; NaN where a side is constant."""
    found = np.full(n_groups, np.nan)
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups, minlength=n_groups)
    firsts = np.cumsum(sizes) - sizes
    for size in np.unique(sizes[sizes > 1]):  # groups of one size at once
        own = np.flatnonzero(sizes == size)
        if size >= LARGE:
            found[own] = [_tau(x[members], y[members]) for members in order[firsts[own][:, None] + np.arange(size)]]
            continue
        step = max(1, MOST_PAIRS_AT_ONCE // int(size) ** 2)
        for start in range(0, len(own), step):
            some = own[start : start + step]
            members = order[firsts[some][:, None] + np.arange(size)]
            a, b = (_signs(side[members]) for side in (x, y))
            with np.errstate(divide="ignore", invalid="ignore"):
                n_apart = [np.abs(each).sum(axis=(1, 2)) for each in (a, b)]
                found[some] = (a * b).sum(axis=(1, 2)) / np.sqrt(n_apart[0] * n_apart[1])
    return found


def _tau(x: Floats, y: Floats) -> float:
    from scipy.stats import kendalltau

    return float(kendalltau(x, y).statistic)


def _signs(values: Floats) -> Floats:
    """`[..., n, n]` of `[..., n]`: 1 where the one is larger, -1 where smaller. Compared: infinities may be equal."""
    one, other = values[..., :, None], values[..., None, :]
    found: Floats = (one > other).astype(np.float64) - (one < other)
    return found


def varies(groups: Ints, values: Floats, n_groups: int) -> npt.NDArray[np.bool_]:
    """`[n_groups]` whether the values of each group are not all equal."""
    low, high = np.full(n_groups, np.inf), np.full(n_groups, -np.inf)
    np.minimum.at(low, groups, values)
    np.maximum.at(high, groups, values)
    return low < high


WITHIN: Mapping[str, Within] = {
    "Spearman": spearman_within,
    "Kendall tau-b": kendall_within,
    "Pearson": pearson_within,
}


class PooledSpearman:
    """Spearman's correlation of items that stand so many times in the sample as their weights say."""

    def __init__(self, x: Floats, y: Floats) -> None:
        self.sides = [Ordered(x), Ordered(y)]

    def __call__(self, weights: Floats) -> Floats:
        """`[B]` of `[B, N]` whole weights; NaN where a side is constant."""
        middle = (weights.sum(axis=1, keepdims=True) + 1) / 2
        a, b = (side.midranks(weights) - middle for side in self.sides)
        scales = [(weights * each * each).sum(axis=1) for each in (a, b)]
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Floats = (weights * a * b).sum(axis=1) / np.sqrt(scales[0] * scales[1])
        return found


class Ordered:
    """Values that are ranked again for each sample of them."""

    def __init__(self, values: Floats) -> None:
        self.order = np.argsort(values, kind="stable")
        ordered = values[self.order]
        is_last = np.append(ordered[1:] != ordered[:-1], len(ordered) > 0)
        self.ends = np.flatnonzero(is_last)
        self.group = np.empty(len(values), np.intp)
        self.group[self.order] = np.cumsum(is_last) - is_last

    def midranks(self, weights: Floats) -> Floats:
        """`[B, N]` ranks from 1 in the samples that `weights`, `[B, N]`, describe."""
        up_to = np.cumsum(weights[:, self.order], axis=1)[:, self.ends]
        own = np.diff(up_to, axis=1, prepend=0)
        found: Floats = (up_to - (own - 1) / 2)[:, self.group]
        return found


class PooledKendall:
    """Kendall's tau-b of items that stand so many times in the sample as the weight of their group says."""

    def __init__(self, groups: Ints, x: Floats, y: Floats, n_groups: int) -> None:
        """Each of the groups 0 to `n_groups` - 1 has an item."""
        # Pairs are counted once for each two groups, so that a draw costs groups² and not items².
        self.tables = np.zeros((3, n_groups, n_groups))
        order = np.argsort(groups, kind="stable")
        groups, x, y = groups[order], x[order], y[order]
        starts = np.searchsorted(groups, np.arange(n_groups))
        step = max(1, MOST_PAIRS_AT_ONCE // max(len(x), 1))
        for start in range(0, len(x), step):
            some = slice(start, start + step)
            a, b = ((v[some, None] > v).astype(np.float64) - (v[some, None] < v) for v in (x, y))
            for table, pairs in zip(self.tables, (a * b, np.abs(a), np.abs(b)), strict=True):
                np.add.at(table, groups[some], np.add.reduceat(pairs, starts, axis=1))

    def __call__(self, weights: Floats) -> Floats:
        """`[B]` of `[B, groups]` whole weights; NaN where a side is constant."""
        # A matrix product of whole numbers is exact, whatever the number of threads.
        agree, *apart = (((weights @ table) * weights).sum(axis=1) for table in self.tables)
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Floats = agree / np.sqrt(apart[0] * apart[1])
        return found
