"""Measures of agreement against other implementations, brute force and cases worked by hand."""

import itertools
import warnings

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx
from scipy import stats
from sklearn.metrics import roc_auc_score

from benchmark.distances.base import Floats
from benchmark.human_agreement.comparisons import FLIPPED_UP_TO, flip_p
from benchmark.human_agreement.correlations import (
    LARGE,
    WITHIN,
    PooledKendall,
    PooledSpearman,
    kendall,
    midranks,
    pearson,
    spearman,
)
from benchmark.human_agreement.intervals import OfRows, bounds_of, drawn, mean_of
from benchmark.human_agreement.measures import (
    SameCurve,
    jnd_average_precision,
    jnd_score,
    odd_one_out_scores,
    odd_one_out_scores_ties_correct,
    two_afc_scores,
)
from benchmark.human_agreement.reliability import ICC_FORMS, alpha_of_groups, icc, icc_of_groups, krippendorff_alpha
from benchmark.statistics import sign_flip_p

few_values = st.integers(0, 4).map(float)


def arrays(size: int) -> st.SearchStrategy[Floats]:
    return st.lists(few_values, min_size=size, max_size=size).map(np.array)


pairs_of_rows = st.integers(2, 12).flatmap(lambda n: st.tuples(arrays(n), arrays(n)))


def test_the_2afc_score_of_the_worked_case_is_0_725() -> None:
    to_a, to_b = np.array([0.1, 0.5, 0.3, 0.2]), np.array([0.2, 0.4, 0.3, 0.9])
    scores = two_afc_scores(to_a, to_b, np.array([0, 1, 1, 0.6]))
    assert scores == approx([1, 1, 0.5, 0.4])
    assert scores.mean() == approx(0.725)


@given(st.integers(1, 10).flatmap(lambda n: st.tuples(arrays(n), arrays(n), arrays(n))))
def test_2afc_does_not_care_which_side_an_image_was_shown_on(case: tuple[Floats, Floats, Floats]) -> None:
    to_a, to_b, share = case[0], case[1], case[2] / 4
    assert two_afc_scores(to_a, to_b, share) == approx(two_afc_scores(to_b, to_a, 1 - share))


def test_the_odd_image_is_the_one_outside_the_nearest_pair() -> None:
    for d01, d02, d12 in itertools.permutations((0.1, 0.2, 0.3)):
        right = {d01: 2, d02: 1, d12: 0}[0.1]
        for odd in range(3):
            assert odd_one_out_scores(np.array([[d01, d02, d12]]), np.array([odd]))[0] == (odd == right)


def test_tied_pairs_share_the_point_and_by_the_published_convention_are_correct() -> None:
    tied, odd = np.array([[0.2, 0.2, 0.3], [0.2, 0.2, 0.3], [0.4, 0.4, 0.4]]), np.array([2, 0, 1])
    assert odd_one_out_scores(tied, odd) == approx([1 / 2, 0, 1 / 3])
    assert odd_one_out_scores_ties_correct(tied, odd).tolist() == [1, 0, 1]


@given(arrays(9))
def test_tied_pairs_earn_what_breaking_ties_at_random_earns(values: Floats) -> None:
    distances = values.reshape(3, 3)
    odd = np.array([0, 1, 2])
    noise = np.array(list(itertools.permutations((0.0, 0.1, 0.2))))
    broken = np.mean([odd_one_out_scores(distances + each, odd) for each in noise], axis=0)
    assert odd_one_out_scores(distances, odd) == approx(broken)


def test_the_jnd_average_precision_of_the_worked_cases() -> None:
    assert jnd_average_precision(np.arange(5.0), np.array([1, 0, 2 / 3, 1 / 3, 1])).value == approx(0.733333, abs=1e-6)
    # The step AP of the same labels is 0.583333.
    assert jnd_average_precision(np.arange(3.0), np.array([0.0, 1, 1])).value == approx(2 / 3)


