"""Counting ranks on a device of torch: the same filter and the same exact cosines as `benchmark.rank_kernels`."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmark.rank_kernels import product_errors
from benchmark.similarity import Floats, Indices, Rows

PAIR_BLOCK = 1 << 16


class DeviceCounter:
    """Counts of blocks of a gallery, added up on a device.

    Args:
        device: of torch, with float64: `cuda`, `cuda:1`, `cpu`.
        unit_queries: `[Q, D]` float32 of length 1 up to rounding, for the filter.
        queries, query_norms: the rows themselves and their lengths.
        starts, similarity: of the relevant photos, from the highest to the lowest of each query.
    """

    def __init__(
        self, device: str, unit_queries: Rows, queries: Rows, query_norms: Floats, starts: Indices, similarity: Floats
    ) -> None:
        if device.startswith("cuda"):
            torch.backends.cuda.matmul.allow_tf32 = False  # its 10-bit mantissa would leave the error band
        self._device = torch.device(device)
        self._unit, self._queries = self._here(unit_queries), self._here(queries)
        self._norms = self._here(query_norms)
        counts = np.diff(starts)
        # A column per relevant photo; nothing is near or above where a query has fewer.
        place = np.arange(len(similarity)) - np.repeat(starts[:-1], counts)
        padded = np.full((len(queries), int(counts.max(initial=0))), np.inf)
        owner = np.repeat(np.arange(len(queries)), counts)
        padded[owner, place] = similarity
        band = np.zeros(padded.shape)
        band[owner, place] = product_errors(queries.shape[1], similarity)
        self._similarity = self._here(padded)
        self._low, self._high = (self._here((padded + sign * band).astype(np.float32)) for sign in (-1, 1))
        self._higher = torch.zeros(padded.shape, dtype=torch.int64, device=self._device)
        self._equal = torch.zeros_like(self._higher)
        self._owner, self._place = owner, place
        self._block: Rows | None = None
        self._rows: torch.Tensor = self._norms
        self._row_norms: torch.Tensor = self._norms
        self._unit_rows: torch.Tensor = self._norms

    @torch.inference_mode()
    def count(self, query: Indices, rows: Rows, norms: Floats, unit: Rows) -> None:
        """Count a block of the gallery for some queries: its rows, their lengths, and the rows for the filter."""
        if rows is not self._block:  # else it is there, for other queries
            self._block, self._rows, self._row_norms = rows, self._here(rows), self._here(norms)
            self._unit_rows = self._rows if unit is rows else self._here(unit)
        which = self._here(query)
        product = self._unit[which] @ self._unit_rows.T
        low, high = self._low[which], self._high[which]
        is_doubtful = torch.zeros_like(product, dtype=torch.bool)
        for r in range(low.shape[1]):
            is_above = product > high[:, r, None]
            self._higher[which, r] += is_above.sum(dim=1)
            is_doubtful |= (product >= low[:, r, None]) & ~is_above
        pairs = is_doubtful.nonzero()
        for start in range(0, len(pairs), PAIR_BLOCK):
            q, g = pairs[start : start + PAIR_BLOCK].unbind(dim=1)
            value, owner = product[q, g, None], which[q]
            lengths = self._norms[owner] * self._row_norms[g]
            exact = (_exact_dot(self._queries[owner], self._rows[g]) / lengths)[:, None]
            is_near = (value >= low[q]) & (value <= high[q])
            similarity = self._similarity[owner]
            self._higher.index_add_(0, owner, (is_near & (exact > similarity)).long())
            self._equal.index_add_(0, owner, (is_near & (exact == similarity)).long())

    def counts(self) -> tuple[Indices, Indices]:
        """How many photos were higher than, and as high as, each relevant one."""
        higher, equal = (of.cpu().numpy()[self._owner, self._place] for of in (self._higher, self._equal))
        return higher, equal

    def _here(self, array: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)


def _exact_dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """As `rank_kernels.exact_dot`, of the rows of two `[P, D]` float32."""
    products = a.double() * b.double()
    width = products.shape[1]
    while width > 1:
        half, odd = divmod(width, 2)
        products[:, :half] += products[:, half : 2 * half]
        if odd:
            products[:, 0] += products[:, width - 1]
        width = half
    return products[:, 0].clone()
