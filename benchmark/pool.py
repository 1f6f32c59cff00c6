"""The photos that queries are ranked among, and the ranking of questions asked of them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from benchmark.mapped_rows import taken
from benchmark.rank import Indices, RankCounts, Rows, nearest, rank_counts
from benchmark.scores import QueryScores, score_query
from galleries.gallery import Photo

QUERIES = 16_384
"""Of which the rows are in memory at a time."""


@dataclass(frozen=True)
class Asked:
    """A question to the gallery: does the image in `row` show `identity`?

    Attributes:
        row: of the query's embedding.
        itself: file name of the gallery photo that the query is, "" if it is none; never ranked.
        encounters: photos of these encounters are left out: the generator saw that moment.
        viewpoints: where any are named, photos of `identity` that are known to show it from elsewhere are left out,
            neither right nor wrong: of an animal marked by side, the generator saw no more than these.
    """

    row: int
    identity: str
    category: str
    itself: str = ""
    encounters: frozenset[str] = frozenset()
    viewpoints: frozenset[str] = frozenset()


class Pool:
    """Gallery and distractor photos with their embeddings.

    Args:
        photos: of the splits `gallery` and `distractor`.
        rows: `[N, D]` float32, one per photo.
        gallery_block, device: see `rank_counts`.
    """

    def __init__(self, photos: Sequence[Photo], rows: Rows, gallery_block: int, device: str = "cpu") -> None:
        # Categories lie together, so that each is a view of the rows; within one, file names settle ties of neighbours.
        order = sorted(range(len(photos)), key=lambda i: (photos[i].category, photos[i].file_name))
        self.photos = [photos[i] for i in order]
        self._rows = rows if order == list(range(len(photos))) else taken(rows, order)
        self._gallery_block, self._device = gallery_block, device
        self._slices: dict[str, slice] = {}
        self._relevant: dict[str, list[int]] = defaultdict(list)
        self._of_encounter: dict[str, list[int]] = defaultdict(list)
        self._position: dict[str, int] = {}
        for i, photo in enumerate(self.photos):
            start = self._slices.get(photo.category, slice(i, i)).start
            self._slices[photo.category] = slice(start, i + 1)
            if photo.split == "gallery":
                self._relevant[photo.identity].append(i)
            if photo.encounter:
                self._of_encounter[photo.encounter].append(i)
            self._position[photo.file_name] = i
        self.identities = {
            photo.identity: (photo.category, len(self._relevant[photo.identity]))
            for photo in self.photos
            if photo.split == "gallery"
        }
        """Identity → its category and number of gallery photos."""

    def size(self, category: str) -> int:
        """Photos ranked in a category."""
        of = self._slices[category]
        return int(of.stop - of.start)

    def n_ranked(self, asked: Asked) -> tuple[int, int]:
        """Photos that can answer a question, and photos that are ranked for it."""
        if asked.category not in self._slices:
            return 0, 0
        excluded = self._excluded(asked)
        return len(self._able(asked, excluded)), self.size(asked.category) - len(excluded)

    def score(self, asked: Sequence[Asked], rows: Rows) -> list[QueryScores | None]:
        """Scores of each question; None where no photo that could answer is left.

        Args:
            rows: `[M, D]` embeddings that `Asked.row` counts.
        """
        scores: list[QueryScores | None] = [None] * len(asked)
        known = [m for m, question in enumerate(asked) if question.category in self._slices]
        excluded = {m: self._excluded(asked[m]) for m in known}
        relevant = {m: self._able(asked[m], excluded[m]) for m in known}
        able = sorted((m for m in known if len(relevant[m])), key=lambda m: self._slices[asked[m].category].start)
        for start in range(0, len(able), QUERIES):
            some = able[start : start + QUERIES]
            counts = rank_counts(
                queries=rows[[asked[m].row for m in some]],
                gallery=self._rows,
                relevant=[relevant[m] for m in some],
                excluded=[excluded[m] for m in some],
                pools=self._pools([asked[m] for m in some]),
                gallery_block=self._gallery_block,
                device=self._device,
            )
            for m, count in zip(some, counts, strict=True):
                scores[m] = score_query(count)
        return scores

    def neighbours(self, asked: Sequence[Asked], rows: Rows, k: int) -> list[list[tuple[Photo, float]]]:
        """For each question the k nearest photos that are ranked, with their similarity, nearest first."""
        found: list[list[tuple[Photo, float]]] = [[] for _ in asked]
        known = [m for m, question in enumerate(asked) if question.category in self._slices]
        near = nearest(
            queries=rows[[asked[m].row for m in known]],
            gallery=self._rows,
            k=k,
            excluded=[self._excluded(asked[m]) for m in known],
            pools=self._pools([asked[m] for m in known]),
            gallery_block=self._gallery_block,
        )
        for m, (positions, similarity) in zip(known, near, strict=True):
            found[m] = [(self.photos[p], s) for p, s in zip(positions.tolist(), similarity.tolist(), strict=True)]
        return found

    def _pools(self, asked: Sequence[Asked]) -> Indices:
        slices = [self._slices[question.category] for question in asked]
        return np.array([(of.start, of.stop) for of in slices], dtype=np.int64).reshape(-1, 2)

    def _able(self, asked: Asked, excluded: Indices) -> Indices:
        relevant = np.array(self._relevant.get(asked.identity, []), dtype=np.int64)
        return np.setdiff1d(relevant, excluded) if len(excluded) else relevant

    def _excluded(self, asked: Asked) -> Indices:
        of = self._slices[asked.category]
        positions = {self._position[asked.itself]} if asked.itself else set()
        for encounter in asked.encounters:
            positions.update(self._of_encounter.get(encounter, ()))
        if asked.viewpoints:
            own = self._relevant.get(asked.identity, ())
            positions.update(p for p in own if self.photos[p].viewpoint.strip() not in ("", *asked.viewpoints))
        return np.array(sorted(p for p in positions if of.start <= p < of.stop), dtype=np.int64)


@lru_cache(maxsize=4096)
def chance_scores(n_relevant: int, n_gallery: int) -> QueryScores:
    """Scores of a random order: the expectation when all photos tie."""
    zeros = np.zeros(n_relevant)
    everyone = np.full(n_relevant, n_gallery - 1)
    return score_query(RankCounts(zeros, zeros.astype(np.int64), everyone, n_gallery))
