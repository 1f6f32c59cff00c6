"""How hard a gallery is before any run: by its shape alone, and in the eyes of an embedder."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.aggregates import METRICS, Answer, chance_of
from benchmark.embed import EmbeddedGallery
from benchmark.pool import Asked, Pool, chance_scores
from benchmark.rank import GALLERY_BLOCK, Floats, Indices, Rows, pair_similarity, product_error, row_norms
from benchmark.statistics import Estimate, estimate_mean
from galleries.errors import raise_if_any
from galleries.gallery import Gallery, Photo
from galleries.image_set import image_digests
from galleries.photo_checks import leaked_photos

SHOWN = ("mAP", "AUC")
DIFFERENCE = 0.02
"""In mAP, that a gallery should be able to tell."""
Z_LEVEL, Z_POWER = 1.960, 0.842
"""Normal quantiles of a two-sided test at the 5 % level, and of 80 % power."""
N_PAIRS = 10
N_CANDIDATES = 50
"""Other identities that one is compared with, those of the nearest mean embedding, where a category has more."""
IDENTITY_BLOCK = 64
"""Others compared with one identity at a time."""

Scores = Mapping[str, Estimate | None]


@dataclass(frozen=True)
class Shape:
    """What chance depends on.

    Attributes:
        n_identities: that can be asked for.
        n_gallery: photos of theirs.
        n_ranked: these and the distractors.
        n_unequal: identities with another number of gallery photos than most of their category.
        chance: mAP of a random order, mean over identities, in (0, 1]; the anchor of `evaluate`.
    """

    n_identities: int
    n_gallery: int
    n_ranked: int
    n_unequal: int
    chance: float


@dataclass(frozen=True)
class Level:
    """How hard a category is, or a whole gallery. Scores are empty where nothing can be asked.

    Attributes:
        held_out: each gallery photo as a query; the anchor of `evaluate`.
        without_distractors: the same questions, ranked among gallery photos alone; empty without distractors.
        lost_to_distractors: mAP without the distractors less mAP with them, paired by query.
        copied_reference: each reference as a query; the anchor of `evaluate`.
    """

    shape: Shape
    held_out: Scores
    without_distractors: Scores
    lost_to_distractors: Estimate | None
    copied_reference: Scores


@dataclass(frozen=True)
class IdentityLevel:
    """One identity: its gallery photos, its chance mAP, and the average precision of each photo as a query."""

    identity: str
    category: str
    n_gallery: int
    chance: float
    precisions: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        """Mean average precision; None where no photo can be asked for."""
        return math.fsum(self.precisions) / len(self.precisions) if self.precisions else None


@dataclass(frozen=True)
class HardPair:
    """Two identities of a category, in the direction in which they are harder to tell apart.

    Attributes:
        confusion: for a query photo of `asked`, the chance that a photo of `other` scores above another photo of
            `asked`, ties counting half; in [0, 1]. It is 1 - AUC of a gallery of these two, mean over queries.
        reverse: the same for query photos of `other`; None where none of them can be asked for.
    """

    asked: str
    other: str
    category: str
    confusion: float
    reverse: float | None


@dataclass(frozen=True)
class Needed:
    """A standard deviation between identities, and how many of them resolve `DIFFERENCE` in spite of it."""

    sd: float
    n_identities: int


@dataclass(frozen=True)
class Difficulty:
    """How hard a gallery is in the eyes of an embedder.

    Attributes:
        identities: those that can be asked for, by category and name.
        pairs: see `hardest_pairs`.
        n_compared: pairs of identities that were compared.
        n_pairs: pairs that there are within categories.
        one_score: to tell the mAP of one run from a fixed value.
        paired: a lower bound, to tell two runs apart.
        n_unanswerable: gallery photos that cannot be asked for: no other photo of their identity can answer.
    """

    overall: Level
    categories: Mapping[str, Level]
    identities: tuple[IdentityLevel, ...]
    pairs: tuple[HardPair, ...]
    n_compared: int
    n_pairs: int
    one_score: Needed | None
    paired: Needed | None
    n_unanswerable: int


def gallery_shape(gallery: Gallery) -> tuple[Shape, Mapping[str, Shape]]:
    """The shape of a whole gallery, and of each category that can be asked for. Needs no embedder."""
    photos_of: dict[str, Counter[str]] = defaultdict(Counter)
    for photo in gallery.split("gallery"):
        photos_of[photo.category][photo.identity] += 1
    n_distractors = Counter(photo.category for photo in gallery.split("distractor"))
    by_category, chances = {}, []
    for category, own in sorted(photos_of.items()):
        n_ranked = own.total() + n_distractors[category]
        chance = [chance_scores(n, n_ranked).average_precision for n in own.values()]
        n_unequal = len(own) - max(Counter(own.values()).values())
        by_category[category] = Shape(len(own), own.total(), n_ranked, n_unequal, math.fsum(chance) / len(own))
        chances += chance
    parts = by_category.values()
    n_gallery, n_ranked = sum(part.n_gallery for part in parts), sum(part.n_ranked for part in parts)
    n_unequal = sum(part.n_unequal for part in parts)
    return Shape(len(chances), n_gallery, n_ranked, n_unequal, math.fsum(chances) / len(chances)), by_category


def measure_difficulty(gallery: Gallery, embedded: EmbeddedGallery) -> Difficulty:
    """How hard a gallery is in the eyes of the embedder that made the embeddings.

    Raises:
        Faults: gallery photos with the bytes of a reference, which `evaluate` refuses too.
    """
    _refuse_leaks(gallery, embedded)
    photos, rows = embedded.photos, embedded.rows
    asked = [
        Asked(row, p.identity, p.category, itself=p.file_name, encounters=_encounters(p))
        for row, p in enumerate(photos)
        if p.split == "gallery"
    ]
    names = {question.identity for question in asked}
    copied = [
        Asked(row, p.identity, p.category, encounters=_encounters(p))
        for row, p in enumerate(photos)
        if p.split == "reference" and p.identity in names
    ]
    everyone, alone = (Pool(*_part(embedded, *of), GALLERY_BLOCK) for of in (("gallery", "distractor"), ("gallery",)))
    has_distractors = len(everyone.photos) > len(alone.photos)
    held_out, references = _answers(everyone, asked, rows), _answers(everyone, copied, rows)
    without = _answers(alone, asked, rows) if has_distractors else []
    overall, by_category = gallery_shape(gallery)

    def level(shape: Shape, category: str | None = None) -> Level:
        of, of_without, of_references = (
            [a for a in some if category in (None, a.category)] for some in (held_out, without, references)
        )
        if shape.n_ranked == shape.n_gallery:
            of_without = []
        lost = [a.scores.average_precision - b.scores.average_precision for a, b in zip(of_without, of, strict=False)]
        return Level(
            shape,
            held_out=_estimates(of),
            without_distractors=_estimates(of_without),
            lost_to_distractors=estimate_mean(lost, [answer.identity for answer in of_without]),
            copied_reference=_estimates(of_references),
        )

    precisions: dict[str, list[float]] = defaultdict(list)
    for answer in held_out:
        precisions[answer.identity].append(answer.scores.average_precision)
    identities = []
    for identity, (category, n) in sorted(everyone.identities.items(), key=lambda item: (item[1][0], item[0])):
        chance = chance_scores(n, everyone.size(category)).average_precision
        identities.append(IdentityLevel(identity, category, n, chance, tuple(sorted(precisions[identity]))))
    pairs, n_compared, n_pairs = hardest_pairs(*_part(embedded, "gallery"))
    return Difficulty(
        level(overall),
        {category: level(shape, category) for category, shape in by_category.items()},
        tuple(identities),
        tuple(pairs),
        n_compared,
        n_pairs,
        *identities_needed([identity.precisions for identity in identities]),
        n_unanswerable=len(asked) - len(held_out),
    )


def identities_needed(precisions: Sequence[Sequence[float]]) -> tuple[Needed | None, Needed | None]:
    """Identities needed to resolve `DIFFERENCE` in mAP: n = ((1.960 + 0.842) · sd / 0.02)², rounded up.

    The normal approximation, for a two-sided test at the 5 % level and 80 % power.

    Args:
        precisions: for each identity, the average precision of each of its photos as a query.

    Returns:
        For one score against a fixed value, where sd is that of the identities' means. And for the paired difference
        of two runs, where sd is that of the difference between two halves of an identity's queries, in the mean
        square over all ways to halve them: what two equally good runs differ by that make half as many images as
        there are photos. Real runs differ by more, so it is a lower bound. None where fewer than two identities
        can tell.
    """
    means = [math.fsum(own) / len(own) for own in precisions if own]
    # Over all ways to halve n values of variance s², the difference of the halves' means has the variance
    # s² (1/n₁ + 1/n₂): sampling without replacement. So nothing needs to be drawn.
    halved = [
        statistics.variance(sorted(own)) * (1 / (len(own) // 2) + 1 / (len(own) - len(own) // 2))
        for own in precisions
        if len(own) > 1
    ]
    return (
        _needed(statistics.stdev(sorted(means))) if len(means) > 1 else None,
        _needed(math.sqrt(math.fsum(halved) / len(halved))) if len(halved) > 1 else None,
    )


def _needed(sd: float) -> Needed:
    return Needed(sd, max(1, math.ceil(((Z_LEVEL + Z_POWER) * sd / DIFFERENCE) ** 2)))


def _part(embedded: EmbeddedGallery, *splits: str) -> tuple[list[Photo], Rows]:
    chosen = [row for row, photo in enumerate(embedded.photos) if photo.split in splits]
    return [embedded.photos[row] for row in chosen], embedded.rows[chosen]


def _answers(pool: Pool, asked: Sequence[Asked], rows: Rows) -> list[Answer]:
    return [
        Answer(question.identity, question.category, scores, chance_of(scores))
        for question, scores in zip(asked, pool.score(asked, rows), strict=True)
        if scores is not None
    ]


def _estimates(answers: Sequence[Answer]) -> Scores:
    identities = [answer.identity for answer in answers]
    return {m: estimate_mean([METRICS[m](a.scores) for a in answers], identities) for m in SHOWN} if answers else {}


def _encounters(photo: Photo) -> frozenset[str]:
    return frozenset({photo.encounter} - {""})


def _refuse_leaks(gallery: Gallery, embedded: EmbeddedGallery) -> None:
    """Same bytes have the same embedding: only files whose embeddings are equal are read again."""
    references = {row.tobytes() for row in _part(embedded, "reference")[1]}
    twice = {row.tobytes() for row in _part(embedded, "gallery", "distractor")[1] if row.tobytes() in references}
    suspects = [photo for row, photo in zip(embedded.rows, embedded.photos, strict=True) if row.tobytes() in twice]
    raise_if_any(str(gallery.root), leaked_photos(suspects, image_digests(suspects, decode=False)[0]))


# ---- pairs of identities


def hardest_pairs(
    photos: Sequence[Photo], rows: Rows, n_hardest: int = N_PAIRS, n_candidates: int = N_CANDIDATES
) -> tuple[list[HardPair], int, int]:
    """The pairs of identities within a category that are hardest to tell apart, the hardest first.

    Pairs that are never confused are left out. In a category of more than `n_candidates` + 1 identities, each is
    compared only with those of the nearest mean embedding, and with those to whom it is such a one; memory grows
    with the number of identities, not of pairs.

    Args:
        photos: of the split `gallery`.
        rows: `[N, D]` float32, one per photo.

    Returns:
        The pairs, how many were compared, and how many there are.
    """
    order = sorted(range(len(photos)), key=lambda i: (photos[i].category, photos[i].identity, photos[i].file_name))
    groups: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i in order:
        groups[photos[i].category][photos[i].identity].append(i)
    found: list[HardPair] = []
    n_compared = n_pairs = 0
    for category, members in sorted(groups.items()):
        compared = _Compared(photos, rows, list(members.values()))
        pairs = compared.candidates(n_candidates)
        n_compared += len(pairs)
        n_pairs += len(members) * (len(members) - 1) // 2
        names = list(members)
        for a, b in compared.hardest(pairs, n_hardest):
            there, back = compared.exact(a, b), compared.exact(b, a)
            if back is not None and (there is None or back > there):
                a, b, there, back = b, a, back, there
            if there:
                found.append(HardPair(names[a], names[b], category, there, back))
    found.sort(key=lambda pair: (-pair.confusion, pair.category, pair.asked, pair.other))
    return found[:n_hardest], n_compared, n_pairs


class _Compared:
    """The identities of one category, each a list of rows. A float32 product is the filter, as in `benchmark.rank`."""

    def __init__(self, photos: Sequence[Photo], rows: Rows, members: Sequence[Sequence[int]]) -> None:
        index = np.array([i for own in members for i in own], dtype=np.int64)
        self._rows = rows[index]
        self._norms = row_norms(self._rows)
        self._unit: Rows = (self._rows / self._norms[:, None]).astype(np.float32)
        self._starts = np.cumsum([0, *(len(own) for own in members)])
        codes: dict[str, int] = {"": -1}
        self._encounter = np.array([codes.setdefault(photos[i].encounter, len(codes)) for i in index], dtype=np.int64)
        self._n = len(members)

    def candidates(self, n_candidates: int) -> Indices:
        """Pairs of identities to compare, `[P, 2]`, the lower number first."""
        if self._n - 1 <= n_candidates:
            return np.stack(np.triu_indices(self._n, 1), axis=1)
        means = np.add.reduceat(self._unit, self._starts[:-1], dtype=np.float64)
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-300)
        codes = []
        for start in range(0, self._n, 256):
            product = means[start : start + 256] @ means.T
            own = np.arange(start, start + len(product))
            product[np.arange(len(product)), own] = -np.inf
            nearest = np.argpartition(-product, n_candidates - 1)[:, :n_candidates]
            first = np.repeat(own, n_candidates)
            codes.append(np.minimum(first, nearest.ravel()) * self._n + np.maximum(first, nearest.ravel()))
        return np.stack(np.divmod(np.unique(np.concatenate(codes)), self._n), axis=1)

    def hardest(self, pairs: Indices, n_hardest: int) -> list[tuple[int, int]]:
        """The pairs among which the `n_hardest` are, by bounds from the float32 product."""
        lows, highs = np.full(len(pairs), -1.0), np.full(len(pairs), -1.0)
        for asked, other in ((0, 1), (1, 0)):
            order = np.argsort(pairs[:, asked], kind="stable")
            for same in np.split(order, np.flatnonzero(np.diff(pairs[order, asked])) + 1):
                for start in range(0, len(same), IDENTITY_BLOCK):
                    of = same[start : start + IDENTITY_BLOCK]
                    low, high = self._confusion(int(pairs[of[0], asked]), pairs[of, other], is_exact=False)
                    lows[of], highs[of] = np.maximum(lows[of], low), np.maximum(highs[of], high)
        enough = np.partition(lows, -n_hardest)[-n_hardest] if len(pairs) > n_hardest else 0
        return [(int(a), int(b)) for a, b in pairs[(highs > 0) & (highs >= enough)]]

    def exact(self, asked: int, other: int) -> float | None:
        """See `HardPair.confusion`; None where no photo of `asked` can be asked for."""
        low, high = self._confusion(asked, np.array([other]), is_exact=True)
        return None if low[0] < 0 else float(low[0] + high[0]) / 2

    def _confusion(self, asked: int, others: Indices, is_exact: bool) -> tuple[Floats, Floats]:
        """The share of comparisons that photos of each of some others surely win, and that they may win.

        -1 where nothing can be asked. Where the similarities are exact, the two differ by the ties.
        """
        ranges = [np.arange(self._starts[i], self._starts[i + 1]) for i in (asked, *others.tolist())]
        own, columns = ranges[0], np.concatenate(ranges)
        starts = np.cumsum([0, *(len(of) for of in ranges[1:-1])])
        if is_exact:
            pairs = np.repeat(own, len(columns)), np.tile(columns, len(own))
            similarity = pair_similarity(self._rows, self._rows, *pairs, self._norms, self._norms)
            similarity, slack = similarity.reshape(len(own), -1), 0.0
        else:
            similarity = (self._unit[own] @ self._unit[columns].T).astype(np.float64)
            slack = 2 * product_error(self._unit.shape[1])
        low, high, n_asked = (np.zeros(len(others)) for _ in range(3))
        for q, photo in enumerate(own):
            # As in every ranking, photos of the query's own encounter are left out.
            may = (self._encounter[columns] != self._encounter[photo]) | (self._encounter[columns] == -1)
            may[q] = False
            answers = np.sort(similarity[q, : len(own)][may[: len(own)]])
            rivals, allowed = similarity[q, len(own) :], may[len(own) :]
            n = np.add.reduceat(allowed.astype(np.int64), starts) * len(answers)
            surely = np.searchsorted(answers + slack, rivals, side="left") * allowed
            maybe = np.searchsorted(answers - slack, rivals, side="right") * allowed
            low += np.add.reduceat(surely, starts) / np.maximum(n, 1)
            high += np.add.reduceat(maybe, starts) / np.maximum(n, 1)
            n_asked += n > 0
        shares = (np.where(n_asked > 0, share / np.maximum(n_asked, 1), -1.0) for share in (low, high))
        return next(shares), next(shares)
