"""Do embedders agree: tau-b by counting pairs and against scipy, intervals drawn one by one, claims by hand."""

import doctest
import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
import scipy.stats
from agreement_cases import CLEARLY, SLIGHTLY, Means, counted_tau_b, means_of, slow_interval
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx

import benchmark.encoder_agreement
from benchmark.encoder_agreement import RunPair, encoder_agreement, kendall_tau_b, networks_of, tau_interval
from benchmark.statistics import N_RESAMPLES, SEED, compare_paired, holm

# ---- tau-b

two_scores = st.integers(2, 9).flatmap(
    lambda n: st.tuples(*(st.lists(st.integers(0, 5).map(lambda i: i / 5), min_size=n, max_size=n) for _ in "12"))
)


@given(two_scores)
def test_tau_b_is_what_counting_pairs_gives_and_scipy(scores: tuple[list[float], list[float]]) -> None:
    tau = kendall_tau_b(*scores)
    counted = counted_tau_b(*scores)
    if counted is None:
        assert tau is None
        assert math.isnan(scipy.stats.kendalltau(*scores).statistic)
    else:
        assert tau == approx(counted, abs=1e-12)
        assert tau == approx(scipy.stats.kendalltau(*scores).statistic, abs=1e-12)
        assert -1 <= counted <= 1


def test_tau_b_by_hand() -> None:
    # Six pairs; one is tied in the first, the other five are concordant.
    assert kendall_tau_b([1, 2, 2, 3], [1, 2, 3, 4]) == approx(5 / math.sqrt(5 * 6))
    assert kendall_tau_b([1, 2], [5, 3]) == -1
    assert kendall_tau_b([1], [2]) is None


def test_means_that_differ_by_rounding_are_tied() -> None:
    assert 0.1 + 0.2 != 0.3
    assert kendall_tau_b([0.1 + 0.2, 0.3, 0.9], [0.1, 0.2, 0.3]) == kendall_tau_b([0.3, 0.3, 0.9], [0.1, 0.2, 0.3])
    assert kendall_tau_b([0.1 + 0.2, 0.3], [0.1, 0.2]) is None


def test_the_examples_in_docstrings_are_right() -> None:
    assert doctest.testmod(benchmark.encoder_agreement) == (0, 2)


# ---- its interval


@pytest.mark.parametrize("kind", ["continuous", "hits and misses", "two runs", "two identities"])
def test_an_interval_is_that_of_resamples_drawn_one_by_one(kind: str) -> None:
    rng = np.random.default_rng(7)
    shape = {"two runs": (2, 6), "two identities": (4, 2)}.get(kind, (5, 8))
    skill = rng.uniform(0.2, 0.8, (shape[0], 1))
    first, second = (np.clip(skill + rng.normal(0, 0.2, shape), 0, 1) for _ in "12")
    if kind != "continuous":
        first, second = first.round(), second.round()
    low, high, n_undefined = tau_interval(first, second)
    assert (low, high, n_undefined) == approx(slow_interval(first, second))
    if kind == "two runs":
        assert n_undefined > 0


def test_an_interval_of_many_runs_is_drawn_in_parts_that_make_no_difference() -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform(0, 1, (30, 1)) + rng.normal(0, 1, (30, 300))
    second = first + rng.normal(0, 3, (30, 300))
    weights = np.random.default_rng(SEED).multinomial(300, [1 / 300] * 300, size=N_RESAMPLES)
    taus = [scipy.stats.kendalltau(a, b).statistic for a, b in zip(weights @ first.T, weights @ second.T, strict=True)]
    assert tau_interval(first, second) == approx((*np.quantile(taus, [0.025, 0.975]), 0))


def test_where_there_is_nothing_to_draw_there_is_no_interval() -> None:
    assert tau_interval(np.array([[0.1], [0.2]]), np.array([[0.1], [0.2]])) == (None, None, 0)
    assert tau_interval(np.zeros((3, 4)), np.eye(3, 4)) == (None, None, N_RESAMPLES)


def test_an_interval_narrows_with_identities_and_holds_the_truth_of_clear_orders() -> None:
    rng = np.random.default_rng(1)
    widths = []
    for n in (5, 200):
        first, second = (np.linspace(0.3, 0.6, 6)[:, None] + rng.normal(0, 0.3, (6, n)) for _ in "12")
        low, high, _ = tau_interval(first, second)
        assert low is not None
        assert high is not None
        widths.append(high - low)
    assert widths[1] < widths[0]


# ---- agreement as a whole


@st.composite
def judged(draw: st.DrawFn) -> Means:
    n = draw(st.integers(1, 5))
    score = st.integers(0, 4).map(lambda i: i / 4)
    runs = [f"run {i}" for i in range(draw(st.integers(2, 4)))]
    return means_of({e: {run: [draw(score) for _ in range(n)] for run in runs} for e in ("clip", "dino", "reid")})


