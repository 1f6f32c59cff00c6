"""A head of one hidden layer on embeddings that stay as they are."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.distances import Resources
from benchmark.embed import Rows, embed_files
from benchmark.embedders import Embedder
from benchmark.embedders.concatenated import residual_head, through

if TYPE_CHECKING:
    import torch


class Headed:
    """Embeddings of images, read from the store, with a head behind them.

    Raises:
        Faults: images that cannot be used.
    """

    def __init__(
        self,
        embedders: Sequence[Embedder],
        images: Sequence[Path],
        resources: Resources,
        *,
        hidden: int,
        seed: int,
        device: str,
    ) -> None:
        import torch

        parts = [
            embed_files(
                images,
                embedder,
                resources.store,
                batch_size=resources.batch_size,
                progress=resources.progress,
                warn=resources.warn,
            ).of(images)
            for embedder in embedders
        ]
        self.rows: Rows = np.concatenate(parts, axis=1)
        self.device = device
        torch.manual_seed(seed)
        self.head = residual_head(self.rows.shape[1], hidden).to(device)

    def parameters(self) -> "dict[str, torch.Tensor]":
        return dict(self.head.named_parameters())

    def train(self, is_training: bool) -> None:
        """Nothing differs."""

    def features(self, places: Sequence[int]) -> "torch.Tensor":
        """`[B, D]` of images by their places."""
        import torch

        rows: Any = torch.from_numpy(self.rows[list(places)]).to(self.device)
        return through(self.head, rows)
