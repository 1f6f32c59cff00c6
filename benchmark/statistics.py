"""Uncertainty: bootstrap over identities, paired permutation tests, ranges of ranks.

Queries of one identity are not independent, so identities are what is drawn, and what is paired.
"""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.unsignedinteger]
Signs = npt.NDArray[np.int8]

N_RESAMPLES = 2000
N_SIGN_FLIPS = 20_000
EXACT_UP_TO = 14
"""Shared identities up to which all 2^n sign flips are tried."""
SEED = 0
LEVEL = 0.95
MOST_AT_ONCE = 1_000_000
"""Numbers that an array of draws, or of their sums, holds at a time."""


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
    if len({i for _, i in defined}) == 1:  # most are asked for, identity by identity, and have no interval
        return Estimate(math.fsum(v for v, _ in defined) / len(defined), None, None)
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


def resample_weights(n: int) -> Counts:
    """`[N_RESAMPLES, n]`: how often each of n identities is drawn, in each draw of n with replacement."""
    return np.concatenate(list(_weight_blocks(n)))


def _weight_blocks(n: int) -> Iterator[Counts]:
    yield from _few_weights(n) if n * N_RESAMPLES <= MOST_AT_ONCE else _drawn_weights(n)


@lru_cache(maxsize=8)
def _few_weights(n: int) -> tuple[Counts, ...]:
    """Kept, for every metric asks for the same again."""
    return tuple(_drawn_weights(n))


