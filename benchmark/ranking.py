"""The pass over a gallery, block by block, that `benchmark.rank` counts in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmark.similarity import (
    Floats,
    Indices,
    Rows,
    contiguous,
    fill_row_norms,
    in_threads,
    is_in_memory,
    let_go,
    pair_similarity,
    row_norms,
)

GALLERY_BLOCK = 8192
QUERY_BLOCK = 1024
SMALL_POOL = 128
"""In a pool of up to so many photos, the exact cosine of all is sooner had than the filter's product is counted."""
DEVICE_BLOCKS = 32
"""So many times the products are made together on a device that is not this process's CPU: 1 GB."""
NEARLY_UNIT = 2.0**-22
"""Rows whose length differs from 1 by less need not be scaled for the filter: what float32 makes of unit rows does."""


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


def sort_descending(similarity: Floats, starts: Indices) -> None:
    """Sort the part of each query, which begins at `starts[q]`, from the highest to the lowest."""
    from benchmark.rank_kernels import SHORT, sort_short_descending

    sort_short_descending(similarity, starts)
    for q in np.flatnonzero(np.diff(starts) > SHORT).tolist():
        similarity[starts[q] : starts[q + 1]] = np.sort(similarity[starts[q] : starts[q + 1]])[::-1]


class Ranking:
    """Queries, the rows that each is ranked among, and one pass over these."""

    def __init__(
        self,
        queries: Rows,
        gallery: Rows,
        excluded: Sequence[Indices] | Lists | None,
        pools: Indices | None,
        gallery_block: int,
    ) -> None:
        self.queries = contiguous(queries)
        # Rows of half precision, and those in a file, are made ready block by block.
        is_odd = gallery.dtype not in (np.float32, np.float16)
        self.gallery = contiguous(gallery) if is_odd or is_in_memory(gallery) else gallery
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
        if n_photos.max(initial=0) <= min(SMALL_POOL, self.gallery_block) and is_in_memory(self.gallery):
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

        in_threads(part, len(order), n_pairs * self.queries.shape[1])
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
        if is_in_memory(self.gallery):

            def part(own: slice) -> None:
                rows = lists.flat[own]
                cosines(self.queries, self.gallery, owner[own], rows, self.query_norms, self.norms, found[own])

            in_threads(part, len(owner), len(owner) * self.queries.shape[1])
            return found
        listed = np.unique(lists.flat)
        for start in range(0, len(listed), GALLERY_BLOCK):
            some = listed[start : start + GALLERY_BLOCK]
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

            in_threads(part, len(query), int(cells.sum()))
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
        rows = contiguous(gallery[low:high])
        let_go(gallery)
        norms = known[low:high]
        fill_row_norms(rows, norms)
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


def _ascending(lists: Lists) -> Lists:
    """The same lists, each in ascending order."""
    return Lists(lists.flat[np.lexsort((lists.flat, lists.owner))], lists.starts)
