"""Uncertainty: bootstrap over identities, paired permutation tests, ranges of ranks.

Queries of one identity are not independent, so identities are what is drawn, and what is paired.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

N_RESAMPLES = 2000
N_SIGN_FLIPS = 20_000
EXACT_UP_TO = 14
"""Shared identities up to which all 2^n sign flips are tried."""
SEED = 0
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; the bounds are None where fewer than two identities allow no interval."""

    value: float
    low: float | None
    high: float | None


def estimate_mean(values: Sequence[float], identities: Sequence[str]) -> Estimate | None:
    """Mean over queries, with a percentile bootstrap interval over identities.

    NaN values (a score that is undefined for the query) are left out; None if nothing remains.
    The result does not depend on the order of the queries.
    """
    defined = [(v, i) for v, i in zip(values, identities, strict=True) if not math.isnan(v)]
    return estimate_ratio([v for v, _ in defined], [1.0] * len(defined), [i for _, i in defined])


def estimate_ratio(
    numerators: Sequence[float], denominators: Sequence[float], identities: Sequence[str]
) -> Estimate | None:
    """Σ numerators / Σ denominators over queries, with a percentile bootstrap interval over identities.

    None if there is no query, or if the denominators do not add up to more than 0.
    """
    above, below = _totals(numerators, identities), _totals(denominators, identities)
    if len(below) == 0 or math.fsum(below) <= 0:
        return None
    return _estimate(math.fsum(above) / math.fsum(below), _resampled_ratios(above, below))


def estimate_mean_of_identities(values: Sequence[float], identities: Sequence[str]) -> Estimate | None:
    """Mean over identities of their own means: every identity weighs the same."""
    defined = [(v, i) for v, i in zip(values, identities, strict=True) if not math.isnan(v)]
    own = [i for _, i in defined]
    means = _totals([v for v, _ in defined], own) / np.maximum(_totals([1.0] * len(own), own), 1)
    return estimate_mean(means.tolist(), [f"{i:09d}" for i in range(len(means))])


def estimate_mean_of_categories(
    values: Sequence[float], identities: Sequence[str], categories: Sequence[str]
) -> Estimate | None:
    """Mean over categories of their means over queries (macro); identities are drawn within their category.

    No interval where a category has a single identity.
    """
    members: dict[str, list[int]] = {}
    for i, (value, category) in enumerate(zip(values, categories, strict=True)):
        if not math.isnan(value):
            members.setdefault(category, []).append(i)
    if not members:
        return None
    means, draws = [], []
    for _, own in sorted(members.items()):
        above = _totals([values[i] for i in own], [identities[i] for i in own])
        below = _totals([1.0] * len(own), [identities[i] for i in own])
        means.append(math.fsum(above) / math.fsum(below))
        draws.append(_resampled_ratios(above, below))
    has_all = all(len(draw) for draw in draws)
    return _estimate(math.fsum(means) / len(means), np.mean(draws, axis=0) if has_all else np.zeros(0))


def _totals(values: Sequence[float], identities: Sequence[str]) -> Floats:
    """Sum of each identity's values, in the order of their names; the same in any order of queries."""
    by_identity: dict[str, list[float]] = {}
    for identity, value in zip(identities, values, strict=True):
        by_identity.setdefault(identity, []).append(value)
    return np.array([math.fsum(by_identity[identity]) for identity in sorted(by_identity)])


