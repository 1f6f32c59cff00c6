"""The weights that rank as people do: pure problems, against closed forms and another solver."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx
from scipy.optimize import minimize

from benchmark.tuning.clpips_weights import PER, tuned_weights
from benchmark.tuning.margin_ranking import Pairs, fit_weights


def one_pair(near: float, far: float, *, margin: float, pull: float) -> float:
    pairs = Pairs(np.array([0]), np.array([1]), np.ones(1))
    (weight,) = fit_weights(np.array([[near], [far]]), pairs, np.ones(1), margin=margin, pull=pull).weights
    return float(weight)


@pytest.mark.parametrize(
    ("margin", "pull", "expected"),
    [(2.0, 0.5, 2.0), (2.0, 4.0, 1.25), (1.0, 0.5, 1.0), (0.5, 0.5, 1.0)],
)
def test_one_weight_grows_until_the_margin_is_kept_or_the_pull_holds_it(
    margin: float, pull: float, expected: float
) -> None:
    # max(0, margin - w) + pull / 2 (w - 1)²: w = 1 + 1 / pull, but never past the margin.
    assert one_pair(0.0, 1.0, margin=margin, pull=pull) == approx(expected, abs=2e-2)


@pytest.mark.parametrize(("pull", "expected"), [(4.0, 0.75), (2.0, 0.5), (1.0, 0.0), (0.5, 0.0)])
def test_a_weight_that_people_contradict_shrinks_and_stops_at_0(pull: float, expected: float) -> None:
    # max(0, margin + w) + pull / 2 (w - 1)²: w = 1 - 1 / pull, but never below 0.
    assert one_pair(1.0, 0.0, margin=1.0, pull=pull) == approx(expected, abs=2e-2)


AT_ONCE, BYTES = 25, 64
LAYERS = ((1,), (2,), (1, 2), (3, 1), (2, 1, 1))
SHARES = np.array([1.0, 0.001, 7.0, 1e6])


def drawn(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[int, ...], Pairs]:
    """Differences, published weights, channels of each layer, and what people said: all from 60 bytes, the small ones
    of which are 0, as many values are."""
    n, channels = 2 + numbers[0] % 5, LAYERS[numbers[1] % len(LAYERS)]
    n_channels = sum(channels)
    units = 10.0 ** (numbers[2:4] % 61 - 30)
    values = np.maximum(numbers[4:] - 64.0, 0)
    differences = values[: n * n_channels].reshape(n, n_channels) * units[0]
    start = values[24 : 24 + n_channels] * (units[1] if numbers[3] < 128 else 1.0)
    ranks, (first, second) = numbers[28 : 28 + n] % 4, np.triu_indices(n, 1)
    differ = ranks[first] != ranks[second]
    first, second = first[differ], second[differ]
    swap = ranks[first] > ranks[second]
    shares = SHARES[numbers[34 : 34 + len(first)] % 4]
    return differences, start, channels, Pairs(np.where(swap, second, first), np.where(swap, first, second), shares)


@settings(max_examples=400, deadline=None)  # of AT_ONCE problems each: 10,000, as drawing costs more than solving
@given(numbers=st.binary(min_size=AT_ONCE * BYTES, max_size=AT_ONCE * BYTES))
def test_weights_stay_at_or_above_0_whatever_people_rank(numbers: bytes) -> None:
    for own in np.frombuffer(numbers, np.uint8).astype(int).reshape(AT_ONCE, BYTES):
        differences, start, channels, pairs = drawn(own)
        per = PER[own[-1] % 2]
        margin, pull = (0.05, 0.3, 1.0, 10.0)[own[-2] % 4], (0.1, 1.0, 10.0)[own[-3] % 3]
        with np.errstate(all="raise", under="ignore"):
            try:
                found = tuned_weights(differences, start, channels, pairs, per=per, margin=margin, pull=pull)
            except ValueError:
                layers = np.split(np.arange(len(start)), np.cumsum(channels)[:-1])
                seen = np.stack([differences[:, of] @ start[of] for of in layers], axis=1)
                if per == "channel":  # what was published at 0 may come in, but for a layer of nothing else
                    seen = differences[:, np.concatenate([of for of in layers if start[of].any()] or [[]]).astype(int)]
                assert seen[pairs.near] == approx(seen[pairs.far], rel=1e-12, abs=0)
                continue
        assert found.gap <= 1.001e-3
        if found.weights is not None:
            assert np.isfinite(found.weights).all()
            assert (found.weights >= 0).all()
            assert found.weights.any()


def problem(seed: int, n: int = 8, f: int = 4) -> tuple[np.ndarray, Pairs, np.ndarray]:
    random = np.random.default_rng(seed)
    first, second = np.triu_indices(n, 1)
    swap = random.random(len(first)) < 0.5
    near, far = np.where(swap, first, second), np.where(swap, second, first)
    return random.exponential(size=(n, f)), Pairs(near, far, random.random(len(near)) + 0.1), random.random(f)


def objective(
    weights: np.ndarray, of: tuple[np.ndarray, Pairs, np.ndarray], margin: float, pull: float
) -> tuple[float, np.ndarray, np.ndarray, float]:
    """The objective as the module's docstring writes it, with a row for each pair."""
    differences, pairs, start = of
    share = pairs.weights / pairs.weights.sum()
    gaps = differences[pairs.far] - differences[pairs.near]
    unit = float(np.sqrt(share @ (gaps @ start) ** 2))
    spread = float(share @ (gaps**2).sum(axis=1))
    loss = float(share @ np.maximum(margin - gaps @ weights / unit, 0))
    pulled = pull / 2 * float(((weights - start) ** 2).sum()) * spread / unit**2
    return loss + pulled, gaps / unit, share, pull * spread / unit**2


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("pull", [0.01, 0.3])
def test_no_other_solver_finds_better_weights(seed: int, pull: float) -> None:
    of = problem(seed)
    ours = fit_weights(*of, margin=0.5, pull=pull)
    _, gaps, share, stiffness = objective(of[2], of, 0.5, pull)
    n, start = len(of[2]), of[2]

    def smooth(x: np.ndarray) -> tuple[float, np.ndarray]:  # weights, then how far each pair falls short
        moved = x[:n] - start
        value = share @ x[n:] + stiffness / 2 * moved @ moved
        return float(value), np.concatenate([stiffness * moved, share])

    short = {
        "type": "ineq",
        "fun": lambda x: x[n:] - 0.5 + gaps @ x[:n],
        "jac": lambda x: np.hstack([gaps, np.eye(len(gaps))]),
    }
    begin = np.concatenate([start, np.maximum(0.5 - gaps @ start, 0)])
    other = minimize(smooth, begin, jac=True, method="SLSQP", bounds=[(0, None)] * len(begin), constraints=short,
                     options={"maxiter": 500, "ftol": 1e-12})  # fmt: skip
    assert other.success
    best = objective(np.maximum(other.x[:n], 0), of, 0.5, pull)[0]
    assert objective(ours.weights, of, 0.5, pull)[0] == approx(best, abs=1e-3 * 0.5)


