"""Gallery mAP as a torchmetrics metric, for use inside a training loop."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torchmetrics import Metric

from benchmark.rank import Rows, rank_counts
from benchmark.scores import average_precision
from galleries.images import sha256_of

Labels = Sequence[Any] | torch.Tensor


class GalleryMeanAveragePrecision(Metric):
    """Mean average precision of query embeddings against a fixed, labelled gallery.

    The same number as `finer-rank evaluate`: step average precision over the whole category, exact in the presence
    of ties. Works under distributed training, where sums are added over processes.

    Args:
        gallery: `[N, D]` embeddings of the gallery photos, any length.
        identities: `N` labels of the photos.
        categories: `N` labels of the pools that are ranked apart; one pool where left out.

    Raises:
        ValueError: lengths do not fit, embeddings that are zero or not finite, or (in `update`) a target without a
            gallery photo.

    >>> metric = GalleryMeanAveragePrecision(torch.eye(3), ["ada", "ben", "cleo"])
    >>> metric.update(torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.6, 0.0]]), ["ada", "ben"])
    >>> metric.compute()
    tensor(0.7500, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(
        self,
        gallery: torch.Tensor,
        identities: Sequence[Any],
        categories: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        rows = _rows(gallery)
        labels = _as_list(identities)
        pools = _as_list(categories) if categories is not None else [None] * len(labels)
        if rows.ndim != 2 or len(labels) != len(rows) or len(pools) != len(rows):
            raise ValueError(f"gallery {rows.shape} needs a label per row, not {len(labels)}")
        self._pool_of: dict[Any, Any] = {}
        for label, pool in zip(labels, pools, strict=True):
            if self._pool_of.setdefault(label, pool) != pool:
                raise ValueError(f"identity {label!r} is in two categories")
        self._rows = {pool: rows[[i for i, p in enumerate(pools) if p == pool]] for pool in set(pools)}
        self._labels = {pool: [lb for lb, p in zip(labels, pools, strict=True) if p == pool] for pool in set(pools)}
        self.sum: torch.Tensor
        self.n_queries: torch.Tensor
        self.add_state("sum", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        # A MetricCollection takes metrics of equal states for one metric: the gallery is part of the state.
        key = int(sha256_of(rows.tobytes() + repr((labels, pools)).encode())[:15], 16)
        self.add_state("gallery_key", torch.tensor(key), dist_reduce_fx="max")
        self.add_state("n_queries", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, queries: torch.Tensor, targets: Labels) -> None:
        """Add queries `[Q, D]` and the `Q` identities that they should show."""
        wanted = _as_list(targets)
        if queries.ndim != 2 or len(wanted) != len(queries):
            raise ValueError(f"queries {tuple(queries.shape)} need a target per row, not {len(wanted)}")
        unknown = [target for target in wanted if target not in self._pool_of]
        if unknown:
            raise ValueError(f"target {unknown[0]!r} has no photo in the gallery")
        rows = _rows(queries)
        for pool, labels in self._labels.items():
            members = [i for i, target in enumerate(wanted) if self._pool_of[target] == pool]
            if not members:
                continue
            relevant = [np.array([j for j, label in enumerate(labels) if label == wanted[i]]) for i in members]
            counts = rank_counts(queries=rows[members], gallery=self._rows[pool], relevant=relevant)
            self.sum += sum(average_precision(c.n_higher, c.n_equal) for c in counts)
            self.n_queries += len(members)

    def compute(self) -> torch.Tensor:
        """mAP over all queries so far, in (0, 1]."""
        return self.sum / self.n_queries


def _rows(embeddings: torch.Tensor) -> Rows:
    rows: Rows = embeddings.detach().float().cpu().numpy()
    if rows.ndim == 2 and not (np.isfinite(rows).all() and rows.any(axis=1).all()):
        raise ValueError("embeddings must be finite and not zero")
    return rows


def _as_list(labels: Any) -> list[Any]:
    return labels.tolist() if isinstance(labels, torch.Tensor) else list(labels)
