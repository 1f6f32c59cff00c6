"""Scores against scikit-learn, trec_eval, and the mean over every order of tied photos."""

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmark.rank import RankCounts
from benchmark.scores import (
    auc,
    average_precision,
    chance_average_precision,
    cmc,
    first_hit_rank,
    inverse_negative_penalty,
    map_at_r,
    score_query,
)


def counts_of(similarity: list[float], is_relevant: list[bool]) -> RankCounts:
    """The definition of the counts, spelled out."""
    own = sorted((s for s, right in zip(similarity, is_relevant, strict=True) if right), reverse=True)
    n_higher = [sum(other > s for other in similarity) for s in own]
    n_equal = [sum(other == s for other in similarity) - 1 for s in own]
    return RankCounts(np.array(own), np.array(n_higher), np.array(n_equal), len(similarity))


def orders(similarity: list[float], is_relevant: list[bool]) -> Iterator[list[bool]]:
    """The relevance of the ranked photos, for every permutation of the photos within their ties."""
    groups = [
        [right for s, right in zip(similarity, is_relevant, strict=True) if s == value]
        for value in sorted(set(similarity), reverse=True)
    ]
    for order in itertools.product(*(itertools.permutations(group) for group in groups)):
        yield list(itertools.chain(*order))


def plain_scores(ranked: list[bool]) -> dict[str, float]:
    """Textbook scores of one order without ties."""
    ranks = [place for place, right in enumerate(ranked, start=1) if right]
    precision = {rank: i / rank for i, rank in enumerate(ranks, start=1)}
    n_relevant, n_irrelevant = len(ranks), len(ranked) - len(ranks)
    won = sum(not right for rank in ranks for right in ranked[rank:])
    return {
        "average_precision": sum(precision.values()) / n_relevant,
        "auc": won / (n_relevant * n_irrelevant) if n_irrelevant else math.nan,
        "cmc_1": any(ranked[:1]),
        "cmc_2": any(ranked[:2]),
        "cmc_5": any(ranked[:5]),
        "map_at_r": sum(p for rank, p in precision.items() if rank <= n_relevant) / n_relevant,
        "inverse_negative_penalty": n_relevant / ranks[-1],
        "first_hit_rank": ranks[0],
    }


def our_scores(counts: RankCounts) -> dict[str, float]:
    n_higher, n_equal = counts.n_higher, counts.n_equal
    return {
        "average_precision": average_precision(n_higher, n_equal),
        "auc": auc(n_higher, n_equal, counts.n_gallery),
        "cmc_1": cmc(n_higher, n_equal, 1),
        "cmc_2": cmc(n_higher, n_equal, 2),
        "cmc_5": cmc(n_higher, n_equal, 5),
        "map_at_r": map_at_r(n_higher, n_equal),
        "inverse_negative_penalty": inverse_negative_penalty(n_higher, n_equal),
        "first_hit_rank": first_hit_rank(n_higher, n_equal),
    }


@st.composite
def tied_rankings(draw: st.DrawFn) -> tuple[list[float], list[bool]]:
    """Up to seven photos that share few similarities; at least one is relevant."""
    n = draw(st.integers(1, 7))
    similarity = draw(st.lists(st.sampled_from([-0.5, 0.0, 0.5]), min_size=n, max_size=n))
    is_relevant = draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(any))
    return similarity, is_relevant


@st.composite
def untied_rankings(draw: st.DrawFn) -> tuple[list[float], list[bool]]:
    n = draw(st.integers(2, 60))
    similarity = [place / 64 - 0.5 for place in draw(st.permutations(range(n)))]
    n_relevant = draw(st.integers(1, n - 1))
    return similarity, draw(st.permutations([True] * n_relevant + [False] * (n - n_relevant)))


@given(tied_rankings())
@settings(max_examples=150, deadline=None)
def test_every_score_is_the_mean_over_all_orders_of_tied_photos(ranking: tuple[list[float], list[bool]]) -> None:
    each = [plain_scores(order) for order in orders(*ranking)]
    expected = {name: math.fsum(scores[name] for scores in each) / len(each) for name in each[0]}
    assert our_scores(counts_of(*ranking)) == approx(expected, abs=1e-12, nan_ok=True)


