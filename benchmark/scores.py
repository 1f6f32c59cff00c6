"""Scores of one query, from the counts of `benchmark.rank`. Pure functions: no files, no torch.

Photos of equal similarity have no order. Every score here is the *expectation* over all orders of tied photos
(McSherry & Najork, ECIR 2008), so that no result depends on the order of files, and an embedder that maps all
images to one point scores chance.

Arguments, everywhere:
    n_higher: `[R]` photos of higher similarity than each relevant photo, ascending.
    n_equal: `[R]` other photos of exactly the same similarity.
    n_gallery: photos ranked, N.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmark.rank import RankCounts

if TYPE_CHECKING:
    from benchmark.metric import GalleryMeanAveragePrecision as GalleryMeanAveragePrecision

Indices = npt.NDArray[np.int64]

CMC_DEPTHS = (5, 10)


@dataclass(frozen=True)
class QueryScores:
    """All scores of one query.

    Attributes:
        average_precision: in (0, 1], over the whole gallery.
        auc: chance that a relevant photo scores above an irrelevant one; NaN where all photos are relevant.
        rank_1: chance that the first photo is relevant.
        cmc: depth k → chance that one of the first k photos is relevant.
        map_at_r: average precision of the first R places, divided by R.
        inverse_negative_penalty: R / rank of the last relevant photo; its mean is mINP (Ye et al., TPAMI 2021).
        first_hit_rank: rank of the first relevant photo, from 1.
        n_relevant: R.
        n_gallery: N.
        is_tied: whether a relevant photo ties with an irrelevant one, so that the order of ties matters.
    """

    average_precision: float
    auc: float
    rank_1: float
    cmc: dict[int, float]
    map_at_r: float
    inverse_negative_penalty: float
    first_hit_rank: float
    n_relevant: int
    n_gallery: int
    is_tied: bool


def score_query(counts: RankCounts) -> QueryScores:
    """All scores of one query."""
    groups, n = _tie_groups(counts.n_higher, counts.n_equal), counts.n_gallery
    return QueryScores(
        average_precision=_precision_sum(groups, None) / len(counts.n_higher),
        auc=_auc(groups, n),
        rank_1=_cmc(groups[0], 1),
        cmc={k: _cmc(groups[0], k) for k in CMC_DEPTHS},
        map_at_r=_precision_sum(groups, len(counts.n_higher)) / len(counts.n_higher),
        inverse_negative_penalty=_inverse_negative_penalty(groups[-1]),
        first_hit_rank=_first_hit_rank(groups[0]),
        n_relevant=len(counts.n_higher),
        n_gallery=n,
        is_tied=any(group.n_relevant < group.size for group in groups),
    )


class _TieGroup(NamedTuple):
    """Photos of one similarity: `n_before` photos stand before them, `n_relevant_before` of these relevant."""

    n_before: int
    n_relevant_before: int
    size: int
    n_relevant: int


def _tie_groups(n_higher: Indices, n_equal: Indices) -> list[_TieGroup]:
    """The groups of tied photos that hold a relevant one, from the highest similarity to the lowest."""
    if len(n_higher) == 0:
        raise ValueError("no relevant photo: no ranking could be right")
    groups: list[_TieGroup] = []
    before = 0
    for n_before, of in groupby(sorted(zip(n_higher.tolist(), n_equal.tolist(), strict=True)), key=itemgetter(0)):
        members = list(of)
        groups.append(_TieGroup(n_before, before, members[0][1] + 1, len(members)))
        before += len(members)
    return groups


def average_precision(n_higher: Indices, n_equal: Indices) -> float:
    """Expected step average precision over the whole gallery: (1/R) Σ i / rank of the i-th relevant photo.

    The convention of trec_eval and scikit-learn, not the interpolated or trapezoid one.

    >>> average_precision(np.array([0, 3]), np.array([0, 0]))  # ranks 1 and 4: (1/1 + 2/4) / 2
    0.75
    """
    return _precision_sum(_tie_groups(n_higher, n_equal), None) / len(n_higher)


def map_at_r(n_higher: Indices, n_equal: Indices) -> float:
    """Expected average precision of the first R places, divided by R (Musgrave et al., ECCV 2020).

    >>> map_at_r(np.array([0, 3]), np.array([0, 0]))
    0.5
    """
    return _precision_sum(_tie_groups(n_higher, n_equal), len(n_higher)) / len(n_higher)


def _precision_sum(groups: Sequence[_TieGroup], depth: int | None) -> float:
    """Expected sum, over the relevant photos among the first `depth` places, of the precision at their place."""
    terms: list[float] = []
    for group in groups:
        n_places = group.size if depth is None else min(group.size, max(depth - group.n_before, 0))
        if group.size == 1:
            terms += [(group.n_relevant_before + 1) / (group.n_before + 1)] * n_places
            continue
        i = np.arange(n_places)  # places of the group that come before a place
        # At each place of the group stands a relevant photo with chance r/T; given that, each place of the
        # group before it holds a relevant one with chance (r-1)/(T-1).
        others = (group.n_relevant - 1) / (group.size - 1)
        precision = (group.n_relevant_before + 1 + i * others) / (group.n_before + i + 1)
        terms += (precision * (group.n_relevant / group.size)).tolist()
    return math.fsum(terms)


def auc(n_higher: Indices, n_equal: Indices, n_gallery: int) -> float:
    """Chance that a relevant photo scores above an irrelevant one, ties counting half; in [0, 1].

    NaN where every photo is relevant. Unlike average precision it does not depend on the gallery's size.

    >>> auc(np.array([0, 3]), np.array([0, 0]), 6)  # of 2 × 4 pairs, 2 are the wrong way round
    0.75
    """
    return _auc(_tie_groups(n_higher, n_equal), n_gallery)


def _auc(groups: Sequence[_TieGroup], n_gallery: int) -> float:
    n_relevant = sum(group.n_relevant for group in groups)
    n_irrelevant = n_gallery - n_relevant
    if n_irrelevant == 0:
        return math.nan
    lost = 0.0
    for group in groups:
        irrelevant_higher = group.n_before - group.n_relevant_before
        irrelevant_equal = group.size - group.n_relevant
        lost += group.n_relevant * (irrelevant_higher + irrelevant_equal / 2)
    return 1 - lost / (n_relevant * n_irrelevant)


def cmc(n_higher: Indices, n_equal: Indices, k: int) -> float:
    """Chance that a relevant photo is among the first k: cumulative match characteristic, also called Recall@k.

    >>> cmc(np.array([1]), np.array([1]), 2)  # second or third place
    0.5
    """
    return _cmc(_tie_groups(n_higher, n_equal)[0], k)


def _cmc(first: _TieGroup, k: int) -> float:
    places = min(max(k - first.n_before, 0), first.size)
    n_irrelevant = first.size - first.n_relevant
    if places > n_irrelevant:
        return 1.0
    return 1 - math.comb(n_irrelevant, places) / math.comb(first.size, places)


def first_hit_rank(n_higher: Indices, n_equal: Indices) -> float:
    """Expected rank of the first relevant photo, from 1.

    >>> first_hit_rank(np.array([1]), np.array([1]))
    2.5
    """
    return _first_hit_rank(_tie_groups(n_higher, n_equal)[0])


def _first_hit_rank(first: _TieGroup) -> float:
    return first.n_before + (first.size + 1) / (first.n_relevant + 1)


def inverse_negative_penalty(n_higher: Indices, n_equal: Indices) -> float:
    """Expected R / rank of the last relevant photo, in (0, 1]: how soon all of them are found.

    >>> inverse_negative_penalty(np.array([0, 3]), np.array([0, 0]))
    0.5
    """
    return _inverse_negative_penalty(_tie_groups(n_higher, n_equal)[-1])


def _inverse_negative_penalty(last: _TieGroup) -> float:
    n_relevant = last.n_relevant_before + last.n_relevant
    if last.size == 1:
        return n_relevant / (last.n_before + 1)
    # The chance that the last relevant photo of the group stands at place m, from the group's last place down.
    place = np.arange(last.size, last.n_relevant - 1, -1)
    ratios = (place[:-1] - last.n_relevant) / (place[:-1] - 1)
    chance = (last.n_relevant / last.size) * np.cumprod(np.concatenate([[1.0], ratios]))
    return math.fsum((chance * n_relevant / (last.n_before + place)).tolist())


def chance_average_precision(n_relevant: int, n_gallery: int) -> float:
    """Expected average precision of a random order: (R-1)/(N-1) + (N-R)/(N(N-1)) · H_N, H_N the harmonic number.

    >>> round(chance_average_precision(10, 50), 6)
    0.25713
    """
    if n_gallery == n_relevant:
        return 1.0
    harmonic = math.fsum(1 / i for i in range(1, n_gallery + 1))
    return (n_relevant - 1) / (n_gallery - 1) + (n_gallery - n_relevant) / (n_gallery * (n_gallery - 1)) * harmonic


def __getattr__(name: str) -> Any:
    # The torchmetrics class lives next door, so that scoring does not import torch.
    if name == "GalleryMeanAveragePrecision":
        from benchmark.metric import GalleryMeanAveragePrecision

        return GalleryMeanAveragePrecision
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
