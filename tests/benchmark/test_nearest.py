"""The nearest photos against a full sort in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.rank import Indices, Rows, nearest, pair_similarity, rank_counts, row_norms


def unit_rows(rng: np.random.Generator, n: int, dim: int) -> Rows:
    rows = rng.standard_normal((n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def sorted_in_full(gallery: Rows, query: Rows, k: int, excluded: Indices) -> tuple[list[int], list[float]]:
    """The first k of all photos, by exact similarity, then by row."""
    everyone = np.arange(len(gallery))
    same = np.zeros(len(gallery), dtype=np.int64)
    exact = pair_similarity(query[None], gallery, same, everyone, row_norms(query[None]), row_norms(gallery))
    ranked = sorted((-s, i) for i, s in enumerate(exact.tolist()) if i not in set(excluded.tolist()))[:k]
    return [i for _, i in ranked], [-s for s, _ in ranked]


@given(
    st.integers(0, 10_000), st.integers(1, 60), st.sampled_from([2, 16, 64]), st.booleans(), st.sampled_from([5, 8192])
)
@settings(max_examples=60, deadline=None)
def test_neighbours_are_the_first_of_the_exact_ranking(seed: int, k: int, dim: int, crowded: bool, block: int) -> None:
    rng = np.random.default_rng(seed)
    gallery = unit_rows(rng, 12, dim)
    nudged = gallery.copy()
    nudged[:, 0] *= np.float32(1 + 2**-23)
    # Crowded: five copies of each photo and of its near-copy, so that many tie at the cut.
    gallery = np.concatenate([gallery, nudged] * (5 if crowded else 1))
    queries = np.concatenate([unit_rows(rng, 3, dim), gallery[:2]])
    excluded = [rng.choice(len(gallery), rng.integers(0, len(gallery)), replace=False) for _ in queries]
    found = nearest(queries=queries, gallery=gallery, k=k, excluded=excluded, gallery_block=block)
    for query, left_out, (rows, similarity) in zip(queries, excluded, found, strict=True):
        assert (rows.tolist(), similarity.tolist()) == sorted_in_full(gallery, query, k, left_out)


@pytest.mark.parametrize("seed", range(5))
def test_neighbours_closer_together_than_float32_can_tell_are_the_exact_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    photo, query = unit_rows(rng, 2, 64)
    gallery = np.repeat(photo[None], 400, axis=0)
    gallery[np.arange(400), rng.integers(0, 64, 400)] *= np.float32(1 + 2**-23)
    ((rows, similarity),) = nearest(queries=query[None], gallery=gallery, k=3)
    assert (rows.tolist(), similarity.tolist()) == sorted_in_full(gallery, query, 3, np.zeros(0, dtype=np.int64))


def test_a_gallery_of_copies_gives_its_first_rows() -> None:
    gallery = np.repeat(unit_rows(np.random.default_rng(0), 1, 8), 300, axis=0)
    ((rows, similarity),) = nearest(queries=gallery[:1], gallery=gallery, k=4)
    assert rows.tolist() == [0, 1, 2, 3]
    assert len(set(similarity.tolist())) == 1


@pytest.mark.parametrize("k", [5, 50])
def test_more_neighbours_than_photos_gives_all_photos(k: int) -> None:
    gallery = unit_rows(np.random.default_rng(0), 5, 4)
    ((rows, _),) = nearest(queries=gallery[:1], gallery=gallery, k=k)
    assert sorted(rows.tolist()) == [0, 1, 2, 3, 4]


def test_neighbours_agree_with_the_rank_counts_that_scores_are_made_of() -> None:
    rng = np.random.default_rng(5)
    gallery, queries = unit_rows(rng, 200, 24), unit_rows(rng, 10, 24)
    own = [rng.choice(200, 3, replace=False) for _ in queries]
    counts = rank_counts(queries=queries, gallery=gallery, relevant=own)
    near = nearest(queries=queries, gallery=gallery, k=200)
    for relevant, count, (rows, _) in zip(own, counts, near, strict=True):
        places = sorted(rows.tolist().index(row) for row in relevant.tolist())
        assert count.n_higher.tolist() == places
