"""Intervals of any statistic of agreement: percentile bootstrap over targets, or over raters.

A statistic is a function of weights: how often each group (a target, a rater) stands in the sample. At weights of 1 it
is the value itself, at the weights of a draw that of the resampled data. Draws are made once for all statistics.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.distances.base import Floats
from benchmark.human_agreement.correlations import Ints
from benchmark.statistics import LEVEL, MOST_AT_ONCE, N_RESAMPLES, SEED

Statistic = Callable[[Floats], Floats]
"""`[B, groups]` weights → `[B]` values, NaN where undefined."""
Bounds = tuple[float, float]


@dataclass(frozen=True)
class OfSums:
    """A statistic that needs no more than sums over groups.

    Attributes:
        sums: `[groups, K]`.
        of: `[B, K]` sums → `[B]`.
    """

    sums: Floats
    of: Statistic

    def __call__(self, weights: Floats) -> Floats:
        # Not a matrix product: its last bits depend on the number of threads.
        return self.of(np.einsum("bg,kg->bk", weights, np.ascontiguousarray(self.sums.T)))


@dataclass(frozen=True)
class OfRows:
    """A statistic that needs the weight of every row.

    Attributes:
        groups: `[N]` group of each row.
        share: `[N]` weight of each row in its group.
        of: `[B, N]` weights of rows → `[B]`.
    """

    groups: Ints
    share: Floats
    of: Statistic

    def __call__(self, weights: Floats) -> Floats:
        return self.of(weights[:, self.groups] * self.share)


def sums_by(groups: Ints, n_groups: int, *columns: Floats) -> Floats:
    """`[n_groups, len(columns)]`: sums of each column over the rows of each group."""
    return np.stack([np.bincount(groups, column, n_groups) for column in columns], axis=1)


def mean_of(groups: Ints, n_groups: int, values: Floats, shares: Floats | None = None) -> OfSums:
    """The mean of values, `[N]`, weighted by shares; NaN among the values are left out."""
    shares = np.where(np.isnan(values), 0.0, 1.0 if shares is None else shares)
    return OfSums(sums_by(groups, n_groups, np.nan_to_num(values, nan=0.0) * shares, shares), _ratio)


def _ratio(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = sums[:, 0] / sums[:, 1]
    return found


def value_of(statistic: Statistic, n_groups: int) -> float:
    """The statistic of the data as they are; NaN where it is undefined."""
    return float(statistic(np.ones((1, n_groups)))[0]) if n_groups else float("nan")


def drawn(statistics: Sequence[Statistic], n_groups: int, n_rows: int = 0, stream: int = 0) -> Floats:
    """`[N_RESAMPLES, len(statistics)]` values on groups drawn with replacement; no row for fewer than two groups.

    Args:
        n_rows: of the data, which decides how many draws are held at once. It moves no number.
        stream: draws of one stream are the same whenever as many groups are drawn; other streams are independent.
    """
    if n_groups < 2 or not statistics:
        return np.zeros((0, len(statistics)))
    blocks = _weight_blocks(n_groups, max(n_groups, n_rows), stream)
    return np.concatenate([np.stack([each(weights) for each in statistics], axis=1) for weights in blocks])


def _weight_blocks(n: int, width: int, stream: int) -> Iterator[Floats]:
    # Counted, not drawn from a multinomial distribution as `statistics.resample_weights` does: ten times as fast for
    # the tens of thousands of targets that data sets of triplets have.
    rng = np.random.default_rng([SEED, stream])
    step = max(1, MOST_AT_ONCE // width)
    for start in range(0, N_RESAMPLES, step):
        rows = min(step, N_RESAMPLES - start)
        yield np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(rows)]).astype(np.float64)


def bounds_of(draws: Floats) -> Bounds | None:
    """The 95 % percentile interval of the draws that are defined; None where there is none."""
    draws = draws[np.isfinite(draws)]
    if len(draws) == 0:
        return None
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
