"""How the score depends on the gallery's shape: identities per category × photos per identity.

A *cell* is a shape, written 10x5. A *draw* chooses, for every cell, whose and which photos make up a gallery of that
shape, and scores the questions about them. What it chooses is settled by keyed hashes of names, never by the state of a
generator: it depends neither on file order nor on which cells are asked for, and adding an identity reshuffles nobody
else's photos.

Within a draw cells are nested. Identities stand in one random order in each category, those that are asked for before
those that are only ranked among, and a cell of n takes the first n that have photos enough for it. The photos of an
identity stand in one random order too, and a cell of m takes the first m (k-means chooses anew for each m).
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.aggregates import chance_of
from benchmark.embed import Progress
from benchmark.pool import Asked, Pool
from benchmark.rank import GALLERY_BLOCK, Floats, Rows, pair_similarity, row_norms
from benchmark.scores import QueryScores
from galleries.errors import FinerRankError
from galleries.gallery import Photo
from personalization_runs.run import Query

QUANTILES = (0.025, 0.975)
"""Of the draws: the band."""
MAX_ITERATIONS = 100


@dataclass(frozen=True)
class Cell:
    """A shape: identities in each category, photos of each identity."""

    n_identities: int
    n_photos: int

    def __str__(self) -> str:
        return f"{self.n_identities}x{self.n_photos}"


@dataclass(frozen=True)
class RunRows:
    """A run's questions with their embeddings: `rows` is `[Q, D]`, one for each of `queries`."""

    name: str
    queries: Sequence[Query]
    rows: Rows


@dataclass(frozen=True)
class SubGallery:
    """What one draw chose for one cell.

    Attributes:
        chosen: identity → positions of its photos in the gallery; in each category the asked-for ones first.
        left_over: identity that is asked for → positions of its other photos, references included.
    """

    chosen: Mapping[str, tuple[int, ...]]
    left_over: Mapping[str, tuple[int, ...]]


