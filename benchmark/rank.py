"""Exact ranks: how many gallery photos score higher than, and exactly as high as, each relevant one.

Similarity is the cosine of two stored rows, evaluated in float64 by an order of operations that
depends on nothing but the two rows. Ranks are therefore the same whatever the file order, block size,
number of threads or library behind the matrix product, and equal rows always tie.

Nothing is sorted and no queries × gallery matrix is held: average precision needs the counts alone. A
float32 product serves as a filter; pairs inside its error band are evaluated exactly. The gallery is read a block
at a time, and may be larger than memory (`numpy.memmap`).
"""

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

GALLERY_BLOCK = 8192
QUERY_BLOCK = 512
SMALL_POOL = 128
"""In a pool of up to so many photos, the exact cosine of all is sooner had than the filter's product is counted."""
DEVICE_BLOCKS = 64
"""So many times the products are made together on a device that is not this process's CPU: 1 GB."""
PAIR_BLOCK = 16_384
"""Pairs evaluated at a time where the rows of each are read from a file."""
NEARLY_UNIT = 2.0**-22
"""Rows whose length differs from 1 by less need not be scaled for the filter: what float32 makes of unit rows does."""
WORTH_THREADS = 200_000
"""Fewer products than this are counted sooner than a thread is woken."""


@dataclass(frozen=True)
class Lists:
    """A list of numbers per query: list q is `flat[starts[q] : starts[q + 1]]`."""

    flat: Indices
    starts: Indices

    @staticmethod
    def of(lists: "Sequence[Indices] | Lists") -> "Lists":
        """The same lists, one after another."""
        if isinstance(lists, Lists):
            return lists
        starts = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(rows) for rows in lists], out=starts[1:])
        flat = np.concatenate(lists).astype(np.int64, copy=False) if starts[-1] else np.zeros(0, dtype=np.int64)
        return Lists(flat, starts)

    @staticmethod
    def empty(n: int) -> "Lists":
        """`n` lists without numbers."""
        return Lists(np.zeros(0, dtype=np.int64), np.zeros(n + 1, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def owner(self) -> Indices:
        """The query of each number."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))


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


def row_norms(rows: Rows) -> Floats:
    """Euclidean length of each row, `[N]` float64."""
    norms = np.full(len(rows), np.nan)
    for start in range(0, len(rows), GALLERY_BLOCK):
        _fill_norms(_contiguous(rows[start : start + GALLERY_BLOCK]), norms[start : start + GALLERY_BLOCK])
        _let_go(rows)
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
    from benchmark.rank_kernels import cosines

    if not (_is_in_memory(queries) and _is_in_memory(gallery)):
        return _listed_similarity(queries, gallery, query_index, gallery_index, query_norms, gallery_norms)
    queries, gallery = _contiguous(queries), _contiguous(gallery)
    q, g = np.asarray(query_index, dtype=np.int64), np.asarray(gallery_index, dtype=np.int64)
    found = np.empty(len(q))

    def part(own: slice) -> None:
        cosines(queries, gallery, q[own], g[own], query_norms, gallery_norms, found[own])

    _in_threads(part, len(q), queries.shape[1] * len(q))
    return found


def _listed_similarity(
    queries: Rows,
    gallery: Rows,
    query_index: Indices,
    gallery_index: Indices,
    query_norms: Floats,
    gallery_norms: Floats,
) -> Floats:
    """As `pair_similarity`, of rows of which no more are read at a time than `PAIR_BLOCK` pairs need."""
    found = np.empty(len(query_index))
    for start in range(0, len(found), PAIR_BLOCK):
        own = slice(start, start + PAIR_BLOCK)
        (q, q_place), (g, g_place) = (np.unique(of[own], return_inverse=True) for of in (query_index, gallery_index))
        some_queries, some_rows = _contiguous(queries[q]), _contiguous(gallery[g])
        _let_go(queries)
        _let_go(gallery)
        found[own] = pair_similarity(some_queries, some_rows, q_place, g_place, query_norms[q], gallery_norms[g])
    return found


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
    ranking = _Ranking(queries, gallery, excluded, pools, gallery_block)
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
    return _Ranking(queries, gallery, excluded, pools, gallery_block).nearest(k)


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
    _Ranking(queries, rows, None, None, GALLERY_BLOCK).scan(starts, similarity, higher, equal)
    return higher, equal


def sort_descending(similarity: Floats, starts: Indices) -> None:
    """Sort the part of each query, which begins at `starts[q]`, from the highest to the lowest."""
    from benchmark.rank_kernels import SHORT, sort_short_descending

    sort_short_descending(similarity, starts)
    for q in np.flatnonzero(np.diff(starts) > SHORT).tolist():
        similarity[starts[q] : starts[q + 1]] = np.sort(similarity[starts[q] : starts[q + 1]])[::-1]


def product_error(dim: int) -> float:
    """Bound on |float32 product - exact cosine| of rows of unit length up to `NEARLY_UNIT`, for any order of summation.

    Higham, Accuracy and Stability of Numerical Algorithms, section 3.1, with Cauchy-Schwarz; the constant
    covers the rows' length, their rounding and that of the threshold to float32.
    """
    return (dim + 20) * 2.0**-24 * 1.01


class _Ranking:
    """Queries, the rows that each is ranked among, and one pass over these."""

    def __init__(
        self,
        queries: Rows,
        gallery: Rows,
        excluded: Sequence[Indices] | Lists | None,
        pools: Indices | None,
        gallery_block: int,
    ) -> None:
        self.queries = _contiguous(queries)
        # Rows of half precision, and those in a file, are made ready block by block.
        is_odd = gallery.dtype not in (np.float32, np.float16)
        self.gallery = _contiguous(gallery) if is_odd or _is_in_memory(gallery) else gallery
        if self.queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
            raise ValueError(f"queries {queries.shape} and gallery {gallery.shape} must be [Q, D] and [N, D]")
        n = len(queries)
        self.excluded = Lists.empty(n) if excluded is None else _ascending(Lists.of(excluded))
        self.pools = np.tile([0, len(gallery)], (n, 1)) if pools is None else np.asarray(pools, dtype=np.int64)
        if len(self.excluded) != n or self.pools.shape != (n, 2):
            raise ValueError("relevant and excluded need an entry per query")
        self.gallery_block = gallery_block
        self.query_norms = row_norms(self.queries)
        self.norms = np.full(len(gallery), np.nan)
        self.n_ranked = self.pools[:, 1] - self.pools[:, 0] - np.diff(self.excluded.starts)

    def counts(self, relevant: Lists, device: str) -> tuple[Floats, Indices, Indices]:
        """`similarity`, `n_higher` and `n_equal` of the relevant photos of all queries, `[L]`: see `RankCounts`."""
        from benchmark.rank_kernels import leave_out

        n_photos = self.pools[:, 1] - self.pools[:, 0]
        if n_photos.max(initial=0) <= min(SMALL_POOL, self.gallery_block) and _is_in_memory(self.gallery):
            return self._counts_in_small_pools(relevant, int(n_photos.sum()))
        similarity = self.similarity(relevant)
        sort_descending(similarity, relevant.starts)
        higher = np.zeros(len(similarity), dtype=np.int64)
        equal = np.full(len(similarity), -1, dtype=np.int64)  # a photo equals itself once
        self.scan(relevant.starts, similarity, higher, equal, device=device)
        leave_out(self.similarity(self.excluded), self.excluded.starts, relevant.starts, similarity, higher, equal)
        return similarity, higher, equal

    def _counts_in_small_pools(self, relevant: Lists, n_pairs: int) -> tuple[Floats, Indices, Indices]:
        from benchmark.rank_kernels import count_in_small_pools

        similarity = np.empty(len(relevant.flat))
        higher, equal = np.empty(len(similarity), dtype=np.int64), np.empty(len(similarity), dtype=np.int64)
        order = np.lexsort((self.pools[:, 1], self.pools[:, 0]))  # queries of one pool find it in the processor's cache

        def part(own: slice) -> None:
            count_in_small_pools(
                order[own], self.pools, self.queries, self.query_norms, self.gallery, self.norms,
                relevant.flat, relevant.starts, self.excluded.flat, self.excluded.starts, similarity, higher, equal,
            )  # fmt: skip

        _in_threads(part, len(order), n_pairs * self.queries.shape[1])
        return similarity, higher, equal

    def nearest(self, k: int) -> list[tuple[Indices, Floats]]:
        """See `nearest`."""
        n = len(self.queries)
        near = _Near(np.zeros((n, k), dtype=np.int64), np.zeros((n, k)), np.zeros(n, dtype=np.int64))
        none = np.zeros(0, dtype=np.int64)
        self.scan(np.zeros(n + 1, dtype=np.int64), np.zeros(0), none, none, near)
        return [(near.rows[q, :m], near.similarity[q, :m]) for q, m in enumerate(near.n.tolist())]

    def similarity(self, lists: Lists) -> Floats:
        """Exact cosine of each query to the rows listed for it, one after another."""
        from benchmark.rank_kernels import cosines

        owner, found = lists.owner, np.empty(len(lists.flat))
        if _is_in_memory(self.gallery):

            def part(own: slice) -> None:
                rows = lists.flat[own]
                cosines(self.queries, self.gallery, owner[own], rows, self.query_norms, self.norms, found[own])

            _in_threads(part, len(owner), len(owner) * self.queries.shape[1])
            return found
        listed = np.unique(lists.flat)
        for start in range(0, len(listed), PAIR_BLOCK):
            some = listed[start : start + PAIR_BLOCK]
            self.norms[some] = row_norms(self.gallery[some])
        return pair_similarity(self.queries, self.gallery, owner, lists.flat, self.query_norms, self.norms)

    def scan(
        self,
        starts: Indices,
        similarity: Floats,
        higher: Indices,
        equal: Indices,
        near: "_Near | None" = None,
        device: str = "cpu",
    ) -> None:
        """One pass over the gallery, which adds to `higher` and `equal` and fills `near`: see `rank_kernels.scan`."""
        from benchmark.rank_kernels import scan

        n = len(self.queries)
        near = near or _Near(np.zeros((n, 0), dtype=np.int64), np.zeros((n, 0)), np.zeros(n, dtype=np.int64))
        order = np.lexsort((self.pools[:, 1], self.pools[:, 0]))
        is_sorted = bool((order == np.arange(n)).all())
        unit_queries = (
            _unit(self.queries, self.query_norms) if is_sorted else _unit(self.queries[order], self.query_norms[order])
        )
        n_cells = QUERY_BLOCK * self.gallery_block * (1 if device == "cpu" else DEVICE_BLOCKS)
        product = np.empty(n_cells, dtype=np.float32)  # of which as much is taken as is written
        counter = None
        if device != "cpu":
            from benchmark.rank_device import DeviceCounter

            unit = _unit(self.queries, self.query_norms)
            counter = DeviceCounter(device, unit, self.queries, self.query_norms, starts, similarity)
        block = _Block.of(self.gallery, self.norms, 0, 0)
        for batch in _batches(self.pools[order], self.gallery_block, n_cells):
            low, high = int(batch[:, 2].min()), int(batch[:, 3].max())
            if (block.low, block.high) != (low, high):
                block = _Block.of(self.gallery, self.norms, low, high)
            if counter and len(batch) == 1:  # of small pools each would wait for the device longer than for its counts
                counter.count(order[batch[0, 0] : batch[0, 1]], block.rows, block.norms, block.unit)
                continue
            n_rows = batch[:, 3] - batch[:, 2]
            cells = (batch[:, 1] - batch[:, 0]) * n_rows
            offsets = np.cumsum(cells) - cells
            for (q0, q1, first, end), offset, size in zip(
                batch.tolist(), offsets.tolist(), cells.tolist(), strict=True
            ):
                out = product[offset : offset + size].reshape(q1 - q0, end - first)
                np.matmul(unit_queries[q0:q1], block.unit[first - low : end - low].T, out=out)
            # A stretch of products for each query of each task.
            of = np.repeat(np.arange(len(batch)), batch[:, 1] - batch[:, 0])
            within = np.arange(len(of)) - np.searchsorted(of, of)
            query = order[batch[of, 0] + within]
            stretches = (query, offsets[of] + within * n_rows[of], batch[of, 2], n_rows[of])

            def part(own: slice, block: _Block = block, stretches: Any = stretches) -> None:
                scan(
                    product, *(column[own] for column in stretches), self.queries, self.query_norms,
                    block.rows, block.norms, block.low, starts, similarity, higher, equal,
                    near.rows, near.similarity, near.n, self.excluded.flat, self.excluded.starts,
                )  # fmt: skip

            _in_threads(part, len(query), int(cells.sum()))
        if counter:
            for sums, found in zip((higher, equal), counter.counts(), strict=True):
                sums += found


@dataclass(frozen=True)
class _Near:
    """The nearest rows so far of each query, their similarity, `[Q, k]`, and how many there are."""

    rows: Indices
    similarity: Floats
    n: Indices


@dataclass(frozen=True)
class _Block:
    """Rows `low` to `high` of a gallery, their lengths, and what the filter multiplies."""

    low: int
    high: int
    rows: Rows
    norms: Floats
    unit: Rows

    @staticmethod
    def of(gallery: Rows, known: Floats, low: int, high: int) -> "_Block":
        rows = _contiguous(gallery[low:high])
        _let_go(gallery)
        norms = known[low:high]
        _fill_norms(rows, norms)
        return _Block(low, high, rows, norms, _unit(rows, norms))


def _batches(pools: Indices, gallery_block: int, n_cells: int) -> Iterator[Indices]:
    """Products to make together, as rows (first query, query after the last, first photo, photo after the last).

    Args:
        pools: `[Q, 2]` ascending.
    """
    batch: list[tuple[int, int, int, int]] = []
    used = 0
    changes = np.flatnonzero((pools[1:] != pools[:-1]).any(axis=1)) + 1
    for a, b in zip([0, *changes.tolist()], [*changes.tolist(), len(pools)], strict=True):
        first, end = pools[a].tolist() if b > a else (0, 0)
        for g0 in range(first, end, gallery_block):
            g1 = min(g0 + gallery_block, end)
            step = n_cells // (g1 - g0)
            for q0 in range(a, b, step):
                q1 = min(q0 + step, b)
                size = (q1 - q0) * (g1 - g0)
                if batch and (used + size > n_cells or g1 - batch[0][2] > gallery_block):
                    yield np.array(batch)
                    batch, used = [], 0
                batch.append((q0, q1, g0, g1))
                used += size
    if batch:
        yield np.array(batch)


def _unit(rows: Rows, norms: Floats) -> Rows:
    """The rows scaled to length 1, or themselves where that is so nearly."""
    if not len(rows) or np.abs(norms - 1).max() <= NEARLY_UNIT:
        return rows
    scaled: Rows = (rows / norms[:, None]).astype(np.float32)
    return scaled


def _fill_norms(rows: Rows, norms: Floats) -> None:
    from benchmark.rank_kernels import fill_norms

    _in_threads(lambda own: fill_norms(rows[own], norms[own]), len(rows), rows.size)


def _ascending(lists: Lists) -> Lists:
    """The same lists, each in ascending order."""
    return Lists(lists.flat[np.lexsort((lists.flat, lists.owner))], lists.starts)


def _contiguous(rows: Rows) -> Rows:
    # Writable too: of others numba would compile everything once more.
    return np.require(np.asarray(rows), np.float32, ["C", "W"])


def _is_in_memory(gallery: Rows) -> bool:
    return gallery.dtype == np.float32 and gallery.flags.writeable and not isinstance(gallery, np.memmap)


def _let_go(gallery: Rows) -> None:
    """Pages of a mapped file that were read need not stay in this process's memory; the system may cache them."""
    if isinstance(gallery, np.memmap) and gallery.mode == "r":
        gallery._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def n_threads() -> int:
    """One per usable core, or as many as `OMP_NUM_THREADS` allows the matrix product."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(asked)) if asked.isdigit() and int(asked) else cores


def _in_threads(function: Callable[[slice], None], n: int, work: int) -> None:
    """Call `function` with slices that make up 0 to `n`; at once with all of it where the work is small."""
    n_parts = min(n_threads(), n) if work >= WORTH_THREADS else 1
    if n_parts <= 1:
        function(slice(0, n))
        return
    edges = np.linspace(0, n, 2 * n_parts + 1).astype(int).tolist()
    with ThreadPoolExecutor(n_parts) as pool:
        list(pool.map(function, map(slice, edges[:-1], edges[1:])))
