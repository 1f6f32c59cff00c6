"""How a gallery's index is made: the kinds of FAISS, and their parameters from the number of photos."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from benchmark.embed import Progress
from benchmark.rank import Rows
from galleries.errors import FinerRankError

Kind = Literal["flat", "ivf", "hnsw"]

LINKS, CONSTRUCTION = 32, 200
"""Of hnsw: neighbours of each photo in the graph, and candidates kept while it is placed."""
MOST_CANDIDATES = 2048
LEAST_TRAINING, MOST_TRAINING = 39, 64
"""Of ivf: photos for each list when the lists are made. FAISS takes fewer for too few."""
LEAST_PHOTOS = 2 * LEAST_TRAINING
ADD_BLOCK = 4096


@dataclass(frozen=True)
class IndexSettings:
    """How to build an index.

    Attributes:
        kind: `flat` compares with every photo; `ivf` with those of the nearest lists, `hnsw` along a graph.
        half: of ivf and hnsw, keep their rows as float16: half the memory.
        recall: of ivf and hnsw, in (0, 1]: what the effort of searches is chosen for.

    Raises:
        FinerRankError: an unknown kind; `half` of a flat index; a recall out of range.
    """

    kind: str = "flat"
    half: bool = False
    recall: float = 0.95

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise FinerRankError(f"--kind {self.kind}: unknown; write {', '.join(get_args(Kind))}")
        if self.half and self.kind == "flat":
            raise FinerRankError("--half: is for --kind ivf and hnsw; a flat index is exact")
        if not 0 < self.recall <= 1:
            raise FinerRankError(f"--recall {self.recall}: out of range; write a number above 0, at most 1")

    def refuse_too_few(self, n_photos: int, where: str) -> None:
        """Raise a `FinerRankError` where an approximate index makes no sense of so few photos."""
        if self.kind != "flat" and n_photos < LEAST_PHOTOS:
            what = f"{n_photos} photos, too few for an index of kind {self.kind}, which needs {LEAST_PHOTOS}"
            raise FinerRankError(f"{where}: {what}; build a flat one, which searches so few at once")

    def parameters(self, n_photos: int) -> dict[str, Any]:
        """Of FAISS, for so many photos."""
        if self.kind == "flat":
            return {}
        if self.kind == "hnsw":
            return {"links": LINKS, "construction": CONSTRUCTION, "half": self.half}
        # As FAISS's authors advise for up to a million; fewer where lists would have too few photos to be made of.
        return {"lists": min(round(4 * math.sqrt(n_photos)), n_photos // LEAST_TRAINING), "half": self.half}

    def efforts(self, n_photos: int) -> Iterator[int]:
        """Growing efforts to try: lists looked at, at last all; or candidates kept."""
        effort, most = 32, MOST_CANDIDATES
        if self.kind == "ivf":
            effort, most = 1, self.parameters(n_photos)["lists"]
        while effort < most:
            yield effort
            effort *= 2
        yield most

    def index(self, rows: Rows, progress: Progress | None) -> Any:
        """FAISS's approximate index of `[N, D]` float32 unit rows."""
        import faiss

        chosen = self.parameters(len(rows))
        stored = "SQfp16" if self.half else "Flat"
        start = f"IVF{chosen['lists']}" if self.kind == "ivf" else f"HNSW{LINKS}"
        index: Any = faiss.index_factory(rows.shape[1], f"{start},{stored}", faiss.METRIC_INNER_PRODUCT)
        if self.kind == "ivf":
            index.cp.max_points_per_centroid = MOST_TRAINING
        else:
            index.hnsw.efConstruction = CONSTRUCTION
        index.train(rows)
        step = progress(f"building {self.kind}", len(rows)) if progress else None
        for at in range(0, len(rows), ADD_BLOCK):
            block = rows[at : at + ADD_BLOCK]
            index.add(block)
            if step:
                step(len(block))
        return index