@given(judged(), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_the_matrix_is_symmetric_and_one_on_its_diagonal_in_any_order(means: Means, random: Random) -> None:
    agreement = encoder_agreement(means, {"clip", "dino"})
    for i, row in enumerate(agreement.matrix):
        of = [place[agreement.embedders[i]].value for place in agreement.places.values()]
        assert row[i] == (None if max(of) - min(of) < 1e-9 else 1)
        for j, tau in enumerate(row):
            assert tau == agreement.matrix[j][i]
            other = [place[agreement.embedders[j]].value for place in agreement.places.values()]
            assert tau == approx(counted_tau_b(of, other))
    for pair in agreement.embedder_pairs:
        if pair.low is not None:
            assert pair.high is not None
            assert -1 <= pair.low <= pair.high <= 1

    def shuffled(of: Mapping[str, Any]) -> dict[str, Any]:
        items = list(of.items())
        random.shuffle(items)
        return {key: shuffled(value) if isinstance(value, dict) else value for key, value in items}

    again = encoder_agreement(shuffled(means), {"dino", "clip"})
    assert again == agreement
    assert list(again.places) == list(agreement.places)


@given(judged())
@settings(max_examples=25, deadline=None)
def test_equal_embedders_agree_and_reversed_ones_disagree_wholly(means: Means) -> None:
    clip = means["clip"]
    reverse = {run: {identity: 1 - value for identity, value in of.items()} for run, of in clip.items()}
    agreement = encoder_agreement({"clip": clip, "again": clip, "reverse": reverse}, ())
    for pair in agreement.embedder_pairs:
        expected = -1 if "reverse" in (pair.first, pair.second) else 1
        assert pair.tau in (expected, None)
        if pair.tau is not None and pair.low is not None:
            assert (pair.low, pair.high) == (expected, expected)
    for run_pair in agreement.run_pairs:
        signs = {verdict.embedder: verdict.sign for verdict in run_pair.verdicts}
        assert signs["clip"] == signs["again"] == -signs["reverse"]
        assert run_pair.is_ordered_differently == (signs["clip"] != 0)


def test_ranks_share_the_best_place_of_tied_runs() -> None:
    of = {"a": [0.5, 0.7], "b": [0.7, 0.5], "c": [0.9, 0.9], "d": [0.1, 0.1]}
    agreement = encoder_agreement(means_of({"clip": of, "dino": of}), ())
    assert {run: place["clip"].rank for run, place in agreement.places.items()} == {"a": 2, "b": 2, "c": 1, "d": 4}
    assert agreement.places["c"]["dino"].value == 0.9


def test_pairs_of_embedders_use_the_runs_that_both_judged() -> None:
    rng = np.random.default_rng(3)
    runs = {run: rng.uniform(0, 1, 6).tolist() for run in "abcd"}
    means = means_of({"clip": runs, "dino": {run: runs[run][::-1] for run in "abc"}, "reid": runs})
    agreement = encoder_agreement(means, ())
    assert agreement.missing == (("d", "dino"),)
    assert {(p.first, p.second): p.n_runs for p in agreement.embedder_pairs} == {
        ("clip", "dino"): 3, ("clip", "reid"): 4, ("dino", "reid"): 3,
    }  # fmt: skip
    assert [v.embedder for p in agreement.run_pairs if (p.first, p.second) == ("a", "d") for v in p.verdicts] == [
        "clip",
        "reid",
    ]
    assert agreement.n_tests == 6 + 3 + 6
    # What a third embedder judged changes nothing between two others.
    alone = encoder_agreement({name: means[name] for name in ("clip", "reid")}, ())
    assert alone.embedder_pairs == (agreement.embedder_pairs[1],)


def test_two_runs_that_no_embedder_judged_both_are_no_pair() -> None:
    of = {"a": [0.1, 0.2], "b": [0.3, 0.1], "c": [0.2, 0.9], "d": [0.5, 0.5]}
    means = means_of({"clip": {run: of[run] for run in "abc"}, "dino": {run: of[run] for run in "bcd"}})
    agreement = encoder_agreement(means, ())
    assert ("a", "d") not in {(pair.first, pair.second) for pair in agreement.run_pairs}


def test_what_is_compared_is_compared_over_the_identities_that_all_of_it_share() -> None:
    scores = {"a": [0.9, 0.9, 0.1, 0.1], "b": [0.5, 0.5, 0.5, 0.9], "c": [0.6, 0.6]}
    agreement = encoder_agreement(means_of({"clip": scores, "dino": scores}), ())
    assert (agreement.n_identities, agreement.n_all_identities) == (2, 4)
    assert {run: place["clip"].rank for run, place in agreement.places.items()} == {"a": 1, "b": 3, "c": 2}
    assert agreement.embedder_pairs[0].n_identities == 2
    pairs = {(pair.first, pair.second): pair for pair in agreement.run_pairs}
    assert (pairs["a", "b"].n_identities, pairs["a", "c"].n_identities) == (4, 2)
    assert pairs["a", "b"].verdicts[0].difference.value == approx(-0.1)


def test_tests_are_those_of_compare_with_holm_over_all_that_is_listed() -> None:
    rng = np.random.default_rng(5)
    means = means_of({e: {run: rng.uniform(0, 1, 7).tolist() for run in "abc"} for e in ("clip", "dino")})
    agreement = encoder_agreement(means, ())
    expected = {}
    for embedder, of in means.items():
        for pair in compare_paired(of)[0]:
            expected[pair.first, pair.second, embedder] = pair
    verdicts = {(p.first, p.second, v.embedder): v for p in agreement.run_pairs for v in p.verdicts}
    assert verdicts.keys() == expected.keys()
    adjusted = holm([expected[key].p for key in verdicts])
    for (key, verdict), p_holm in zip(verdicts.items(), adjusted, strict=True):
        assert (verdict.p, verdict.difference) == (expected[key].p, expected[key].difference)
        assert verdict.smallest_p == expected[key].smallest_p == 2 / 2**7
        assert (verdict.p_holm, verdict.is_apart) == (p_holm, p_holm < 0.05)


@pytest.mark.parametrize(
    "faulty",
    [
        {"clip": {"a": [0.1], "b": [0.2]}},
        {"clip": {"a": [0.1], "b": [0.2]}, "dino": {"a": [0.1], "c": [0.3]}},
        {"clip": {"a": [0.1], "b": [0.2]}, "dino": {"c": [0.1], "d": [0.3]}},
        {"clip": {"a": [0.1], "b": []}, "dino": {"a": [0.1], "b": [0.3]}},
    ],
)
def test_no_order_no_agreement(faulty: dict[str, dict[str, list[float]]]) -> None:
    with pytest.raises(ValueError, match=r"one embedder|share one run|share no run|no identity"):
        encoder_agreement(means_of(faulty), ())


# ---- claims


def claimed(unseen: Sequence[str], **differences: Sequence[float]) -> RunPair:
    """What is claimed of two runs whose scores differ by that much under each embedder."""
    scores = {e: {"a": [0.5 + d for d in of], "b": [0.5] * 12} for e, of in differences.items()}
    (pair,) = encoder_agreement(means_of(scores), unseen).run_pairs
    return pair


def less(differences: Sequence[float]) -> list[float]:
    return [-difference for difference in differences]


def test_a_claim_is_supported_by_two_embedders_that_have_not_seen_the_gallery() -> None:
    assert claimed(["x", "y"], x=CLEARLY, y=CLEARLY).better == "a"
    assert claimed(["x", "y"], x=less(CLEARLY), y=less(CLEARLY)).better == "b"
    assert claimed(["x"], x=CLEARLY, y=CLEARLY).better is None
    assert claimed([], x=CLEARLY, y=CLEARLY).better is None
    slight = claimed(["x", "y"], x=CLEARLY, y=SLIGHTLY)
    assert (slight.better, [verdict.is_apart for verdict in slight.verdicts]) == (None, [True, False])
    assert [verdict.sign for verdict in slight.verdicts] == [1, 1]


def test_a_claim_is_not_supported_where_one_of_them_contradicts_it_significantly() -> None:
    unseen = ["x", "y", "z"]
    against = claimed(unseen, x=CLEARLY, y=CLEARLY, z=less(CLEARLY))
    assert (against.better, against.is_contradicted, against.is_ordered_differently) == (None, True, True)
    slightly = claimed(unseen, x=CLEARLY, y=CLEARLY, z=less(SLIGHTLY))
    assert (slightly.better, slightly.is_contradicted, slightly.is_ordered_differently) == ("a", False, True)
    seen = claimed(["x", "y"], x=CLEARLY, y=CLEARLY, z=less(CLEARLY))
    assert (seen.better, seen.is_contradicted, seen.is_ordered_differently) == ("a", False, True)


def test_a_tie_is_no_other_order() -> None:
    tied = claimed(["x", "y"], x=CLEARLY, y=[0.0] * 12)
    assert not tied.is_ordered_differently
    assert [verdict.sign for verdict in tied.verdicts] == [1, 0]


# ---- the command, on records made by hand


def test_embedders_that_share_weights_support_a_claim_but_once() -> None:
    identities = [f"i{k}" for k in range(12)]
    better = {run: {i: 0.2 * (run == "a") + 0.01 * k for k, i in enumerate(identities)} for run in ("a", "b")}
    means = {"fp32": better, "bf16": better, "other": better}
    whole = {"weights_sha256": "1"}
    described = {"fp32": whole, "bf16": whole, "other": {"members": [{"weights_sha256": "2"}, {"weights_sha256": "3"}]}}
    networks = networks_of(described)
    assert networks["fp32"] == networks["bf16"] != networks["other"]

    def claim(*unseen: str) -> str | None:
        [pair] = encoder_agreement(means, unseen, networks).run_pairs
        return pair.better

    assert claim("fp32", "bf16") is None
    assert claim("fp32", "other") == "a"
    described["other"] = {"members": [whole, {"weights_sha256": "2"}]}
    networks = networks_of(described)
    assert claim("fp32", "bf16", "other") is None
