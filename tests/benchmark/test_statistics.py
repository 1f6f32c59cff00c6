"""Intervals, tests and ranges of ranks: worked by hand, enumerated, or simulated."""

import itertools
import math
from collections.abc import Mapping, Sequence
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pytest import approx

from benchmark.statistics import (
    EXACT_UP_TO,
    LEVEL,
    N_RESAMPLES,
    N_SIGN_FLIPS,
    Estimate,
    PairedDifference,
    compare_paired,
    estimate_mean,
    estimate_mean_of_categories,
    estimate_mean_of_identities,
    estimate_ratio,
    holm,
    rank_ranges,
    resample_weights,
    sign_flip_p,
    sign_flips,
)

Board = Mapping[str, Mapping[str, float]]


def width(estimate: Estimate | None) -> float:
    assert estimate is not None
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


queries = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(["ada", "ben", "cleo", "dot"])), min_size=1, max_size=30
).map(lambda pairs: ([value for value, _ in pairs], [identity for _, identity in pairs]))


@given(queries)
@settings(max_examples=60, deadline=None)
def test_an_interval_contains_its_value_and_stays_in_the_scores_range(scored: tuple[list[float], list[str]]) -> None:
    values, identities = scored
    estimate = estimate_mean(values, identities)
    assert estimate is not None
    assert estimate.value == approx(sum(values) / len(values))
    if len(set(identities)) == 1:
        assert (estimate.low, estimate.high) == (None, None)
    else:
        assert estimate.low is not None
        assert estimate.high is not None
        assert -1e-12 <= estimate.low <= estimate.value + 1e-12
        assert estimate.value - 1e-12 <= estimate.high <= 1 + 1e-12


