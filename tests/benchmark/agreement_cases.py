"""Means of runs under embedders as tests make them up, and tau-b and its interval the slow way."""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from benchmark.statistics import N_RESAMPLES, SEED

Means = dict[str, dict[str, dict[str, float]]]


def counted_tau_b(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b by counting pairs one by one."""
    n_concordant = n_discordant = n_untied_first = n_untied_second = 0
    for i, j in itertools.combinations(range(len(first)), 2):
        a, b = (0 if abs(of[i] - of[j]) < 1e-9 else of[i] - of[j] for of in (first, second))
        n_concordant += a * b > 0
        n_discordant += a * b < 0
        n_untied_first += a != 0
        n_untied_second += b != 0
    if not n_untied_first or not n_untied_second:
        return None
    return (n_concordant - n_discordant) / math.sqrt(n_untied_first * n_untied_second)


def slow_interval(first: np.ndarray, second: np.ndarray) -> tuple[float | None, float | None, int]:
    """The same resamples, each spelt out as a list of identities, and quantiles by linear interpolation."""
    n_runs, n = first.shape
    rng = np.random.default_rng(SEED)
    taus = []
    n_undefined = 0
    for _ in range(N_RESAMPLES):
        drawn = [i for i, times in enumerate(rng.multinomial(n, [1 / n] * n)) for _ in range(times)]
        means = [[math.fsum(float(of[run, i]) for i in drawn) / n for run in range(n_runs)] for of in (first, second)]
        tau = counted_tau_b(*means)
        if tau is None:
            n_undefined += 1
        else:
            taus.append(tau)
    taus.sort()
    bounds = []
    for share in (0.025, 0.975):
        at = share * (len(taus) - 1)
        below = math.floor(at)
        above = min(below + 1, len(taus) - 1)
        bounds.append(taus[below] + (at - below) * (taus[above] - taus[below]))
    return bounds[0], bounds[1], n_undefined


IDENTITIES = [f"dog {i:02d}" for i in range(12)]


def means_of(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> Means:
    """Embedder → run → scores of the first identities."""
    return {
        embedder: {run: dict(zip(IDENTITIES, values, strict=False)) for run, values in of.items()}
        for embedder, of in scores.items()
    }


CLEARLY, SLIGHTLY = [0.2 + 0.01 * i for i in range(12)], [0.2, -0.1] * 6