def area_under_envelope(same: Floats) -> float:
    """Of pairs in the order given, by the definition: at each recall the best precision from there on."""
    precision = np.cumsum(same) / np.arange(1, len(same) + 1)
    return float(sum(same[i] * precision[i:].max() for i in range(len(same))) / same.sum())


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8).filter(any), st.randoms(use_true_random=False))
def test_the_jnd_average_precision_is_the_area_under_the_best_precision_still_to_come(votes: list[int], random) -> None:  # type: ignore[no-untyped-def]
    same = np.array(votes) / 3
    order = list(range(len(same)))
    random.shuffle(order)
    distances = np.arange(len(same), dtype=float)
    value = jnd_average_precision(distances[order] ** 3, same[order]).value
    assert value == approx(area_under_envelope(same))


@given(pairs_of_rows.filter(lambda case: case[1].any()))
def test_pairs_at_equal_distance_count_the_same_in_any_order(case: tuple[Floats, Floats]) -> None:
    distances, same = case[0], case[1] / 4
    for measure in (jnd_average_precision, jnd_score):
        assert measure(distances, same).value == measure(distances[::-1], same[::-1]).value


def test_a_distance_that_tells_nothing_apart_has_the_share_of_sames_as_average_precision_and_half_as_score() -> None:
    same = np.array([1.0, 1 / 3, 0, 0])
    assert jnd_average_precision(np.zeros(4), same).value == approx(same.mean())
    assert jnd_score(np.zeros(4), same).value == approx(0.5)


@given(pairs_of_rows.filter(lambda case: 0 < case[1].sum() < 4 * len(case[1])))
def test_the_jnd_score_is_the_area_under_the_roc_curve_of_single_votes(case: tuple[Floats, Floats]) -> None:
    distances, votes = case
    labels = np.concatenate([np.ones(len(votes)), np.zeros(len(votes))])
    weights = np.concatenate([votes, 4 - votes])
    of_sklearn = roc_auc_score(labels, -np.tile(distances, 2), sample_weight=weights)
    assert jnd_score(distances, votes / 4).value == approx(of_sklearn)


def test_an_undefined_measure_says_what_it_needs() -> None:
    for found, needed in (
        (jnd_average_precision(np.arange(2.0), np.zeros(2)), "somebody took for the same"),
        (jnd_average_precision(np.zeros(0), np.zeros(0)), "somebody took for the same"),
        (jnd_score(np.arange(2.0), np.ones(2)), "both kinds"),
        (spearman(np.array([1.0]), np.array([1.0])), "two items"),
        (kendall(np.ones(3), np.arange(3.0)), "neither side all equal"),
        (pearson(np.arange(3.0), np.ones(3)), "neither side all equal"),
        (icc(np.ones((3, 2)), "ICC(A,1)"), "differ between items"),
        (icc(np.ones((1, 2)), "ICC(A,1)"), "two items"),
        (icc(np.ones((3, 1)), "ICC(A,1)"), "two raters"),
        (icc(np.array([[1.0, 2], [2, 1]]), "ICC(A,k)"), "differ between items"),  # its formula gives 2
        (krippendorff_alpha(np.arange(3), np.arange(3.0), "nominal"), "two raters"),
        (krippendorff_alpha(np.array([0, 0]), np.ones(2), "interval"), "not all the same"),
        (krippendorff_alpha(np.zeros(0, np.intp), np.zeros(0), "ordinal"), "two raters"),
    ):
        assert found.value is None
        assert needed in found.reason


@given(pairs_of_rows)
def test_correlations_are_those_of_scipy_and_none_where_a_side_is_constant(case: tuple[Floats, Floats]) -> None:
    x, y = case
    for own, other in ((spearman, stats.spearmanr), (kendall, stats.kendalltau), (pearson, stats.pearsonr)):
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            assert own(x, y).value is None
        else:
            assert own(x, y).value == approx(other(x, y).statistic, abs=1e-12)


@given(pairs_of_rows)
def test_orders_stay_when_distances_are_stretched(case: tuple[Floats, Floats]) -> None:
    x, y = case
    for own in (spearman, kendall):
        assert own(np.exp(x), y**3).value == own(x, y).value


def test_the_tau_of_many_items_is_that_of_all_their_pairs() -> None:
    random = np.random.default_rng(11)
    x, y = (random.integers(0, 30, LARGE + 5).astype(float) for _ in range(2))
    x[:3] = -np.inf
    a, b = (np.sign(np.nan_to_num(side)[:, None] - np.nan_to_num(side)) for side in (x, y))
    assert kendall(x, y).value == approx((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))
    assert kendall(np.ones(LARGE), y[:LARGE]).value is None


