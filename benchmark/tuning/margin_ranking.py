"""Non-negative weights that rank as people do: a margin ranking loss with a pull, solved to its optimum. Pure numpy.

Of N pictures, each compared with its target, `differences` holds `[N, F]` features ≥ 0, and a distance is
`differences @ weights`. The weights minimise, over `weights ≥ 0`,

    Σ_p share_p · max(0, margin - (d_far - d_near) / unit)  +  pull / 2 · |weights - start|² · spread / unit²

over pairs p of which people hold one picture for nearer. `unit` is the root mean square of `d_far - d_near` at the
start, `spread` the mean square of the same gap of the features, so that margin and pull mean the same at any scale of
features and distances. The problem is convex: it has one optimum, and no learning rate, order or seed decides what is
found.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

TOLERANCE = 1e-3
"""In margins: how far from the optimum the solution may be."""
MOST_STEPS = 10_000
LOOK_EVERY = 10
"""Steps between two looks at how far from the optimum it is."""
LEAST_SPREAD = 1e-30
"""Of features that are 1 at most: below it, they tell no two pictures apart."""
ROUNDING = 1e-12
"""Of the largest distance: gaps below it are no gaps."""
PAIRS_AT_ONCE = 2048


@dataclass(frozen=True)
class Pairs:
    """What people said: of each pair, which picture is nearer to its target.

    Attributes:
        near, far: `[P]` rows of the differences.
        weights: `[P]` > 0: how much each counts.
    """

    near: Indices
    far: Indices
    weights: Floats

    def only(self, kept: npt.NDArray[np.bool_]) -> "Pairs":
        """Those where `kept`, `[P]`, holds."""
        return Pairs(self.near[kept], self.far[kept], self.weights[kept])


@dataclass(frozen=True)
class Fit:
    """Weights that were found.

    Attributes:
        weights: `[F]` ≥ 0.
        loss: the mean margin ranking loss, without the pull, in units of the root mean square gap at the start.
        gap: the objective is at most this far above its optimum (duality gap).
        n_steps: of the solver.
    """

    weights: Floats
    loss: float
    gap: float
    n_steps: int


def fit_weights(differences: Floats, pairs: Pairs, start: Floats, *, margin: float, pull: float) -> Fit:
    """The weights that minimise the margin ranking loss with a pull towards those at the start.

    Solved in its dual, a number between 0 and its share for each pair, by accelerated projected gradient steps (Beck &
    Teboulle 2009, restarted as by O'Donoghue & Candès 2015). At every step the weights are projected: none is below 0.

    Args:
        differences: `[N, F]` ≥ 0.
        start: `[F]` ≥ 0.
        margin: > 0; by how many units the farther of a pair should be farther.
        pull: > 0.

    Raises:
        ValueError: no pair, or none that the features tell apart.
    """
    # Neither unit moves the problem: with 1 as the largest value, no square is out of the range of a double.
    largest, unit_of_weights = float(differences.max(initial=0.0)), float(start.max(initial=0.0)) or 1.0
    differences, start = differences / (largest or 1.0), start / unit_of_weights
    n, share = len(differences), pairs.weights / (pairs.weights.sum() or 1.0)
    spread = _mean_square_gap(differences, pairs, share)
    if spread < LEAST_SPREAD:
        raise ValueError("no pair that the features tell apart")

    def gaps(weights: Floats) -> Floats:
        distances = differences @ weights
        found: Floats = distances[pairs.far] - distances[pairs.near]
        return found

    # A start that ranks nothing has no gaps to measure by: then those of the features do.
    unit = float(np.sqrt(share @ gaps(start) ** 2))
    if unit <= ROUNDING * float((differences @ start).max()):
        unit = float(np.sqrt(spread))
    stiffness = pull * spread / unit

    def weights_of(alpha: Floats) -> Floats:
        found: Floats = np.maximum(start + _signed(pairs, alpha, n) @ differences / stiffness, 0)
        return found

    step = stiffness * unit / _steepness(differences, pairs, share)
    alpha = ahead = np.zeros(len(share))
    momentum = 1.0
    best = Fit(start, np.inf, np.inf, 0)
    for n_steps in range(1, MOST_STEPS + 1):
        at, slack_there = ahead, margin - gaps(weights_of(ahead)) / unit
        # Steps in proportion to shares: pairs that count little would else wait for those that count much.
        moved = np.clip(at + step * share * slack_there, 0, share)
        if (at - moved) @ ((moved - alpha) / share) > 0:
            momentum = 1.0
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = moved + (momentum - 1) / following * (moved - alpha)
        alpha, momentum = moved, following
        if n_steps > 3 and n_steps % LOOK_EVERY:
            continue
        weights = weights_of(alpha)
        slack = margin - gaps(weights) / unit
        loss = float(share @ np.maximum(slack, 0))
        gap = loss - float(alpha @ slack)
        if gap < best.gap:
            best = Fit(weights * unit_of_weights, loss, gap, n_steps)
        if gap <= TOLERANCE * margin:
            break
        if step * ((slack_there - slack) @ (moved - at)) > (moved - at) @ ((moved - at) / share):
            step, ahead, momentum = step / 2, alpha, 1.0  # steeper than estimated
    return best


def _signed(pairs: Pairs, values: Floats, n: int) -> Floats:
    """`[N]` of values of pairs: their sum over pairs where the row is the farther, less that where it is the nearer."""
    found = np.bincount(pairs.far, values, n) - np.bincount(pairs.near, values, n)
    return found.astype(np.float64)


def _mean_square_gap(differences: Floats, pairs: Pairs, share: Floats) -> float:
    """Σ share · |far - near|²."""
    total = 0.0
    for start in range(0, len(share), PAIRS_AT_ONCE):
        some = slice(start, start + PAIRS_AT_ONCE)
        apart = differences[pairs.far[some]] - differences[pairs.near[some]]
        total += float(share[some] @ np.einsum("pf,pf->p", apart, apart))
    return total


def _steepness(differences: Floats, pairs: Pairs, share: Floats) -> float:
    """Largest eigenvalue of Σ share · (far - near)(far - near)ᵀ by power iteration, and a third more to be above it."""
    vector = np.random.default_rng(0).random((differences.shape[1],))
    length: float = 0.0
    for _ in range(30):
        distances = differences @ (vector / np.linalg.norm(vector))
        vector = _signed(pairs, share * (distances[pairs.far] - distances[pairs.near]), len(differences)) @ differences
        before = length
        length = float(np.linalg.norm(vector))
        if length <= before * 1.01:
            break
    return length * 4 / 3
