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
MANY_DOUBTFUL = 2048
"""Above so many doubtful pairs of one query in one block, the filter saves nothing."""
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

    starts = np.cumsum([0, *(len(rows) for rows in shown)])
    higher = np.zeros(starts[-1], dtype=np.int64)
    equal = np.full(starts[-1], -1, dtype=np.int64)  # a photo equals itself once
    few = [q for q in range(len(queries)) if len(shown[q]) <= MANY_RELEVANT]
    crowded = _count_by_threshold(pairs, few, starts, np.concatenate(similarity), higher, equal, gallery_block)
    for q in sorted({*range(len(queries))} - {*few} | crowded):
        own = slice(starts[q], starts[q + 1])
        higher[own], equal[own] = _count_by_sorting(pairs, q, similarity[q])

    counts = []
    for q, excluded_similarity in enumerate(pairs.similarity_of_lists(left_out)):
        own = slice(starts[q], starts[q + 1])
        higher[own] -= (excluded_similarity[:, None] > similarity[q]).sum(axis=0)
        equal[own] -= (excluded_similarity[:, None] == similarity[q]).sum(axis=0)
        order = np.argsort(-similarity[q], kind="stable")
        n_gallery = len(gallery) - len(left_out[q])
        counts.append(RankCounts(similarity[q][order], higher[own][order], equal[own][order], n_gallery))
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
    members: Sequence[int],
    starts: Indices,
    similarity: Floats,
    higher: Indices,
    equal: Indices,
    gallery_block: int,
) -> set[int]:
    """Add to `higher` and `equal` of the queries `members`, from a float32 product and a threshold per photo.

    `similarity`, `higher` and `equal` hold the relevant photos of all queries; those of query q begin at `starts[q]`.

    Returns:
        Queries given up, whose counts are not valid: so many photos are as near as makes no difference (a collapsed
        encoder, a gallery of copies) that evaluating all of their pairs is cheaper.
    """
    crowded: set[int] = set()
    if not members:
        return crowded
    band = product_error(pairs.gallery.shape[1])
    lows, highs = (similarity - band).astype(np.float32), (similarity + band).astype(np.float32)
    unit_queries = (pairs.queries[members] / pairs.query_norms[members, None]).astype(np.float32)
    for g0 in range(0, len(pairs.gallery), gallery_block):
        block = slice(g0, g0 + gallery_block)
        unit_gallery = (pairs.gallery[block] / pairs.gallery_norms[block, None]).astype(np.float32)
        for q0 in range(0, len(members), QUERY_BLOCK):
            product = unit_queries[q0 : q0 + QUERY_BLOCK] @ unit_gallery.T
            doubtful: list[tuple[Indices, int, int]] = []
            for q, row in zip(members[q0 : q0 + QUERY_BLOCK], product, strict=True):
                if q in crowded:
                    continue
                n_doubtful = 0
                for r in range(starts[q], starts[q + 1]):
                    above_low = row >= lows[r]
                    n_higher = int(np.count_nonzero(row > highs[r]))
                    higher[r] += n_higher
                    n_near = int(np.count_nonzero(above_low)) - n_higher
                    if n_near:
                        n_doubtful += n_near
                        doubtful.append((np.flatnonzero(above_low & (row <= highs[r])) + g0, q, r))
                    if n_doubtful > MANY_DOUBTFUL:
                        crowded.add(q)
                        break
            _count_doubtful([d for d in doubtful if d[1] not in crowded], pairs, similarity, higher, equal)
    return crowded


def _count_doubtful(
    doubtful: Sequence[tuple[Indices, int, int]], pairs: _Pairs, similarity: Floats, higher: Indices, equal: Indices
) -> None:
    """Evaluate (photos, query, relevant photo) exactly, and add to the counts of the relevant photo."""
    if not doubtful:
        return
    lengths = [len(photos) for photos, _, _ in doubtful]
    query = np.repeat([q for _, q, _ in doubtful], lengths)
    relevant = np.repeat([r for _, _, r in doubtful], lengths)
    exact = pairs.similarity(query, np.concatenate([photos for photos, _, _ in doubtful]))
    np.add.at(higher, relevant[exact > similarity[relevant]], 1)
    np.add.at(equal, relevant[exact == similarity[relevant]], 1)


def product_error(dim: int) -> float:
    """Bound on |float32 product - exact cosine| of unit rows, for any order of summation.

    Higham, Accuracy and Stability of Numerical Algorithms, section 3.1, with Cauchy-Schwarz; the constant
    covers the rounding of the rows to unit length and of the threshold to float32.
    """
    return (dim + 12) * 2.0**-24 * 1.01


def _count_by_sorting(pairs: _Pairs, q: int, similarity: Floats) -> tuple[Indices, Indices]:
    """`higher` and `equal` of one query, from the exact similarity of all its pairs."""
    n = len(pairs.gallery)
    everyone = np.sort(pairs.similarity(np.full(n, q), np.arange(n)))
    at_most = np.searchsorted(everyone, similarity, side="right")
    return n - at_most, at_most - np.searchsorted(everyone, similarity, side="left") - 1