@given(queries, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_estimates_do_not_depend_on_the_order_of_queries(scored: tuple[list[float], list[str]], random: Random) -> None:
    values, identities = scored
    shuffled = list(zip(values, identities, strict=True))
    random.shuffle(shuffled)
    for estimate in (estimate_mean, estimate_mean_of_identities):
        assert estimate(values, identities) == estimate([v for v, _ in shuffled], [i for _, i in shuffled])


@given(st.integers(2, 9), st.integers(1, 4), st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_an_interval_is_that_of_means_over_drawn_identities(n: int, each: int, is_ragged: bool, random: Random) -> None:
    scores = [[random.random() for _ in range(each + (is_ragged and i == 0))] for i in range(n)]
    estimate = estimate_mean([v for own in scores for v in own], [f"{i}" for i, own in enumerate(scores) for _ in own])
    sums, counts = np.array([math.fsum(own) for own in scores]), np.array([float(len(own)) for own in scores])
    drawn = resample_weights(n)
    means = (drawn * sums).sum(axis=1) / (drawn * counts).sum(axis=1)
    assume(np.ptp(means) > 1e-9)  # of a constant score nothing but rounding is drawn
    assert estimate is not None
    bounds = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    assert [estimate.low, estimate.high] == bounds.tolist()  # to the last bit


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        skill = rng.normal(0.5, 0.1, 25)
        values = (skill[:, None] + rng.normal(0, 0.05, (25, 4))).ravel()
        estimate = estimate_mean(values.tolist(), [str(i) for i in range(25) for _ in range(4)])
        assert estimate is not None
        covered += estimate.low <= 0.5 <= estimate.high
    assert 0.88 <= covered / 200 <= 0.99


def test_ten_images_of_one_animal_are_not_ten_animals() -> None:
    rng = np.random.default_rng(0)
    values = (rng.uniform(0, 1, 10)[:, None] + rng.normal(0, 0.01, (10, 10))).ravel().tolist()
    clustered = estimate_mean(values, [str(i // 10) for i in range(100)])
    as_if_independent = estimate_mean(values, [str(i) for i in range(100)])
    assert width(clustered) > 2 * width(as_if_independent)


def test_undefined_scores_are_left_out_and_nothing_left_gives_none() -> None:
    assert estimate_mean([0.25, math.nan, 0.75], ["ada", "ada", "ben"]) == estimate_mean([0.25, 0.75], ["ada", "ben"])
    assert estimate_mean([math.nan], ["ada"]) is None
    assert estimate_mean([], []) is None
    assert estimate_mean_of_identities([math.nan], ["ada"]) is None
    assert estimate_mean_of_categories([math.nan], ["ada"], ["cats"]) is None


def test_a_constant_score_has_an_interval_without_width() -> None:
    assert estimate_mean([0.1] * 12, list("abcdefabcdef")) == Estimate(approx(0.1), approx(0.1), approx(0.1))


def test_the_interval_of_two_identities_is_that_of_the_nine_equally_likely_draws() -> None:
    # ada's queries score 0, ben's 1: a draw is (ada, ada), (ben, ben), or, half of the time, one of each.
    estimate = estimate_mean([0.0, 0.0, 1.0], ["ada", "ada", "ben"])
    assert estimate == Estimate(approx(1 / 3), 0.0, 1.0)


def test_a_ratio_is_the_ratio_of_sums_and_needs_a_positive_denominator() -> None:
    estimate = estimate_ratio([1.0, 2.0, 3.0], [2.0, 2.0, 4.0], ["ada", "ada", "ben"])
    assert estimate is not None
    assert estimate.value == approx(6 / 8)
    assert estimate.low is not None
    assert 0.74 < estimate.low <= estimate.value
    assert estimate_ratio([1.0], [0.0], ["ada"]) is None
    assert estimate_ratio([], [], []) is None


def test_in_the_mean_over_identities_each_weighs_the_same() -> None:
    estimate = estimate_mean_of_identities([1.0, 1.0, 1.0, 0.5], ["ada", "ada", "ada", "ben"])
    assert estimate is not None
    assert estimate.value == approx(0.75)
    assert (estimate.low, estimate.high) == (approx(0.5), approx(1.0))


def test_the_mean_over_categories_worked_by_hand() -> None:
    values = [1.0, 0.0, 0.5, 0.2, 0.4]
    identities = ["ada", "ada", "ben", "rex", "fido"]
    categories = ["cats", "cats", "cats", "dogs", "dogs"]
    estimate = estimate_mean_of_categories(values, identities, categories)
    assert estimate is not None
    # cats 0.5 however drawn; dogs 0.3, drawn 0.2, 0.3 or 0.4.
    assert estimate.value == approx((0.5 + 0.3) / 2)
    assert (estimate.low, estimate.high) == (approx((0.5 + 0.2) / 2), approx((0.5 + 0.4) / 2))


def test_the_mean_over_categories_has_no_interval_where_one_has_a_single_identity() -> None:
    estimate = estimate_mean_of_categories([1.0, 0.0, 0.5], ["ada", "ben", "rex"], ["cats", "cats", "dogs"])
    assert estimate == Estimate(0.5, None, None)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
@settings(deadline=None)
def test_the_sign_flip_test_counts_the_flips_at_least_as_extreme(differences: list[int]) -> None:
    observed = abs(sum(differences))
    flipped = [
        abs(sum(sign * d for sign, d in zip(signs, differences, strict=True)))
        for signs in itertools.product([1, -1], repeat=len(differences))
    ]
    expected = sum(value >= observed for value in flipped) / len(flipped)
    # Scaled to numbers that floats cannot hold exactly: equal sums must still count as equal.
    assert sign_flip_p(np.array(differences) * 0.1) == approx(expected)


def test_beyond_the_exact_test_random_flips_come_close_to_all_flips() -> None:
    differences = np.random.default_rng(3).normal(0.3, 1, 16)
    signs = np.array(list(itertools.product([1, -1], repeat=16)))
    exact = np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12)
    assert sign_flip_p(differences) == approx(exact, abs=0.015)
    assert sign_flip_p(differences) == sign_flip_p(differences)


def test_random_flips_never_give_a_p_of_zero() -> None:
    assert 0 < sign_flip_p(np.ones(60)) < 1e-4


@pytest.mark.parametrize(
    ("raw", "adjusted"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.02, 0.005, 0.04, 0.011], [0.04, 0.02, 0.04, 0.033]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.03], [0.03]),
        ([], []),
    ],
)
def test_holms_correction_worked_by_hand(raw: Sequence[float], adjusted: Sequence[float]) -> None:
    assert holm(raw) == approx(adjusted)


def scores(rng: np.random.Generator, mean: float, n: int = 20) -> dict[str, float]:
    return {f"animal-{i}": mean + noise for i, noise in enumerate(rng.normal(0, 0.02, n))}


def test_runs_that_differ_clearly_hold_one_place_each() -> None:
    rng = np.random.default_rng(0)
    pairs, ranks = compare_paired({"worst": scores(rng, 0.2), "best": scores(rng, 0.8), "middle": scores(rng, 0.5)})
    assert [(r.name, r.best, r.worst, r.tied_with_best) for r in ranks] == [
        ("best", 1, 1, True),
        ("middle", 2, 2, False),
        ("worst", 3, 3, False),
    ]
    assert all(pair.p_holm < 0.001 for pair in pairs)
    first = next(pair for pair in pairs if (pair.first, pair.second) == ("worst", "best"))
    assert first.difference.value == approx(-0.6, abs=0.02)
    assert first.n_identities == 20


def test_runs_that_cannot_be_told_apart_share_their_places() -> None:
    rng = np.random.default_rng(1)
    _, ranks = compare_paired({"a": scores(rng, 0.70), "b": scores(rng, 0.701), "far": scores(rng, 0.3)})
    assert {r.name: (r.best, r.worst, r.tied_with_best) for r in ranks} == {
        "a": (1, 2, True),
        "b": (1, 2, True),
        "far": (3, 3, False),
    }


def test_too_few_identities_can_prove_nothing() -> None:
    pairs, ranks = compare_paired({"a": {"x": 1.0, "y": 1.0, "z": 1.0}, "b": {"x": 0.0, "y": 0.0, "z": 0.0}})
    assert (pairs[0].p, pairs[0].smallest_p) == (0.25, 0.25)
    assert all(r.tied_with_best and (r.best, r.worst) == (1, 2) for r in ranks)


def test_only_shared_identities_are_compared_and_none_shared_is_refused() -> None:
    (pair,), _ = compare_paired({"a": {"x": 0.9, "y": 0.5}, "b": {"y": 0.4, "z": 0.0}})
    assert pair.n_identities == 1
    assert pair.difference == Estimate(approx(0.1), None, None)
    with pytest.raises(ValueError, match="share no identity"):
        compare_paired({"a": {"x": 0.9}, "b": {"z": 0.0}})


def test_the_smallest_p_is_the_p_of_differences_all_of_one_sign() -> None:
    for n in range(1, 17):
        a, b = {str(i): 1.0 for i in range(n)}, {str(i): 0.0 for i in range(n)}
        ((pair,), _) = compare_paired({"a": a, "b": b})
        assert pair.p == pair.smallest_p if n <= EXACT_UP_TO else pair.p >= pair.smallest_p


def drawn_by_numpy(n: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Weights `[2000, n]` and signs `[N, n]`, each from one call."""
    weights = np.random.default_rng(0).multinomial(n, [1 / n] * n, size=2000)
    if n <= 14:
        return weights, np.array([[1 - 2 * (i >> bit & 1) for bit in range(n)] for i in range(2**n)])
    return weights, 1 - 2 * np.random.default_rng(0).integers(0, 2, size=(20_000, n))


def assert_as_by_itself(pair: PairedDifference, board: Board) -> None:
    """The pair's numbers are those of its own differences, resampled and flipped one by one."""
    first, second = board[pair.first], board[pair.second]
    differences = np.array([first[i] - second[i] for i in sorted(first.keys() & second.keys())])
    n = len(differences)
    weights, signs = drawn_by_numpy(n)
    at_least = abs(differences.sum()) - 1e-12 * max(1, np.abs(differences).sum())
    extreme = np.count_nonzero(np.abs((signs * differences).sum(axis=1)) >= at_least)
    assert pair.n_identities == n
    assert pair.p == (extreme / 2**n if n <= 14 else (extreme + 1) / 20_001)
    assert pair.difference.value == approx(differences.mean(), rel=1e-13, abs=1e-15)
    if n == 1:
        assert (pair.difference.low, pair.difference.high) == (None, None)
    else:
        bounds = np.quantile((weights * differences).sum(axis=1) / n, [0.025, 0.975])
        scale = max(1, *(abs(value) for run in board.values() for value in run.values()))
        assert (pair.difference.low, pair.difference.high) == approx(tuple(bounds), abs=1e-12 * scale)


runs_with_ties = st.dictionaries(
    st.sampled_from([f"{i:02d}" for i in range(18)]),
    st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.7, 1.0]) | st.floats(0, 1),
    min_size=1,
)


