"""Speed as ratios measured side by side in one process."""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmark.rank import GALLERY_BLOCK, Rows, rank_counts


def bench_ranking(n_queries: int, n_gallery: int, dim: int, n_relevant: int, repeats: int) -> dict[str, Any]:
    """Exact rank counts against the bare blocked product of the same float32 rows.

    Returns:
        Seconds (medians), `ratio_to_bare_product`, and peak memory in megabytes: of the process, and of the rows alone.
    """
    rng = np.random.default_rng(0)
    gallery, queries = _unit_rows(rng, n_gallery, dim), _unit_rows(rng, n_queries, dim)
    relevant = [rng.choice(n_gallery, n_relevant, replace=False) for _ in range(n_queries)]

    def product() -> None:
        for start in range(0, n_gallery, GALLERY_BLOCK):
            queries @ gallery[start : start + GALLERY_BLOCK].T

    def ranks() -> None:
        rank_counts(queries=queries, gallery=gallery, relevant=relevant)

    product_s, ranks_s = [], []
    for _ in range(repeats):
        product_s.append(_seconds(product))
        ranks_s.append(_seconds(ranks))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return {
        "queries": n_queries,
        "gallery": n_gallery,
        "dim": dim,
        "relevant": n_relevant,
        "bare_product_s": statistics.median(product_s),
        "ranking_s": statistics.median(ranks_s),
        "ratio_to_bare_product": statistics.median(r / p for r, p in zip(ranks_s, product_s, strict=True)),
        "rows_mb": (gallery.nbytes + queries.nbytes) / 1e6,
        "peak_memory_mb": peak,
    }


def _unit_rows(rng: np.random.Generator, n: int, dim: int) -> Rows:
    rows = np.empty((n, dim), dtype=np.float32)
    for start in range(0, n, 4096):  # in blocks: a temporary copy of all rows would be the peak of memory
        block = rng.standard_normal((min(4096, n - start), dim), dtype=np.float32)
        rows[start : start + 4096] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return rows


def _seconds(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
