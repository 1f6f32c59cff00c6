"""Intervals, tests and ranges of ranks: worked by hand, enumerated, or simulated."""

import itertools
import math
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx

from benchmark.statistics import (
    EXACT_UP_TO,
    Estimate,
    compare_paired,
    estimate_mean,
    estimate_mean_of_categories,
    estimate_mean_of_identities,
    estimate_ratio,
    holm,
    sign_flip_p,
)


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