@given(
    st.lists(runs_with_ties, max_size=4),
    st.lists(st.fixed_dictionaries({f"{i:02d}": st.floats(0, 1) for i in range(16)}), min_size=2, max_size=3),
)
@settings(max_examples=30, deadline=None)
def test_each_pair_of_a_board_gets_the_numbers_of_that_pair_by_itself(
    partial: list[dict[str, float]], complete: list[dict[str, float]]
) -> None:
    board = {f"run {i}": run for i, run in enumerate([*complete, *partial])}
    sharing = [(a, b) for a, b in itertools.combinations(board, 2) if board[a].keys() & board[b].keys()]
    pairs, ranks = compare_paired(board)
    assert [(pair.first, pair.second) for pair in pairs] == sharing
    for pair in pairs:
        assert_as_by_itself(pair, board)
    assert rank_ranges(board) == ranks


def test_runs_that_differ_little_beside_their_scores_get_the_p_of_their_own_differences() -> None:
    # Of scores this large, flipped sums round to more than what tells the ties of the small differences apart.
    rng = np.random.default_rng(4)
    large = dict(zip([f"{i:02d}" for i in range(40)], (rng.random(40) * 1e7).tolist(), strict=True))
    board = {"other": dict.fromkeys(large, 0.5), "plain": large}
    board["raised"] = large | {i: large[i] + 0.1 for i in ("03", "11", "29")}
    board["moved"] = large | {"05": large["05"] + 0.1, "06": large["06"] - 0.2}
    for pair in compare_paired(board)[0]:
        assert_as_by_itself(pair, board)


