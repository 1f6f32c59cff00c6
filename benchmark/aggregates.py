"""Answers to queries, summed up: means with intervals, over queries, identities and categories."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from benchmark.pool import chance_scores
from benchmark.scores import CMC_DEPTHS, QueryScores
from benchmark.statistics import Estimate, estimate_mean, estimate_ratio


def _cmc_at(k: int, scores: QueryScores) -> float:
    return scores.cmc[k]


METRICS: dict[str, Callable[[QueryScores], float]] = {
    "mAP": lambda s: s.average_precision,
    "AUC": lambda s: s.auc,
    "rank_1": lambda s: s.rank_1,
    **{f"CMC@{k}": partial(_cmc_at, k) for k in CMC_DEPTHS},
    "MAP@R": lambda s: s.map_at_r,
    "mINP": lambda s: s.inverse_negative_penalty,
    "first_hit_rank": lambda s: s.first_hit_rank,
}
"""Aggregate → the score of a query that it is the mean of."""

Aggregate = Mapping[str, Estimate | None]


@dataclass(frozen=True)
class Answer:
    """A question with its scores, and the score of a random order."""

    identity: str
    category: str
    scores: QueryScores
    chance: float


def chance_of(scores: QueryScores) -> float:
    return chance_scores(scores.n_relevant, scores.n_gallery).average_precision


def aggregate(answers: Sequence[Answer]) -> Aggregate | None:
    """Mean over queries of every metric, with intervals over identities; None without queries."""
    if not answers:
        return None
    identities = [answer.identity for answer in answers]
    return {metric: estimate_mean([score(a.scores) for a in answers], identities) for metric, score in METRICS.items()}


def _held_out_means(held_out: Sequence[Answer]) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for answer in held_out:
        values[answer.identity].append(answer.scores.average_precision)
    return {identity: math.fsum(v) / len(v) for identity, v in values.items()}


def retention(answers: Sequence[Answer], held_out: Sequence[Answer]) -> Estimate | None:
    """(mAP - chance) / (held-out - chance), over the identities that the run was asked for."""
    ceiling = _held_out_means(held_out)
    known = [a for a in answers if a.identity in ceiling]
    return estimate_ratio(
        [a.scores.average_precision - a.chance for a in known],
        [ceiling[a.identity] - a.chance for a in known],
        [a.identity for a in known],
    )


def matched_anchors(answers: Sequence[Answer], held_out: Sequence[Answer]) -> dict[str, float | None]:
    """Chance and held-out mAP over the same identities, in the same proportions, as the run's queries."""
    ceiling = _held_out_means(held_out)
    known = [ceiling[a.identity] for a in answers if a.identity in ceiling]
    return {
        "chance": math.fsum(a.chance for a in answers) / len(answers),
        "held_out": math.fsum(known) / len(known) if known else None,
    }


def by(answers: Sequence[Answer], held_out: Sequence[Answer], key: Callable[[Answer], str]) -> dict[str, Any]:
    groups: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        groups[key(answer)].append(answer)
    return {
        name: {
            "n_queries": len(own),
            "n_identities": len({answer.identity for answer in own}),
            **matched_anchors(own, held_out),
            **as_json(aggregate(own)),
        }
        for name, own in sorted(groups.items())
    }


def as_json_estimate(estimate: Estimate | None) -> dict[str, float | None] | None:
    return None if estimate is None else asdict(estimate)


def json_or_empty(estimate: Estimate | None) -> dict[str, float | None]:
    return as_json_estimate(estimate) or {"value": None, "low": None, "high": None}


def as_json(aggregate: Aggregate | None) -> dict[str, Any]:
    return {} if aggregate is None else {metric: as_json_estimate(estimate) for metric, estimate in aggregate.items()}


def from_json(scores: Mapping[str, Any]) -> Aggregate:
    return {metric: None if estimate is None else Estimate(**estimate) for metric, estimate in scores.items()}