@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-150, 1e-30, 1e-3, 1e3, 1e30, 1e150]))
@settings(max_examples=25, deadline=None)
def test_the_units_of_features_and_weights_move_no_weight(seed: int, scale: float) -> None:
    differences, pairs, start = problem(seed)
    plain = fit_weights(differences, pairs, start, margin=0.5, pull=0.1).weights
    scaled = fit_weights(differences * scale, pairs, start, margin=0.5, pull=0.1).weights
    assert scaled == approx(plain, rel=1e-6, abs=1e-9)
    weighed = fit_weights(differences, pairs, start * scale, margin=0.5, pull=0.1).weights
    assert weighed / scale == approx(plain, rel=1e-6, abs=1e-9)


def test_pairs_of_very_unequal_weight_are_solved_too() -> None:
    differences = np.array([[766.0, 17.0], [768, 15], [735, 15], [783, 17], [736, 17], [769, 16]])
    near, far = np.array([1, 2, 3, 4, 5, 1, 1, 1, 1]), np.array([0, 0, 0, 0, 0, 2, 3, 4, 5])
    shares = np.array([1e3, 1, 1, 1, 1e3, 1, 1e9, 1e9, 1e3])
    start = np.array([1.0, 783 / 17 * 0.37])
    assert fit_weights(differences, Pairs(near, far, shares), start, margin=0.3, pull=0.1).gap <= 0.3e-3


def test_a_start_that_ranks_nothing_is_tuned_too() -> None:
    pairs = Pairs(np.array([0]), np.array([1]), np.ones(1))
    fit = fit_weights(np.array([[0.0, 1.0], [1.0, 1.0]]), pairs, np.array([0.0, 1.0]), margin=1.0, pull=0.1)
    assert fit.weights[0] > 0