@pytest.mark.parametrize("n", [14, 15])
def test_a_board_of_many_runs_gets_the_numbers_of_each_pair_by_itself(n: int) -> None:
    rng = np.random.default_rng(7)
    board = {f"run {i}": scores(rng, mean, n) for i, mean in enumerate(rng.uniform(0.5, 0.55, 75))}
    pairs, _ = compare_paired(board)
    assert len(pairs) == 75 * 74 / 2
    for pair in pairs[::150]:
        assert_as_by_itself(pair, board)


def test_a_pairs_numbers_do_not_depend_on_the_other_runs() -> None:
    rng = np.random.default_rng(8)
    board = {name: scores(rng, mean, 30) for name, mean in (("a", 0.5), ("b", 0.51), ("c", 0.6), ("d", 0.1))}
    for pair in compare_paired(board)[0]:
        ((alone,), _) = compare_paired({name: board[name] for name in (pair.first, pair.second)})
        assert (alone.difference, alone.p) == (pair.difference, pair.p)


def test_the_order_of_runs_only_turns_the_differences() -> None:
    rng = np.random.default_rng(5)
    board = {name: scores(rng, mean, 25) for name, mean in (("a", 0.5), ("b", 0.51), ("c", 0.6))}
    del board["b"]["animal-3"]
    turned = {(pair.second, pair.first): pair for pair in compare_paired(dict(reversed(board.items())))[0]}
    for pair in compare_paired(board)[0]:
        other = turned[pair.first, pair.second]
        assert (other.p, other.p_holm, other.difference.value) == (pair.p, pair.p_holm, -pair.difference.value)


def test_holms_first_step_decides_how_many_runs_can_be_told_apart() -> None:
    # 40 identities allow p = 1/20001: enough for the 990 pairs of 45 runs, not for the 1035 pairs of 46.
    def board(n_runs: int) -> dict[str, dict[str, float]]:
        return {f"{run:02d}": {str(i): float(run) for i in range(40)} for run in range(n_runs)}

    assert [(r.name, r.best, r.worst, r.tied_with_best) for r in rank_ranges(board(45))] == [
        (f"{44 - place:02d}", place + 1, place + 1, place == 0) for place in range(45)
    ]
    assert {(r.best, r.worst, r.tied_with_best) for r in rank_ranges(board(46))} == {(1, 46, True)}
    # A run that shares no identity with them adds no pair; it may hold any place.
    with_foreign = {r.name: (r.best, r.worst) for r in rank_ranges(board(45) | {"foreign": {"another": 50.0}})}
    assert with_foreign == {f"{44 - place:02d}": (place + 1, place + 2) for place in range(45)} | {"foreign": (1, 46)}


def test_ranges_are_those_of_the_comparison_where_some_runs_lack_identities() -> None:
    rng = np.random.default_rng(6)
    board = {f"run {i}": scores(rng, mean, 30) for i, mean in enumerate([0.3, 0.31, 0.32, 0.5, 0.5, 0.9])}
    del board["run 1"]["animal-0"], board["run 4"]["animal-1"]
    ranks = rank_ranges(board)
    assert ranks == compare_paired(board)[1]
    assert len({(r.best, r.worst) for r in ranks}) > 2


def test_a_run_alone_is_first_and_a_mean_that_is_no_number_is_refused() -> None:
    (alone,) = rank_ranges({"a": {"x": 0.25, "y": 0.75}})
    assert (alone.mean, alone.best, alone.worst, alone.tied_with_best) == (0.5, 1, 1, True)
    assert rank_ranges({}) == []
    for compare in (rank_ranges, compare_paired):
        with pytest.raises(ValueError, match="b has a mean that is not a finite number"):
            compare({"a": {"x": 0.5}, "b": {"x": math.nan}})


@pytest.mark.parametrize("n", [1, 2, 14, 15, 100, 700])
def test_the_draws_are_those_of_one_call_of_numpys_generator(n: int) -> None:
    weights, signs = drawn_by_numpy(n)
    np.testing.assert_array_equal(resample_weights(n), weights)
    np.testing.assert_array_equal(sign_flips(n), signs)
    assert resample_weights(n).shape == (N_RESAMPLES, n)
    assert sign_flips(n).shape == (2**n if n <= EXACT_UP_TO else N_SIGN_FLIPS, n)