def test_an_infinite_distance_has_a_rank_and_no_pearson_correlation() -> None:
    x, y = np.array([-np.inf, 0, 1, -np.inf]), np.array([1.0, 2, 3, 1])
    assert spearman(x, y).value == kendall(x, y).value == approx(1)
    assert pearson(x, y).value is None


def test_correlations_within_groups_are_those_of_each_group_alone() -> None:
    random = np.random.default_rng(3)
    groups = random.integers(0, 12, 60)
    x, y = (random.integers(0, 4, 60).astype(float) for _ in range(2))
    singles = {"Spearman": spearman, "Kendall tau-b": kendall, "Pearson": pearson}
    for name, within in WITHIN.items():
        alone = [singles[name](x[groups == g], y[groups == g]).value for g in range(13)]
        assert within(groups, x, y, 13) == approx([np.nan if v is None else v for v in alone], nan_ok=True)
    assert (midranks(groups, x)[groups == 2] == stats.rankdata(x[groups == 2])).all()


def test_pooled_correlations_of_weighted_groups_are_those_of_the_repeated_rows() -> None:
    random = np.random.default_rng(4)
    groups = np.sort(random.permutation(np.repeat(np.arange(8), 5)))
    order = random.permutation(40)
    groups, x, y = groups[order], *(random.integers(0, 9, 40).astype(float) for _ in range(2))
    weights = random.integers(0, 3, (5, 8)).astype(float)
    of_spearman = OfRows(groups, np.ones(40), PooledSpearman(x, y))(weights)
    of_kendall = PooledKendall(groups, x, y, 8)(weights)
    for i, own in enumerate(weights[:, groups].astype(int)):
        a, b = np.repeat(x, own), np.repeat(y, own)
        assert of_spearman[i] == approx(stats.spearmanr(a, b).statistic)
        assert of_kendall[i] == approx(stats.kendalltau(a, b).statistic)


def test_the_pooled_average_precision_of_weighted_pairs_is_that_of_the_repeated_pairs() -> None:
    random = np.random.default_rng(5)
    distances, same = random.integers(0, 9, 30).astype(float), random.integers(0, 4, 30) / 3
    weights = random.integers(0, 3, (4, 30))
    curve = SameCurve(distances, same)
    for own, ap, area in zip(
        weights, curve.average_precision(weights.astype(float)), curve.area(weights.astype(float)), strict=True
    ):
        a, b = np.repeat(distances, own), np.repeat(same, own)
        assert (ap, area) == approx((jnd_average_precision(a, b).value, jnd_score(a, b).value))


