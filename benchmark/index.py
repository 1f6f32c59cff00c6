"""Nearest neighbours to look at, found by FAISS; the numbers come from `benchmark.rank`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmark.rank import Floats, Indices, Rows, pair_similarity, product_error, row_norms


class NeighbourIndex:
    """Exact nearest neighbours in a gallery.

    FAISS compares in float32 and orders ties arbitrarily. What it finds is evaluated again in float64 and ordered
    by (similarity, row), so that the neighbours are the first of the ranking that the scores are made of.

    Args:
        gallery: `[N, D]` float32 unit rows, in an order that settles ties.
    """

    def __init__(self, gallery: Rows) -> None:
        import faiss

        self._gallery = np.ascontiguousarray(gallery, dtype=np.float32)
        self._norms = row_norms(self._gallery)
        self._index: Any = faiss.IndexFlatIP(gallery.shape[1])
        self._index.add(self._gallery)

    def search(self, queries: Rows, k: int, excluded: Sequence[Indices] | None = None) -> list[tuple[Indices, Floats]]:
        """For each query the k nearest gallery rows that are not excluded, and their similarity, nearest first."""
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        left_out = excluded or [np.zeros(0, dtype=np.int64)] * len(queries)
        norms = row_norms(queries)
        found: list[tuple[Indices, Floats] | None] = [None] * len(queries)
        open_queries = np.arange(len(queries))
        depth = min(len(self._gallery), 2 * k + max((len(rows) for rows in left_out), default=0))
        while len(open_queries):
            approximate, rows = self._index.search(queries[open_queries], depth)
            for at, q in enumerate(open_queries.tolist()):
                chosen = rows[at][~np.isin(rows[at], left_out[q])]
                index = np.full(len(chosen), q)
                exact = pair_similarity(queries, self._gallery, index, chosen, norms, self._norms)
                order = np.lexsort((chosen, -exact))[:k]
                # Rows that FAISS left out may still tie with the last neighbour, within the error of its product.
                last = exact[order[-1]] if len(order) == k else -np.inf
                if depth == len(self._gallery) or approximate[at][-1] < last - 2 * product_error(queries.shape[1]):
                    found[q] = (chosen[order].astype(np.int64), exact[order])
            open_queries = np.array([q for q in open_queries if found[q] is None], dtype=np.int64)
            depth = min(len(self._gallery), 4 * depth)
        return [entry for entry in found if entry is not None]
