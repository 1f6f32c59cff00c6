"""Exact ranks: how many gallery photos score higher than, and exactly as high as, each relevant one.

Similarity is the cosine of two stored rows, evaluated in float64 by an order of operations that
depends on nothing but the two rows. Ranks are therefore the same whatever the file order, block size,
number of threads or library behind the matrix product, and equal rows always tie.

Nothing is sorted and no queries × gallery matrix is held: average precision needs the counts alone. A
float32 product serves as a filter; pairs inside its error band are evaluated exactly. The gallery is read a block
at a time, and may be larger than memory (`numpy.memmap`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from benchmark.ranking import GALLERY_BLOCK, Lists, Ranking, sort_descending
from benchmark.similarity import Floats, Indices, Rows, pair_similarity, row_norms

__all__ = [
    "GALLERY_BLOCK",
    "Floats",
    "Indices",
    "Lists",
    "RankCounts",
    "RankedQueries",
    "Rows",
    "counts_of_block",
    "nearest",
    "pair_similarity",
    "product_error",
    "rank_counts",
    "row_norms",
    "sort_descending",
]


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


@dataclass(frozen=True)
class RankedQueries(Sequence[RankCounts]):
    """The counts of many queries, one after another.

    Attributes:
        similarity, n_higher, n_equal: `[L]`: see `RankCounts`; those of query q begin at `starts[q]`.
        n_gallery: `[Q]`
    """

    similarity: Floats
    n_higher: Indices
    n_equal: Indices
    starts: Indices
    n_gallery: Indices

    def __len__(self) -> int:
        return len(self.n_gallery)

    @overload
    def __getitem__(self, q: int) -> RankCounts: ...
    @overload
    def __getitem__(self, q: slice) -> list[RankCounts]: ...
    def __getitem__(self, q: int | slice) -> RankCounts | list[RankCounts]:
        if isinstance(q, slice):
            return [self[i] for i in range(*q.indices(len(self)))]
        q = range(len(self))[q]
        own = slice(self.starts[q], self.starts[q + 1])
        return RankCounts(self.similarity[own], self.n_higher[own], self.n_equal[own], int(self.n_gallery[q]))


def rank_counts(
    *,
    queries: Rows,
    gallery: Rows,
    relevant: Sequence[Indices] | Lists,
    excluded: Sequence[Indices] | Lists | None = None,
    pools: Indices | None = None,
    gallery_block: int = GALLERY_BLOCK,
    device: str = "cpu",
) -> RankedQueries:
    """Rank each query's relevant photos among the gallery.

    Args:
        queries: `[Q, D]` float32, finite and not zero.
        gallery: `[N, D]` float32 or float16, finite and not zero; a `numpy.memmap` is read a block at a time.
        relevant: for each query the gallery rows that show its target; at least one, all different.
        excluded: for each query the gallery rows left out of its ranking; none of them relevant.
        pools: `[Q, 2]` first row, and row after the last, of what each query is ranked among; all rows where left out.
            Many small pools take no longer than few large ones.
        gallery_block: gallery rows compared at a time. Memory is bounded by it; results do not depend on it.
        device: of torch, such as `cuda`, that multiplies and counts; this process's threads where `cpu`.

    Returns:
        Counts for each query, in order.

    Raises:
        ValueError: shapes do not fit, or a query has no relevant photo.
    """
    ranking = Ranking(queries, gallery, excluded, pools, gallery_block)
    own = Lists.of(relevant)
    if len(own) != len(ranking.queries):
        raise ValueError("relevant and excluded need an entry per query")
    if (np.diff(own.starts) == 0).any():
        raise ValueError("a query has no relevant photo: no ranking of it could be right")
    similarity, higher, equal = ranking.counts(own, device)
    return RankedQueries(similarity, higher, equal, own.starts, ranking.n_ranked)


def nearest(
    *,
    queries: Rows,
    gallery: Rows,
    k: int,
    excluded: Sequence[Indices] | Lists | None = None,
    pools: Indices | None = None,
    gallery_block: int = GALLERY_BLOCK,
) -> list[tuple[Indices, Floats]]:
    """For each query the `k` nearest gallery rows and their exact cosine: the first of the ranking that is scored.

    Rows that are equally near come in their order. For the arguments see `rank_counts`.
    """
    return Ranking(queries, gallery, excluded, pools, gallery_block).nearest(k)


def counts_of_block(queries: Rows, starts: Indices, similarity: Floats, rows: Rows) -> tuple[Indices, Indices]:
    """Of one part of a gallery, how many photos are higher than, and as high as, each relevant photo of each query.

    Counts of a gallery are the sums over its parts, wherever these are counted.

    Args:
        queries: `[Q, D]` float32.
        starts: `[Q + 1]`: the relevant photos of query q are those from `starts[q]` to `starts[q + 1]`.
        similarity: `[L]` exact cosine of each relevant photo, from the highest to the lowest of each query.
        rows: `[M, D]` the part.

    Returns:
        `n_higher` and `n_equal`, `[L]`; a relevant photo among `rows` counts as equal to itself.
    """
    higher, equal = np.zeros(len(similarity), dtype=np.int64), np.zeros(len(similarity), dtype=np.int64)
    Ranking(queries, rows, None, None, GALLERY_BLOCK).scan(starts, similarity, higher, equal)
    return higher, equal


def product_error(dim: int) -> float:
    """Bound on |float32 product - exact cosine| of rows of unit length up to `NEARLY_UNIT`, for any order of summation.

    Higham, Accuracy and Stability of Numerical Algorithms, section 3.1, with Cauchy-Schwarz; the constant
    covers the rows' length, their rounding and that of the threshold to float32. It is the bound of
    `rank_kernels.product_error` where the similarity is 1, and so the widest, without numba.
    """
    return (dim + 20) * 2.0**-24 * 1.01
