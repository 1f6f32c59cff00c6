"""Exact ranks: how many gallery photos score higher than, and exactly as high as, each relevant one.

Similarity is the cosine of two stored float32 rows, evaluated in float64 by an order of operations that
depends on nothing but the two rows. Ranks are therefore the same whatever the file order, block size,
number of threads or library behind the matrix product, and equal rows always tie.

Nothing is sorted and no queries × gallery matrix is held: average precision needs the counts alone. A
float32 product serves as a filter; pairs inside its error band are evaluated exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

GALLERY_BLOCK = 8192
QUERY_BLOCK = 256
PAIR_BLOCK = 4096
MANY_RELEVANT = 64
"""Above so many relevant photos, evaluating all pairs of a query is cheaper than a threshold for each."""


@dataclass(frozen=True)
class RankCounts:
    """Where the relevant photos of one query stand. Arrays run from the highest similarity to the lowest.

    Attributes:
        similarity: `[R]` cosine in float64.
        n_higher: `[R]` gallery photos of higher similarity, relevant or not.
        n_equal: `[R]` other gallery photos of exactly the same similarity, relevant or not.
        n_gallery: photos ranked.
    """

    similarity: Floats
    n_higher: Indices
    n_equal: Indices
    n_gallery: int


def row_norms(rows: Rows) -> Floats:
    """Euclidean length of each row, `[N]` float64."""
    norms = np.empty(len(rows))
    for start in range(0, len(rows), PAIR_BLOCK):
        block = rows[start : start + PAIR_BLOCK]
        norms[start : start + PAIR_BLOCK] = np.sqrt(_dot(block, block))
    return norms


def pair_similarity(
    queries: Rows,
    gallery: Rows,
    query_index: Indices,
    gallery_index: Indices,
    query_norms: Floats,
    gallery_norms: Floats,
) -> Floats:
    """Exact cosine of chosen pairs, `[P]` float64 in [-1, 1] up to rounding."""
    similarity = np.empty(len(query_index))
    for start in range(0, len(query_index), PAIR_BLOCK):
        q = query_index[start : start + PAIR_BLOCK]
        g = gallery_index[start : start + PAIR_BLOCK]
        similarity[start : start + PAIR_BLOCK] = _dot(queries[q], gallery[g]) / (query_norms[q] * gallery_norms[g])
    return similarity


def _dot(a: Rows, b: Rows) -> Floats:
    """Row-wise inner product. Products of float32 are exact in float64; they are summed by halving, so that
    the result depends on no library's choice of order."""
    products = a.astype(np.float64) * b
    width = products.shape[1]
    while width > 1:
        half, odd = divmod(width, 2)
        products[:, :half] += products[:, half : 2 * half]
        if odd:
            products[:, 0] += products[:, width - 1]
        width = half
    return products[:, 0].copy()


def rank_counts(
    *,
    queries: Rows,
    gallery: Rows,
    relevant: Sequence[Indices],
    excluded: Sequence[Indices] | None = None,
    gallery_block: int = GALLERY_BLOCK,
    gallery_norms: Floats | None = None,
) -> list[RankCounts]:
    """Rank each query's relevant photos among the gallery.

    Args:
        queries: `[Q, D]` float32, finite and not zero.
        gallery: `[N, D]` float32, finite and not zero.
        relevant: for each query the gallery rows that show its target; at least one, all different.
        excluded: for each query the gallery rows left out of its ranking; none of them relevant.
        gallery_block: gallery rows compared at a time. Memory is bounded by it; results do not depend on it.
        gallery_norms: `row_norms(gallery)`, where the caller has them already.

    Returns:
        Counts for each query, in order.

    Raises:
        ValueError: shapes do not fit, or a query has no relevant photo.
    """
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    gallery = np.ascontiguousarray(gallery, dtype=np.float32)
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"queries {queries.shape} and gallery {gallery.shape} must be [Q, D] and [N, D]")
    if len(relevant) != len(queries) or (excluded is not None and len(excluded) != len(queries)):
        raise ValueError("relevant and excluded need an entry per query")
    if any(len(rows) == 0 for rows in relevant):
        raise ValueError("a query has no relevant photo: no ranking of it could be right")
    left_out = [np.asarray(rows, dtype=np.int64) for rows in excluded] if excluded else [_NONE] * len(queries)
    shown = [np.asarray(rows, dtype=np.int64) for rows in relevant]

    query_norms = row_norms(queries)
    norms = row_norms(gallery) if gallery_norms is None else gallery_norms
    pairs = _Pairs(queries, gallery, query_norms, norms)
    similarity = pairs.similarity_of_lists(shown)

    few = [q for q in range(len(queries)) if len(shown[q]) <= MANY_RELEVANT]
    higher = [np.zeros(len(rows), dtype=np.int64) for rows in shown]
    equal = [np.full(len(rows), -1, dtype=np.int64) for rows in shown]  # a photo equals itself once
    if few:
        _count_by_threshold(pairs, np.array(few), similarity, higher, equal, gallery_block)
    for q in range(len(queries)):
        if len(shown[q]) > MANY_RELEVANT:
            _count_by_sorting(pairs, q, similarity[q], higher[q], equal[q])

    for q, own in enumerate(pairs.similarity_of_lists(left_out)):
        higher[q] -= (own[:, None] > similarity[q]).sum(axis=0)
        equal[q] -= (own[:, None] == similarity[q]).sum(axis=0)
    counts = []
    for q in range(len(queries)):
        order = np.argsort(-similarity[q], kind="stable")
        n_gallery = len(gallery) - len(left_out[q])
        counts.append(RankCounts(similarity[q][order], higher[q][order], equal[q][order], n_gallery))
    return counts