def _drawn_weights(n: int) -> Iterator[Counts]:
    rng = np.random.default_rng(SEED)
    step = max(1, MOST_AT_ONCE // n)
    for start in range(0, N_RESAMPLES, step):
        yield rng.multinomial(n, [1 / n] * n, size=min(step, N_RESAMPLES - start)).astype(np.min_scalar_type(n))


def _resampled_ratios(above: Floats, below: Floats) -> Floats:
    """`[N_RESAMPLES]` ratios of sums over identities drawn with replacement; empty if there are fewer than two."""
    n = len(above)
    if n < 2:
        return np.zeros(0)
    is_balanced = below[0].is_integer() and (below == below[0]).all()  # as many queries of each: any n draw as many
    ratios = []
    for weights in _weight_blocks(n):
        # Not a matrix product: its last bits depend on the number of threads.
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = n * below[0] if is_balanced else (weights * below).sum(axis=1)
            ratios.append((weights * above).sum(axis=1) / drawn)
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
        ValueError: a mean is not finite, or no two runs share an identity. Pairs that share none are left out.
    """
    peers = _peers(means)
    p_values, estimates = _p_values(peers), _estimates(peers)
    tested = [pair for pair in itertools.combinations(means, 2) if pair in p_values]
    if not tested:
        raise ValueError(f"{', '.join(means)} share no identity")
    adjusted = holm([p_values[pair] for pair in tested])
    pairs = []
    for (first, second), p_holm in zip(tested, adjusted, strict=True):
        n = len(means[first].keys() & means[second].keys())
        p = p_values[first, second]
        pairs.append(PairedDifference(first, second, estimates[first, second], n, p, p_holm, _smallest_p(n)))
    apart = [(pair.first, pair.second, pair.difference.value) for pair in pairs if pair.p_holm < alpha]
    return pairs, _rank_ranges(means, apart)


def rank_ranges(means: Mapping[str, Mapping[str, float]], alpha: float = 0.05) -> list[RankRange]:
    """The ranges of ranks of `compare_paired`, without its intervals.

    Runs that share no identity are not told apart: alone, or where none share any, each may hold every place.

    Raises:
        ValueError: a mean is not finite.
    """
    n_pairs: dict[int, int] = {}
    for (a, own), (b, others) in itertools.combinations_with_replacement(_by_identities(means).items(), 2):
        n, n_more = len(a & b), math.comb(len(own), 2) if a is b else len(own) * len(others)
        if n and n_more:
            n_pairs[n] = n_pairs.get(n, 0) + n_more
    smallest_p = min(map(_smallest_p, n_pairs), default=1.0)
    if sum(n_pairs.values()) * smallest_p >= alpha:  # nothing can pass the first step of Holm's correction
        return _rank_ranges(means, [])
    p_values = _p_values(_peers(means))
    apart = []
    for (first, second), p in zip(p_values, holm(list(p_values.values())), strict=True):
        if p < alpha:
            shared = means[first].keys() & means[second].keys()
            apart.append((first, second, math.fsum(means[first][i] - means[second][i] for i in shared)))
    return _rank_ranges(means, apart)


@dataclass(frozen=True)
class _Peers:
    """Runs of which every pair that is compared shares the same n identities.

    Attributes:
        means: `[len(names), n]`.
        others: for each run, the places of those behind it that it is compared with.
    """

    names: Sequence[str]
    means: Floats
    others: Sequence[npt.NDArray[np.intp]]

    def pairs(self) -> Iterator[tuple[int, int]]:
        return ((i, int(j)) for i, others in enumerate(self.others) for j in others)


def _by_identities(means: Mapping[str, Mapping[str, float]]) -> dict[frozenset[str], list[str]]:
    """The runs of each set of identities."""
    found: dict[frozenset[str], list[str]] = {}
    for name, of in means.items():
        if not all(map(math.isfinite, of.values())):
            raise ValueError(f"{name} has a mean that is not a finite number")
        found.setdefault(frozenset(of), []).append(name)
    return found


def _peers(means: Mapping[str, Mapping[str, float]]) -> dict[int, list[_Peers]]:
    """Every pair that shares identities, once, under the number of these; the first named comes first."""
    place = {name: i for i, name in enumerate(means)}
    found: dict[int, list[_Peers]] = {}
    for (a, own), (b, others) in itertools.combinations_with_replacement(_by_identities(means).items(), 2):
        shared = sorted(a & b)
        names = own if a is b else sorted(own + others, key=place.__getitem__)
        if not shared or len(names) < 2:
            continue
        side = np.isin(names, own)
        behind = [i + 1 + np.flatnonzero((side[i + 1 :] != side[i]) | (a is b)) for i in range(len(names))]
        table = np.array([[means[name][identity] for identity in shared] for name in names])
        found.setdefault(len(shared), []).append(_Peers(names, table, behind))
    return found


def _sums(rows: Floats, draws: Counts | Signs) -> Floats:
    """`[len(rows), len(draws)]` sums of each row, `[n]`, weighted by each draw, `[n]`."""
    step = max(1, MOST_AT_ONCE // draws.shape[1])
    parts = [draws[start : start + step].astype(np.float64) for start in range(0, len(draws), step)]
    # Not a matrix product: its last bits depend on the number of threads.
    return np.concatenate([np.einsum("kj,ij->ki", rows, part) for part in parts], axis=1)


def _estimates(peers: Mapping[int, Collection[_Peers]]) -> dict[tuple[str, str], Estimate]:
    """The mean difference of each pair, with its interval."""
    found = {}
    for n, with_n in peers.items():
        weights = resample_weights(n)
        for own in with_n:
            # The resampled mean of a difference is the difference of resampled means, and these are few.
            drawn = _sums(own.means, weights) / n if n > 1 else np.zeros((len(own.names), 0))
            for i, j in own.pairs():
                value = math.fsum(own.means[i] - own.means[j]) / n
                found[own.names[i], own.names[j]] = _estimate(value, drawn[i] - drawn[j])
    return found


def _p_values(peers: Mapping[int, Collection[_Peers]]) -> dict[tuple[str, str], float]:
    """`sign_flip_p` of each pair."""
    found: dict[tuple[str, str], float] = {}
    for n, with_n in peers.items():
        tests = [_SignFlips(own) for own in with_n]
        for signs in _sign_blocks(n, max(len(own.names) for own in with_n)):
            for test in tests:
                test.add(signs)
        for test in tests:
            found |= test.p_values()
    return found


class _SignFlips:
    """Counts, for each pair of runs, the flips at least as extreme as what was observed; flips come in blocks."""

    def __init__(self, own: _Peers) -> None:
        self.own = own
        self.rows = own.means - own.means[0]
        n, sizes = self.rows.shape[1], np.abs(self.rows).sum(axis=1)
        self.at_least, self.rounding = [], []
        for i, others in enumerate(own.others):
            self.at_least.append(_at_least(own.means[i] - own.means[others]))
            # Twice what rounding can add up to, here and in `sign_flip_p`.
            self.rounding.append((n + 2) * np.finfo(np.float64).eps * (sizes[i] + sizes[others]))
        self.extreme = [np.zeros(len(others), np.int64) for others in own.others]
        self.doubtful = [np.zeros(len(others), np.bool_) for others in own.others]

    def add(self, signs: Signs) -> None:
        # A flipped sum of differences is the difference of the two runs' flipped sums.
        flipped = _sums(self.rows, signs)
        for i, others in enumerate(self.own.others):
            beyond = np.abs(flipped[i] - flipped[others]) - self.at_least[i][:, None]
            self.extreme[i] += np.count_nonzero(beyond >= 0, axis=1)
            self.doubtful[i] |= (np.abs(beyond) <= self.rounding[i][:, None]).any(axis=1)

    def p_values(self) -> dict[tuple[str, str], float]:
        """The p of each pair; where rounding could decide whether a flip counts, that of its own differences."""
        own = self.own
        found: dict[tuple[str, str], float] = {}
        for i, others in enumerate(own.others):
            for j, n_extreme, is_doubtful in zip(others, self.extreme[i], self.doubtful[i], strict=True):
                pair = own.names[i], own.names[j]
                if is_doubtful:
                    found[pair] = sign_flip_p(own.means[i] - own.means[j])
                else:
                    found[pair] = _p(int(n_extreme), own.means.shape[1])
        return found


def sign_flips(n: int) -> Signs:
    """`[N, n]` signs, 1 or -1, of the flips that are tried: all 2^n up to `EXACT_UP_TO`, else `N_SIGN_FLIPS`."""
    return np.concatenate(list(_sign_blocks(n)))


def _sign_blocks(n: int, width: int = 1) -> Iterator[Signs]:
    """The flips of n signs in blocks, few enough to keep `width` numbers for each."""
    step = max(1, MOST_AT_ONCE // max(n, width))
    rng = np.random.default_rng(SEED)
    n_flips = _n_flips(n)
    for start in range(0, n_flips, step):
        rows = min(step, n_flips - start)
        if n <= EXACT_UP_TO:
            flipped = (np.arange(start, start + rows)[:, None] >> np.arange(n)) & 1
        else:
            flipped = rng.integers(0, 2, size=(rows, n))
        yield (1 - 2 * flipped).astype(np.int8)


def _n_flips(n: int) -> int:
    return 2**n if n <= EXACT_UP_TO else N_SIGN_FLIPS


def _p(n_extreme: int, n: int) -> float:
    """The p of so many flips at least as extreme; random ones do not include the observed one, which is added."""
    return n_extreme / 2**n if n <= EXACT_UP_TO else (n_extreme + 1) / (N_SIGN_FLIPS + 1)


def _at_least(differences: Floats) -> Floats:
    """From which absolute sum on a flip is as extreme as what was observed; `differences` is `[..., n]`."""
    size = np.abs(differences).sum(axis=-1)
    return np.asarray(np.abs(differences.sum(axis=-1)) - 1e-12 * np.maximum(1.0, size))


def sign_flip_p(differences: Floats) -> float:
    """Two-sided p of the hypothesis that each difference is as likely to have the other sign.

    Exact up to `EXACT_UP_TO` differences; else `N_SIGN_FLIPS` random flips, the observed one counted among them.
    """
    n = len(differences)
    at_least = _at_least(differences)
    n_extreme = 0
    for signs in _sign_blocks(n):
        n_extreme += int(np.count_nonzero(np.abs((signs * differences).sum(axis=1)) >= at_least))
    return _p(n_extreme, n)


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
    means: Mapping[str, Mapping[str, float]], apart: Collection[tuple[str, str, float]]
) -> list[RankRange]:
    """Ranges of ranks, where `apart` holds the pairs that differ significantly, with (first - second)."""
    beaten_by: dict[str, set[str]] = {name: set() for name in means}
    n_beaten = dict.fromkeys(means, 0)
    for first, second, difference in apart:
        better, worse = (first, second) if difference > 0 else (second, first)
        beaten_by[worse].add(better)
        n_beaten[better] += 1
    overall = {name: math.fsum(of.values()) / len(of) for name, of in means.items()}
    ordered = sorted(means, key=lambda name: (-overall[name], name))
    return [
        RankRange(
            name,
            overall[name],
            best=1 + len(beaten_by[name]),
            worst=len(means) - n_beaten[name],
            tied_with_best=ordered[0] not in beaten_by[name],
        )
        for name in ordered
    ]
