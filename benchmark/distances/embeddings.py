"""Cosine distance under any embedder: 1 - cosine, in [0, 2]. DreamSim's own distance is this one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.distances.base import Floats, Resources
from benchmark.embed import Rows, embed_files
from benchmark.embedders import Embedder
from benchmark.embedders.pictures import Images
from benchmark.rank import pair_similarity, row_norms
from galleries.errors import FinerRankError


class EmbeddingDistance:
    """`1 - cosine` of the embeddings."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    @property
    def spec(self) -> str:
        return self.embedder.spec

    @property
    def description(self) -> Mapping[str, Any]:
        return self.embedder.description

    @property
    def fingerprint(self) -> str:
        return self.embedder.fingerprint

    @property
    def size(self) -> int | None:
        # An ensemble hands its geometry to its members.
        asked = self.embedder.members[0].embedder if self.embedder.members else self.embedder
        return asked.request.size

    @property
    def packages(self) -> tuple[str, ...]:
        return self.embedder.packages

    def between(self, first: Images, second: Images, batch_size: int = 32) -> Floats:
        one, other = (self.embedder.embed(images, batch_size) for images in (first, second))
        if len(one) != len(other):
            raise FinerRankError(
                f"{len(one)} images against {len(other)}: a distance is of pairs; give as many of each"
            )
        return cosine_distances(one, other, np.arange(len(one)), np.arange(len(one)))

    def of_pairs(self, pairs: Sequence[tuple[Path, Path]], resources: Resources) -> Floats:
        embedded = embed_files(
            [path for pair in pairs for path in pair],
            self.embedder,
            resources.store,
            batch_size=resources.batch_size,
            progress=resources.progress,
            warn=resources.warn,
        )
        one, other = (np.array([embedded.row_of[pair[side]] for pair in pairs], dtype=np.intp) for side in (0, 1))
        return cosine_distances(embedded.rows, embedded.rows, one, other)


def cosine_distances(first: Rows, second: Rows, one: Any, other: Any) -> Floats:
    """`[P]` float64: 1 - cosine of `first[one[i]]` and `second[other[i]]`, at least 0."""
    if len(one) == 0:
        return np.zeros(0)
    similarity = pair_similarity(first, second, one, other, row_norms(first), row_norms(second))
    return np.maximum(1 - similarity, 0)
