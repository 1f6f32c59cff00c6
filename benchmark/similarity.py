"""Exact cosines of stored rows, evaluated in float64 by an order of operations that depends on the two rows alone.

Rows may lie in memory, or in a file (`numpy.memmap`), of which no more is read at a time than is asked for.
"""

import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

ROW_BLOCK = 8192
PAIR_BLOCK = 16_384
"""Pairs evaluated at a time where the rows of each are read from a file."""
WORTH_THREADS = 200_000
"""Fewer products than this are counted sooner than a thread is woken."""


def row_norms(rows: Rows) -> Floats:
    """Euclidean length of each row, `[N]` float64."""
    norms = np.full(len(rows), np.nan)
    for start in range(0, len(rows), ROW_BLOCK):
        fill_row_norms(contiguous(rows[start : start + ROW_BLOCK]), norms[start : start + ROW_BLOCK])
        let_go(rows)
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

    if not (is_in_memory(queries) and is_in_memory(gallery)):
        return _listed_similarity(queries, gallery, query_index, gallery_index, query_norms, gallery_norms)
    queries, gallery = contiguous(queries), contiguous(gallery)
    q, g = np.asarray(query_index, dtype=np.int64), np.asarray(gallery_index, dtype=np.int64)
    found = np.empty(len(q))

    def part(own: slice) -> None:
        cosines(queries, gallery, q[own], g[own], query_norms, gallery_norms, found[own])

    in_threads(part, len(q), queries.shape[1] * len(q))
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
        some_queries, some_rows = contiguous(queries[q]), contiguous(gallery[g])
        let_go(queries)
        let_go(gallery)
        found[own] = pair_similarity(some_queries, some_rows, q_place, g_place, query_norms[q], gallery_norms[g])
    return found


def fill_row_norms(rows: Rows, norms: Floats) -> None:
    from benchmark.rank_kernels import fill_norms

    in_threads(lambda own: fill_norms(rows[own], norms[own]), len(rows), rows.size)


def contiguous(rows: Rows) -> Rows:
    # Writable too: of others numba would compile everything once more.
    return np.require(np.asarray(rows), np.float32, ["C", "W"])


def is_in_memory(gallery: Rows) -> bool:
    return gallery.dtype == np.float32 and gallery.flags.writeable and not isinstance(gallery, np.memmap)


def let_go(gallery: Rows) -> None:
    """Pages of a mapped file that were read need not stay in this process's memory; the system may cache them."""
    if isinstance(gallery, np.memmap) and gallery.mode == "r" and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        gallery._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def n_threads() -> int:
    """One per usable core, or as many as `OMP_NUM_THREADS` allows the matrix product."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(asked)) if asked.isdigit() and int(asked) else cores


def in_threads(function: Callable[[slice], None], n: int, work: int) -> None:
    """Call `function` with slices that make up 0 to `n`; at once with all of it where the work is small."""
    n_parts = min(n_threads(), n) if work >= WORTH_THREADS else 1
    if n_parts <= 1:
        function(slice(0, n))
        return
    edges = np.linspace(0, n, 2 * n_parts + 1).astype(int).tolist()
    with ThreadPoolExecutor(n_parts) as pool:
        list(pool.map(function, map(slice, edges[:-1], edges[1:])))
