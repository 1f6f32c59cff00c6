"""Distances on the same judgements against each other: difference, interval, p, and who is tied with the best."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmark.distances.base import Floats
from benchmark.human_agreement.agreement import Measure, people_side
from benchmark.human_agreement.correlations import WITHIN
from benchmark.human_agreement.intervals import Bounds, bounds_of, drawn, mean_of
from benchmark.human_agreement.measures import odd_one_out_scores, two_afc_scores
from benchmark.human_agreement.questions import Questions
from benchmark.statistics import holm, sign_flip_p

ALPHA = 0.05
FLIPPED_UP_TO = 1000
"""Targets up to which signs are flipped; beyond, the limit of that test is nearer to its p than random flips are."""
HOW_COMPARED = {
    False: "sign flips over targets",
    True: "percentile bootstrap over targets",
}
"""Whether it is of JND → the test."""


@dataclass(frozen=True)
class Comparison:
    """Two distances on the same judgements: first - second, positive where the first agrees better.

    Attributes:
        p_holm: p, corrected over all pairs (Holm 1979).
    """

    first: str
    second: str
    difference: float
    low: float | None
    high: float | None
    p: float
    p_holm: float


def compared(
    q: Questions, distances: Mapping[str, Floats], main: Mapping[str, Measure]
) -> tuple[list[Comparison], list[str]]:
    """All pairs of distances by the main measure, and those that are not significantly worse than the best; nothing
    where fewer than two can be compared.

    Args:
        distances: spec → `[N, K]` of the rows of `q`.
        main: spec → its main measure.
    """
    found = _pairs_by_draws(q, main) if q.kind == "jnd" else _pairs_by_flips(q, distances)
    corrected = holm([p for *_, p in found])
    comparisons = [
        Comparison(first, second, value, bounds and bounds[0], bounds and bounds[1], p, p_holm)
        for (first, second, value, bounds, p), p_holm in zip(found, corrected, strict=True)
    ]
    names = sorted({name for c in comparisons for name in (c.first, c.second)}, key=lambda n: -(main[n].value or 0.0))
    worse = {
        c.second if c.difference > 0 else c.first
        for c in comparisons
        if c.p_holm < ALPHA and names[0] == (c.first if c.difference > 0 else c.second)
    }
    return comparisons, [name for name in names if name not in worse]


Pair = tuple[str, str, float, Bounds | None, float]
"""First, second, difference, its interval, p."""


def _pairs_by_flips(q: Questions, distances: Mapping[str, Floats]) -> list[Pair]:
    """By targets that the measure is defined for under both; each weighs as in the measure."""
    own, n = {spec: _target_values(q, of) for spec, of in distances.items()}, len(q.targets)
    weights = np.ones(n) if q.kind in ("ranking", "rating") else np.bincount(q.target_of, minlength=n).astype(float)
    apart = {(a, b): own[a] - own[b] for a, b in itertools.combinations(own, 2)}
    pairs = [pair for pair, values in apart.items() if not np.isnan(values).all()]
    draws = drawn([mean_of(np.arange(n), n, apart[pair], weights) for pair in pairs], n).T
    found: list[Pair] = []
    for pair, of in zip(pairs, draws, strict=True):
        known = ~np.isnan(apart[pair])
        sums = (apart[pair] * weights)[known]
        difference = math.fsum(sums) / math.fsum(weights[known])
        found.append((*pair, difference, bounds_of(of) if len(sums) > 1 else None, flip_p(sums)))
    return found


def flip_p(differences: Floats) -> float:
    """Two-sided p of the sign-flip test: `statistics.sign_flip_p`, and beyond `FLIPPED_UP_TO` its normal limit."""
    if len(differences) <= FLIPPED_UP_TO:
        return sign_flip_p(differences)
    spread = math.sqrt(2 * math.fsum(differences**2))
    return math.erfc(abs(math.fsum(differences)) / spread) if spread else 1.0


def _target_values(q: Questions, distances: Floats) -> Floats:
    """`[targets]` the main measure of each; NaN where undefined."""
    n = len(q.targets)
    if q.kind in ("ranking", "rating"):
        return WITHIN["Spearman"](q.target_of, distances[q.first, 0], people_side(q, q.mean_answer), n)
    if q.kind == "2afc":
        scores = two_afc_scores(distances[:, 0], distances[:, 1], q.answer)
    else:
        scores = odd_one_out_scores(distances, q.answer)
    sums = mean_of(q.target, n, scores, q.share).sums
    found: Floats = sums[:, 0] / sums[:, 1]
    return found


def _pairs_by_draws(q: Questions, measures: Mapping[str, Measure]) -> list[Pair]:
    """By the same draws of both: a mean average precision is no mean over targets whose signs could be flipped."""
    ready = {
        spec: (m.value, m.by_target) for spec, m in measures.items() if m.by_target is not None and m.value is not None
    }
    draws = drawn([statistic for _, statistic in ready.values()], len(q.targets), len(q.rows))
    found: list[Pair] = []
    for (i, first), (j, second) in itertools.combinations(enumerate(ready), 2):
        apart = draws[:, i] - draws[:, j]
        apart = apart[np.isfinite(apart)]
        n_beyond = min(np.count_nonzero(apart <= 0), np.count_nonzero(apart >= 0))
        p = min(1.0, 2 * (int(n_beyond) + 1) / (len(apart) + 1))
        found.append((first, second, ready[first][0] - ready[second][0], bounds_of(apart), p))
    return found