_NONE = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class _Pairs:
    queries: Rows
    gallery: Rows
    query_norms: Floats
    gallery_norms: Floats

    def similarity(self, query_index: Indices, gallery_index: Indices) -> Floats:
        return pair_similarity(
            self.queries, self.gallery, query_index, gallery_index, self.query_norms, self.gallery_norms
        )

    def similarity_of_lists(self, lists: Sequence[Indices]) -> list[Floats]:
        """For each query, the similarity to the gallery rows listed for it."""
        lengths = [len(rows) for rows in lists]
        if not sum(lengths):
            return [np.zeros(0)] * len(lists)
        flat = self.similarity(np.repeat(np.arange(len(lists)), lengths), np.concatenate(lists))
        return np.split(flat, np.cumsum(lengths)[:-1])


def _count_by_threshold(
    pairs: _Pairs,
    members: Indices,
    similarity: Sequence[Floats],
    higher: list[Indices],
    equal: list[Indices],
    gallery_block: int,
) -> None:
    """Add to `higher` and `equal` of the queries `members`, from a float32 product and a threshold per photo."""
    band = product_error(pairs.gallery.shape[1])
    lows = [(similarity[q] - band).astype(np.float32) for q in members]
    highs = [(similarity[q] + band).astype(np.float32) for q in members]
    unit_queries = (pairs.queries[members] / pairs.query_norms[members, None]).astype(np.float32)
    for g0 in range(0, len(pairs.gallery), gallery_block):
        block = slice(g0, g0 + gallery_block)
        unit_gallery = (pairs.gallery[block] / pairs.gallery_norms[block, None]).astype(np.float32)
        for q0 in range(0, len(members), QUERY_BLOCK):
            product = unit_queries[q0 : q0 + QUERY_BLOCK] @ unit_gallery.T
            doubtful_query, doubtful_photo, doubtful_relevant = [], [], []
            for i, row in enumerate(product, start=q0):
                for r in range(len(lows[i])):
                    above_low = row >= lows[i][r]
                    n_higher = np.count_nonzero(row > highs[i][r])
                    higher[members[i]][r] += n_higher
                    if np.count_nonzero(above_low) > n_higher:
                        photos = np.flatnonzero(above_low & (row <= highs[i][r]))
                        doubtful_photo.append(photos + g0)
                        doubtful_query.append(np.full(len(photos), members[i]))
                        doubtful_relevant.append(np.full(len(photos), r))
            if not doubtful_photo:
                continue
            query, relevant = np.concatenate(doubtful_query), np.concatenate(doubtful_relevant)
            exact = pairs.similarity(query, np.concatenate(doubtful_photo))
            for q, r, value in zip(query, relevant, exact, strict=True):
                higher[q][r] += value > similarity[q][r]
                equal[q][r] += value == similarity[q][r]


def product_error(dim: int) -> float:
    """Bound on |float32 product - exact cosine| of unit rows, for any order of summation.

    Higham, Accuracy and Stability of Numerical Algorithms, section 3.1, with Cauchy-Schwarz; the constant
    covers the rounding of the rows to unit length and of the threshold to float32.
    """
    return (dim + 12) * 2.0**-24 * 1.01


def _count_by_sorting(pairs: _Pairs, q: int, similarity: Floats, higher: Indices, equal: Indices) -> None:
    """Add to `higher` and `equal` of one query, from the exact similarity of all its pairs."""
    n = len(pairs.gallery)
    everyone = np.sort(pairs.similarity(np.full(n, q), np.arange(n)))
    at_most = np.searchsorted(everyone, similarity, side="right")
    higher += n - at_most
    equal += at_most - np.searchsorted(everyone, similarity, side="left")
