"""What every pairwise distance offers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from benchmark.embedders.pictures import Images
from benchmark.store import Root, print_to_stderr
from galleries.console import Progress

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Resources:
    """What a long computation over image files is given. None of it moves a number.

    Attributes:
        store: folder of the embedding store.
        batch_size: images per forward pass; 32 where None.
    """

    store: Root
    batch_size: int | None = None
    progress: Progress | None = None
    warn: Callable[[str], None] = field(default=print_to_stderr)


class Distance(Protocol):
    """How far apart two pictures are: smaller is nearer, whatever the metric's own direction."""

    @property
    def spec(self) -> str:
        """What was asked for, such as `lpips:alex` or `dinov2`."""

    @property
    def description(self) -> Mapping[str, Any]:
        """All that decides the distance: method, digest of the weights, geometry."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of `description`."""

    @property
    def size(self) -> int | None:
        """Side in pixels that pictures are squashed to; None where they are compared as they are, or in an embedder's
        own geometry."""

    @property
    def packages(self) -> tuple[str, ...]:
        """Those whose version decides what it computes."""

    def between(self, first: Images, second: Images, batch_size: int = 32) -> Floats:
        """Distance of each pair, `[N]` float64. Nothing is cached.

        Args:
            first, second: as for `Embedder.embed`: PIL images or paths; or one array or tensor `[N, 3, H, W]` of uint8,
                or of floats in [0, 1].

        Raises:
            FinerRankError: unequal numbers of images, an image that cannot be read, floats out of range, or pictures
                of two sizes where the method compares pixel with pixel and no size was asked for.
        """

    def of_pairs(self, pairs: Sequence[tuple[Path, Path]], resources: Resources) -> Floats:
        """Distance of each pair of image files, `[N]` float64. A file that stands in several pairs is read once
        wherever memory allows; embeddings come from the store.

        Raises:
            Faults: files that cannot be used; all of them.
            FinerRankError: see `between`.
        """