def _resampled_ratios(above: Floats, below: Floats) -> Floats:
    """`[N_RESAMPLES]` ratios of sums over identities drawn with replacement; empty if there are fewer than two."""
    n = len(above)
    if n < 2:
        return np.zeros(0)
    rng = np.random.default_rng(SEED)
    ratios = []
    step = max(1, min(N_RESAMPLES, 4_000_000 // n))
    for start in range(0, N_RESAMPLES, step):
        weights = rng.multinomial(n, [1 / n] * n, size=min(step, N_RESAMPLES - start))
        # Not a matrix product: its last bits depend on the number of threads.
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios.append((weights * above).sum(axis=1) / (weights * below).sum(axis=1))
    return np.concatenate(ratios)


def _estimate(value: float, draws: Floats) -> Estimate:
    draws = draws[np.isfinite(draws)]
    if len(draws) == 0:
        return Estimate(value, None, None)
    if np.ptp(draws) < 1e-12:  # a constant score: only rounding is left
        return Estimate(value, value, value)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


@dataclass(frozen=True)
class PairedDifference:
    """How two runs differ over the identities that both were asked for.

    Attributes:
        difference: mean over shared identities of (first - second), each identity's mean over its queries.
        p: two-sided sign-flip permutation test.
        p_holm: the same, corrected over all pairs compared (Holm 1979).
        smallest_p: the smallest p that so few identities can give.
    """

    first: str
    second: str
    difference: Estimate
    n_identities: int
    p: float
    p_holm: float
    smallest_p: float


@dataclass(frozen=True)
class RankRange:
    """Places that a run may hold: it is behind every run that is significantly better, before all that are worse."""

    name: str
    mean: float
    best: int
    worst: int
    tied_with_best: bool


def compare_paired(
    means: Mapping[str, Mapping[str, float]], alpha: float = 0.05
) -> tuple[list[PairedDifference], list[RankRange]]:
    """Compare runs pair by pair, and give each a range of ranks.

    Args:
        means: run → identity → mean score over the run's queries of that identity.
        alpha: level of the corrected test.

    Raises:
        ValueError: no two runs share an identity. Pairs that share none are left out.
    """
    tested = []
    for first, second in itertools.combinations(means, 2):
        shared = sorted(means[first].keys() & means[second].keys())
        if not shared:
            continue
        differences = np.array([means[first][i] - means[second][i] for i in shared])
        estimate = estimate_mean(differences.tolist(), shared)
        assert estimate is not None
        tested.append((first, second, estimate, len(shared), sign_flip_p(differences)))
    if not tested:
        raise ValueError(f"{', '.join(means)} share no identity")
    adjusted = holm([p for *_, p in tested])
    pairs = [
        PairedDifference(first, second, estimate, n, p, p_holm, _smallest_p(n))
        for (first, second, estimate, n, p), p_holm in zip(tested, adjusted, strict=True)
    ]
    return pairs, _rank_ranges(means, pairs, alpha)


def sign_flip_p(differences: Floats) -> float:
    """Two-sided p of the hypothesis that each difference is as likely to have the other sign.

    Exact up to `EXACT_UP_TO` differences; else `N_SIGN_FLIPS` random flips, the observed one counted among them.
    """
    n = len(differences)
    observed = abs(differences.sum())
    at_least = observed - 1e-12 * max(1.0, np.abs(differences).sum())
    if n <= EXACT_UP_TO:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float(np.mean(np.abs((signs * differences).sum(axis=1)) >= at_least))
    rng = np.random.default_rng(SEED)
    n_extreme, step = 0, max(1, 4_000_000 // n)
    for start in range(0, N_SIGN_FLIPS, step):
        signs = 1 - 2 * rng.integers(0, 2, size=(min(step, N_SIGN_FLIPS - start), n))
        n_extreme += int(np.count_nonzero(np.abs((signs * differences).sum(axis=1)) >= at_least))
    return (n_extreme + 1) / (N_SIGN_FLIPS + 1)


def _smallest_p(n_identities: int) -> float:
    return 2 / 2**n_identities if n_identities <= EXACT_UP_TO else 1 / (N_SIGN_FLIPS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def _rank_ranges(
    means: Mapping[str, Mapping[str, float]], pairs: Sequence[PairedDifference], alpha: float
) -> list[RankRange]:
    beaten_by: dict[str, set[str]] = {name: set() for name in means}
    for pair in pairs:
        if pair.p_holm < alpha:
            better, worse = (pair.first, pair.second) if pair.difference.value > 0 else (pair.second, pair.first)
            beaten_by[worse].add(better)
    overall = {name: math.fsum(of.values()) / len(of) for name, of in means.items()}
    ordered = sorted(means, key=lambda name: (-overall[name], name))
    return [
        RankRange(
            name,
            overall[name],
            best=1 + len(beaten_by[name]),
            worst=len(means) - sum(name in others for others in beaten_by.values()),
            tied_with_best=ordered[0] not in beaten_by[name],
        )
        for name in ordered
    ]