class Sampler:
    """Draws galleries of any shape from a gallery.

    Args:
        photos: of all splits, in any order.
        asked_for: identities that queries ask for. Where None, everybody in the gallery is who has a photo to spare as
            a query: a reference, or one that is not chosen.
        category: the only one to draw from; where "", all in which somebody is asked for.
        chooser_rows: `[N, D]`, one per photo: an identity's photos are chosen by k-means of them; at random where None.

    Raises:
        FinerRankError: no such category, or nobody in it who could be asked for.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        *,
        asked_for: frozenset[str] | None = None,
        category: str = "",
        seed: int = 0,
        chooser_rows: Rows | None = None,
    ) -> None:
        self._photos = photos
        self._seed = seed
        self._chooser_rows = chooser_rows
        self._similarity: dict[str, Floats] = {}
        self._by_k_means: dict[tuple[str, int, int], list[int]] = {}
        self._ranked: dict[str, list[int]] = defaultdict(list)
        self._references: dict[str, list[int]] = defaultdict(list)
        for i in sorted(range(len(photos)), key=lambda i: photos[i].file_name):
            of = self._references if photos[i].split == "reference" else self._ranked
            of[photos[i].identity].append(i)
        members: dict[str, list[str]] = defaultdict(list)
        self._asked: set[str] = set()
        self._capacity: dict[str, int] = {}
        for identity, own in self._ranked.items():
            first = photos[own[0]]
            members[first.category].append(identity)
            is_asked = first.split == "gallery" and (asked_for is None or identity in asked_for)
            must_spare = is_asked and asked_for is None and identity not in self._references
            self._capacity[identity] = len(own) - must_spare
            if is_asked and self._capacity[identity]:
                self._asked.add(identity)
        if category and category not in members:
            known = ", ".join(sorted(members)[:10])
            raise FinerRankError(f"--category {category}: not in the gallery; write one of {known}")
        wanted = [category] if category else sorted(members)
        self._members = {c: sorted(members[c]) for c in wanted if self._asked.intersection(members[c])}
        self.categories = tuple(self._members)
        self._enough = "gallery photos" if asked_for is not None else "gallery photos and one more to ask with"
        if not self.categories:
            why = "nobody has two photos, one to rank and one to ask with; add photos"
            why = why if asked_for is None else "nobody is asked for by every run; name other runs"
            raise FinerRankError(f"{f'category {category!r}' if category else 'the gallery'}: {why}")

    def n_eligible(self, n_photos: int, *categories: str) -> int:
        """Identities that have photos enough to be drawn, in some categories or in all."""
        among = [identity for category in categories or self.categories for identity in self._members[category]]
        return sum(self._capacity[identity] >= n_photos for identity in among)

    def shortfall(self, cell: Cell) -> str:
        """Why the gallery is too small for a cell; "" if it is not."""
        for category in self.categories:
            members, n = self._members[category], self.n_eligible(cell.n_photos, category)
            where, enough = f"category {category!r}", f"{cell.n_photos} {self._enough}"
            if n < cell.n_identities:
                return f"in {where} {n} of {len(members)} identities have {enough}"
            if not any(self._capacity[identity] >= cell.n_photos for identity in self._asked.intersection(members)):
                return f"in {where} nobody who is asked for has {enough}"
        return ""

    def fitting(self, grid: Sequence[Cell]) -> tuple[list[Cell], dict[Cell, str]]:
        """The cells that the gallery is large enough for, and why it is too small for the others.

        Raises:
            FinerRankError: it is too small for all.
        """
        left_out = {cell: why for cell in grid if (why := self.shortfall(cell))}
        if len(left_out) == len(grid):
            why = "; ".join(f"{cell}: {reason}" for cell, reason in [*left_out.items()][:3])
            raise FinerRankError(f"the gallery is too small for --grid: {why}; write smaller shapes, or leave it out")
        return [cell for cell in grid if cell not in left_out], left_out

    def draw(self, cell: Cell, number: int) -> SubGallery:
        """The gallery that draw `number` makes for a cell that is not too large."""
        chosen: dict[str, tuple[int, ...]] = {}
        left_over: dict[str, tuple[int, ...]] = {}
        for category, members in self._members.items():
            eligible = [identity for identity in members if self._capacity[identity] >= cell.n_photos]
            eligible.sort(key=lambda i: (i not in self._asked, _hash(self._seed, number, category, i)))
            for identity in eligible[: cell.n_identities]:
                chosen[identity] = tuple(self._choose(category, identity, cell.n_photos, number))
                if identity in self._asked:
                    others = {*self._ranked[identity], *self._references.get(identity, ())} - {*chosen[identity]}
                    left_over[identity] = tuple(sorted(others))
        return SubGallery(chosen, left_over)

    def _choose(self, category: str, identity: str, n_photos: int, number: int) -> list[int]:
        own = self._ranked[identity]
        key = (self._seed, number, category, identity)
        if self._chooser_rows is None:
            return sorted(own, key=lambda i: _hash(*key, self._photos[i].file_name))[:n_photos]
        if identity not in self._similarity:
            rows = self._chooser_rows[own]
            left, right = (index.ravel() for index in np.indices((len(own), len(own))))
            flat = pair_similarity(rows, rows, left, right, row_norms(rows), row_norms(rows))
            self._similarity[identity] = flat.reshape(len(own), len(own))
        memo = (identity, n_photos, number)
        if memo not in self._by_k_means:
            seed = int.from_bytes(_hash(*key, n_photos))
            self._by_k_means[memo] = [own[i] for i in choose_by_k_means(self._similarity[identity], n_photos, seed)]
        return self._by_k_means[memo]


def choose_by_k_means(similarity: Floats, k: int, seed: int) -> list[int]:
    """The photos nearest to the centres of k-means, all different: where two centres share one, the next nearest.

    Args:
        similarity: `[n, n]` cosines of the photos, all that k-means of unit rows needs to know of them.
        k: centres, at most n.
        seed: of the first centres (k-means++); from there on nothing is random.
    """
    # By cosines, not by coordinates: those of `benchmark.rank` tie exactly where photos are copies, and einsum, unlike
    # a product by BLAS, adds up in the same order whatever the number of threads.
    rng = np.random.default_rng(seed)
    n = len(similarity)
    first: list[int] = []
    distance = np.ones(n)  # squared, to the nearest centre
    for _ in range(k):
        weights = np.maximum(distance, 0)
        weights[first] = 0
        if not weights.any():  # copies of centres are all that is left
            weights[:] = 1
            weights[first] = 0
        total = np.cumsum(weights)
        first.append(int(np.searchsorted(total, rng.random() * total[-1], side="right")))
        distance = np.minimum(distance if len(first) > 1 else np.inf, 2 - 2 * similarity[first[-1]])
    shares = np.zeros((n, k))  # of each photo in each centre
    shares[first, range(k)] = 1
    members = np.full(n, -1)
    for _ in range(MAX_ITERATIONS):
        to_photos = np.einsum("ij,jk->ik", similarity, shares)
        distances = np.diag(similarity)[:, None] - 2 * to_photos + np.einsum("ik,ik->k", shares, to_photos)
        nearest = distances.argmin(axis=1)
        if (nearest == members).all():
            break
        members = nearest
        for c in range(k):
            if (members == c).any():  # else the centre stays where it is
                shares[:, c] = (members == c) / np.count_nonzero(members == c)
    chosen: list[int] = []
    for c in range(k):
        distances[chosen, c] = np.inf
        chosen.append(int(distances[:, c].argmin()))
    return chosen


@dataclass(frozen=True)
class DrawScores:
    """One draw of one cell: mean over categories of the mean over identities of the mean over queries.

    Attributes:
        auc: NaN where nobody else's photos were ranked.
        chance: the same mean of the average precision of a random order.
        n_asked: identities asked for, by `n_queries` queries that could be answered.
    """

    mean_average_precision: float
    auc: float
    chance: float
    n_queries: int
    n_asked: int


@dataclass(frozen=True)
class Band:
    """Mean over draws, and the 2.5 % and 97.5 % quantiles of the draws.

    It says how far the choice of identities and photos moves the score. It is no confidence interval of the score: all
    draws are from one gallery, and where a cell takes all of it the band closes. None where a single draw has no band.
    """

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class CellScores:
    """All draws of one cell.

    Attributes:
        run: name of the run that asked; "" for the gallery's own photos.
        n_eligible: identities that have photos enough to be drawn, in all categories.
        draws: those in which each category had a query that could be answered.
    """

    cell: Cell
    run: str
    n_eligible: int
    draws: tuple[DrawScores, ...]

    def band(self, score: str) -> Band | None:
        """Of a field of `DrawScores`; None where it is undefined in every draw."""
        values = [v for draw in self.draws if not math.isnan(v := getattr(draw, score))]
        if len(values) < 2:
            return Band(values[0], None, None) if values else None
        low, high = [_mean(values)] * 2 if np.ptp(values) < 1e-12 else np.quantile(values, QUANTILES).tolist()
        return Band(_mean(values), low, high)


@dataclass(frozen=True)
class Ablation:
    """Scores of the cells in the order of the grid, of each a row per run; and why other cells are left out."""

    cells: tuple[CellScores, ...]
    left_out: Mapping[Cell, str]


def ablate(
    photos: Sequence[Photo],
    rows: Rows,
    sampler: Sampler,
    grid: Sequence[Cell],
    *,
    runs: Sequence[RunRows] = (),
    n_draws: int = 20,
    progress: Progress | None = None,
) -> Ablation:
    """Score galleries of several shapes, drawn from one gallery.

    Queries are the photos that the draw leaves over and the references of the identities drawn; with `runs`, the runs'
    queries for them. All runs see the same galleries. Photos of the encounters that a query comes from are left out of
    its ranking; a query with no photo of its identity left is left out of that draw.

    Args:
        photos: those that `sampler` draws from.
        rows: `[N, D]` float32, one per photo.
        sampler: made with the runs' identities as `asked_for`, if there are runs.

    Raises:
        FinerRankError: no cell can be scored.
    """
    fitting, left_out = sampler.fitting(grid)
    questions = {run.name: (_questions(run, photos), run.rows) for run in runs}
    if not runs:
        asked = [Asked(i, p.identity, p.category, encounters=_encounters([p])) for i, p in enumerate(photos)]
    step = progress("ranking", len(fitting) * n_draws) if progress else None
    found: dict[tuple[Cell, str], list[DrawScores]] = {(c, name): [] for c in fitting for name in questions or [""]}
    for number in range(n_draws):
        for cell in fitting:
            drawn = sampler.draw(cell, number)
            at = sorted(i for own in drawn.chosen.values() for i in own)
            pool = Pool([photos[i] for i in at], rows[at], GALLERY_BLOCK)
            for name, (of, run_rows) in questions.items():
                found[cell, name] += _score(pool, [a for identity in drawn.left_over for a in of[identity]], run_rows)
            if not runs:
                found[cell, ""] += _score(pool, [asked[i] for own in drawn.left_over.values() for i in own], rows)
            if step:
                step(1)
    cells = []
    for (cell, name), draws in found.items():
        if draws:
            cells.append(CellScores(cell, name, sampler.n_eligible(cell.n_photos), tuple(draws)))
        else:
            left_out[cell] = "a category has photos of its queries' own encounters only, in every draw"
    if not cells:
        why = next(reversed(left_out.values()))
        raise FinerRankError(f"no cell of the grid can be scored: {why}; add photos of other encounters")
    return Ablation(tuple(cells), left_out)


def _questions(run: RunRows, photos: Sequence[Photo]) -> Mapping[str, Sequence[Asked]]:
    references: dict[str, list[Photo]] = defaultdict(list)
    for photo in photos:
        if photo.split == "reference":
            references[photo.identity].append(photo)
    questions: dict[str, list[Asked]] = defaultdict(list)
    for row, query in enumerate(run.queries):
        seen = [query.reference] if query.reference else references[query.identity]
        questions[query.identity].append(Asked(row, query.identity, query.category, encounters=_encounters(seen)))
    return questions


def _encounters(photos: Sequence[Photo]) -> frozenset[str]:
    return frozenset(photo.encounter for photo in photos if photo.encounter)


def _score(pool: Pool, asked: Sequence[Asked], rows: Rows) -> list[DrawScores]:
    """The score of one draw; none where a category has no query that can be answered."""
    answers: dict[str, dict[str, list[QueryScores]]] = {question.category: {} for question in asked}
    for question, scores in zip(asked, pool.score(asked, rows), strict=True):
        if scores:
            answers[question.category].setdefault(question.identity, []).append(scores)
    if not all(answers.values()):
        return []

    def mean(score: Callable[[QueryScores], float]) -> float:
        return _mean([_mean([_mean([score(s) for s in own]) for own in by.values()]) for by in answers.values()])

    by_identity = [own for by in answers.values() for own in by.values()]
    return [
        DrawScores(
            mean(lambda s: s.average_precision),
            mean(lambda s: s.auc),
            mean(chance_of),
            n_queries=sum(map(len, by_identity)),
            n_asked=len(by_identity),
        )
    ]


def _mean(values: Sequence[float]) -> float:
    """Of those that are defined; NaN where none is. The same in any order."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _hash(*key: object) -> bytes:
    return hashlib.sha256("\0".join(map(str, key)).encode()).digest()