@given(tied_rankings())
@settings(deadline=None)
def test_a_query_counts_as_tied_when_and_only_when_the_order_of_ties_could_move_a_score(
    ranking: tuple[list[float], list[bool]],
) -> None:
    assert score_query(counts_of(*ranking)).is_tied == (len({tuple(order) for order in orders(*ranking)}) > 1)


@given(untied_rankings())
@settings(deadline=None)
def test_average_precision_without_ties_is_that_of_scikit_learn_and_of_trec_eval(
    ranking: tuple[list[float], list[bool]],
) -> None:
    similarity, is_relevant = ranking
    counts = counts_of(similarity, is_relevant)
    ours = average_precision(counts.n_higher, counts.n_equal)
    assert ours == approx(average_precision_score(is_relevant, similarity), abs=1e-9)
    qrels = [ir_measures.Qrel("q", str(i), int(right)) for i, right in enumerate(is_relevant)]
    found = [ir_measures.ScoredDoc("q", str(i), s) for i, s in enumerate(similarity)]
    assert ours == approx(ir_measures.calc_aggregate([ir_measures.AP], qrels, found)[ir_measures.AP], abs=1e-9)


@given(st.one_of(tied_rankings(), untied_rankings()).filter(lambda ranking: not all(ranking[1])))
@settings(deadline=None)
def test_auc_is_that_of_scikit_learn_with_and_without_ties(ranking: tuple[list[float], list[bool]]) -> None:
    similarity, is_relevant = ranking
    counts = counts_of(similarity, is_relevant)
    assert auc(counts.n_higher, counts.n_equal, len(similarity)) == approx(roc_auc_score(is_relevant, similarity))


@given(st.integers(1, 30), st.integers(0, 200))
def test_an_embedder_that_maps_all_images_to_one_point_scores_chance(n_relevant: int, n_others: int) -> None:
    n = n_relevant + n_others
    scores = score_query(counts_of([0.3] * n, [True] * n_relevant + [False] * n_others))
    assert scores.average_precision == approx(chance_average_precision(n_relevant, n), abs=1e-12)
    assert scores.rank_1 == approx(n_relevant / n)
    assert scores.first_hit_rank == approx((n + 1) / (n_relevant + 1))
    assert n_others == 0 or scores.auc == 0.5


@pytest.mark.parametrize(
    ("n_relevant", "n_gallery", "expected"),
    [(1, 5, "137/300"), (2, 5, "237/400"), (3, 7, "853/1470"), (4, 9, "20737/36288"), (7, 7, "1")],
)
def test_chance_is_what_enumerating_all_placements_gives(n_relevant: int, n_gallery: int, expected: str) -> None:
    assert chance_average_precision(n_relevant, n_gallery) == approx(float(Fraction(expected)), abs=1e-14)


@pytest.mark.parametrize(
    ("n_identities", "n_photos", "expected"),
    [
        (5, 10, 0.257130),
        (15, 10, 0.095426),
        (10, 15, 0.127732),
        (10, 10, 0.138067),
        (100, 10, 0.016427),
        (25, 10, 0.059665),
        (10, 20, 0.122061),
        (10, 5, 0.164271),
        (10, 1, 0.292897),
    ],
)
def test_chance_of_common_gallery_shapes(n_identities: int, n_photos: int, expected: float) -> None:
    assert chance_average_precision(n_photos, n_identities * n_photos) == approx(expected, abs=5e-7)


def test_a_query_without_a_right_answer_is_refused_by_every_score() -> None:
    nobody = np.zeros(0, dtype=np.int64)
    for score in (average_precision, map_at_r, first_hit_rank, inverse_negative_penalty):
        with pytest.raises(ValueError, match="no relevant photo"):
            score(nobody, nobody)
    for score_at in (auc, cmc):
        with pytest.raises(ValueError, match="no relevant photo"):
            score_at(nobody, nobody, 5)


def test_where_every_photo_is_right_precision_is_perfect_and_auc_is_undefined() -> None:
    scores = score_query(counts_of([0.9, 0.2, 0.2], [True, True, True]))
    assert (scores.average_precision, scores.map_at_r, scores.inverse_negative_penalty) == (1, 1, 1)
    assert math.isnan(scores.auc)
    assert not scores.is_tied