@pytest.fixture(scope="module")
def pingouin_icc():  # type: ignore[no-untyped-def]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses what pandas 3 deprecates
        import pandas as pd
        import pingouin

    def run(ratings: Floats) -> dict[str, float]:
        rows = [(i, j, value) for i, row in enumerate(ratings) for j, value in enumerate(row)]
        frame = pd.DataFrame(rows, columns=["item", "rater", "rating"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = pingouin.intraclass_corr(frame, targets="item", raters="rater", ratings="rating")
        return dict(zip(found["Type"], found["ICC"], strict=True))

    return run


@pytest.mark.parametrize(("n", "k", "offset"), [(5, 2, 0), (8, 3, 1e6), (30, 6, -50)])
def test_intraclass_correlations_are_those_of_pingouin(pingouin_icc, n: int, k: int, offset: float) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(n)
    ratings = random.normal(size=(n, 1)) + random.normal(size=(1, k)) + random.normal(size=(n, k))
    expected = pingouin_icc(ratings)
    for form in ICC_FORMS:
        assert icc(ratings + offset, form).value == approx(expected[form], rel=1e-6)


def test_the_ratings_of_shrout_and_fleiss_have_their_published_correlations() -> None:
    ratings = np.array(
        [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float
    )
    published = {"ICC(1,1)": 0.17, "ICC(A,1)": 0.29, "ICC(C,1)": 0.71, "ICC(1,k)": 0.44, "ICC(A,k)": 0.62}
    for form, value in (published | {"ICC(C,k)": 0.91}).items():
        assert icc(ratings, form).value == approx(value, abs=0.006)  # type: ignore[arg-type]


@settings(max_examples=60)
@given(
    st.integers(2, 4).flatmap(
        lambda k: st.lists(st.lists(st.integers(-1, 3), min_size=k, max_size=k), min_size=2, max_size=7)
    )
)
def test_alpha_is_that_of_the_package_krippendorff(answers: list[list[int]]) -> None:
    table = np.where(np.array(answers) < 0, np.nan, np.array(answers, dtype=float))
    units, raters = np.nonzero(~np.isnan(table))
    values = table[units, raters]
    paired = table[(~np.isnan(table)).sum(axis=1) > 1]
    for level in ("nominal", "ordinal", "interval"):
        own = krippendorff_alpha(units, values, level).value
        if len(np.unique(paired[~np.isnan(paired)])) < 2:
            assert own is None
        else:
            assert own == approx(krippendorff.alpha(reliability_data=table.T, level_of_measurement=level), abs=1e-9)


def test_alpha_of_counted_votes_is_that_of_the_single_votes() -> None:
    units, values, times = np.array([0, 0, 1, 2, 2]), np.array([0.0, 1, 1, 0, 1]), np.array([2.0, 1, 3, 1, 4])
    single = [np.repeat(each, times.astype(int)) for each in (units, values)]
    for level in ("nominal", "ordinal", "interval"):
        assert krippendorff_alpha(units, values, level, times).value == krippendorff_alpha(*single, level).value


def test_reliability_of_weighted_groups_is_that_of_the_repeated_items() -> None:
    random = np.random.default_rng(6)
    ratings = random.integers(1, 6, (12, 3)).astype(float)
    groups, weights = np.repeat(np.arange(4), 3), np.array([[1.0, 2, 0, 1], [0, 0, 3, 1]])
    units = np.repeat(np.arange(12), 3)
    for own in weights:
        chosen = np.repeat(np.arange(12), own[groups].astype(int))
        for form in ICC_FORMS:
            drawn_icc = icc_of_groups(groups, 4, ratings, form)(own[None])[0]
            assert drawn_icc == approx(icc(ratings[chosen], form).value)
        for level in ("nominal", "ordinal", "interval"):
            of = alpha_of_groups(groups[units], 4, units, ratings.ravel(), np.ones(36), level)
            expected = krippendorff.alpha(reliability_data=ratings[chosen].T, level_of_measurement=level)
            assert of(own[None])[0] == approx(expected)


def test_the_interval_of_a_mean_is_as_wide_as_the_normal_one() -> None:
    values = np.random.default_rng(7).normal(size=400)
    n = len(values)
    low, high = bounds_of(drawn([mean_of(np.arange(n), n, values)], n)[:, 0])  # type: ignore[misc]
    error = values.std() / np.sqrt(n)
    assert (low, high) == approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.12 * error)


def test_95_of_100_intervals_hold_the_true_share() -> None:
    # 200 samples of 60 fair answers each: the number of intervals that hold one half is binomial.
    random = np.random.default_rng(8)
    answers = random.integers(0, 2, (200, 60)).astype(float)
    draws = drawn([mean_of(np.arange(60), 60, own) for own in answers], 60)
    bounds = [bounds_of(of) for of in draws.T]
    n_holding = sum(low <= 0.5 <= high for low, high in bounds)  # type: ignore[misc]
    assert stats.binom.ppf(0.0005, 200, 0.93) <= n_holding <= stats.binom.ppf(0.9995, 200, 0.97)


def test_the_block_of_draws_moves_no_number() -> None:
    statistic = mean_of(np.arange(30), 30, np.random.default_rng(9).normal(size=30))
    assert (drawn([statistic], 30) == drawn([statistic], 30, n_rows=100_000)).all()
    assert (drawn([statistic], 30) != drawn([statistic], 30, stream=1)).any()


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.1])
def test_p_beyond_a_thousand_targets_goes_on_where_flips_end(shift: float) -> None:
    differences = np.random.default_rng(10).normal(shift, 1, FLIPPED_UP_TO + 1)
    assert flip_p(differences) == approx(sign_flip_p(differences), abs=0.01)
    assert flip_p(np.zeros(FLIPPED_UP_TO + 1)) == 1
