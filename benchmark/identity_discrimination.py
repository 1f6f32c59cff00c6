"""How well metrics tell the identities of a gallery apart: embedders as by `evaluate`, other distances by pairs."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from benchmark.aggregates import Answer, chance_of
from benchmark.distances import Distance, Resources
from benchmark.distances.embeddings import EmbeddingDistance
from benchmark.judge import Options
from benchmark.protocol import evaluate
from benchmark.rank import RankCounts
from benchmark.scores import score_query
from benchmark.statistics import Estimate, estimate_mean
from galleries.gallery import Gallery, Photo

MOST_PAIRS = 20_000
"""Of photos that a metric without embedding is asked about in one gallery: each costs a pass of its own."""


@dataclass(frozen=True)
class Sample:
    """Scores whose mean is reported.

    Attributes:
        values: of each question, by its name.
        group_of: question → target or identity; questions of one group are not independent.
    """

    values: Mapping[str, float]
    group_of: Mapping[str, str]

    @property
    def mean(self) -> Estimate | None:
        """With a 95 % interval over groups; None without questions."""
        names = sorted(self.values)
        return estimate_mean([self.values[name] for name in names], [self.group_of[name] for name in names])


@dataclass(frozen=True)
class Discrimination:
    """How well a metric tells the identities of a gallery apart, by its held-out photos.

    Attributes:
        chance: mAP of a random order, over the same questions; None where there are none.
        missing: why there are no scores; "" where there are.
        notes: what a reader of the scores should know.
    """

    average_precisions: Sample
    aucs: Sample
    chance: float | None
    missing: str = ""
    notes: tuple[str, ...] = ()


def discriminations(gallery: Gallery, distances: Sequence[Distance], resources: Resources) -> list[Discrimination]:
    """Of each metric, in order. Embedders are judged as by `evaluate`: its held-out anchor, number for number. Other
    metrics rank each held-out photo's look-alikes by pairwise distance, under the same rules, up to `MOST_PAIRS`.

    Raises:
        Faults: photos that cannot be used; all of them.
        FinerRankError: an embedder that cannot be loaded.
    """
    embedders = {d.fingerprint: d.embedder for d in distances if isinstance(d, EmbeddingDistance)}
    options = Options(batch_size=resources.batch_size)
    evaluations = evaluate(
        gallery, [], list(embedders.values()), resources.store, options, resources.progress, resources.warn
    )
    by_embedder = dict(zip(embedders, evaluations, strict=True))
    found = []
    for distance in distances:
        if isinstance(distance, EmbeddingDistance):
            evaluation = by_embedder[distance.fingerprint]
            notes = [note for note in evaluation.notes if "copied-reference" not in note]  # of an anchor not used here
            found.append(_discrimination(evaluation.held_out, notes))
        else:
            found.append(_by_pairs(gallery, distance, resources))
    return found


def chance_of_order(of: Mapping[str, Discrimination]) -> float | None:
    """mAP of a random order: the same for all metrics, which are asked the same questions."""
    return next((each.chance for each in of.values() if each.chance is not None), None)


def _discrimination(answers: Mapping[str, Answer], notes: Sequence[str] = ()) -> Discrimination:
    group_of = {name: answer.identity for name, answer in answers.items()}
    chance = math.fsum(answer.chance for answer in answers.values()) / len(answers) if answers else None
    return Discrimination(
        Sample({name: answer.scores.average_precision for name, answer in answers.items()}, group_of),
        Sample({n: a.scores.auc for n, a in answers.items() if not math.isnan(a.scores.auc)}, group_of),
        chance,
        "" if answers else "no identity has two photos that may answer",
        tuple(notes),
    )


def _by_pairs(gallery: Gallery, distance: Distance, resources: Resources) -> Discrimination:
    pools: dict[str, list[Photo]] = defaultdict(list)
    for photo in gallery.split("gallery", "distractor"):
        pools[photo.category].append(photo)
    asked = [
        (one, other)
        for pool in pools.values()
        for one, other in combinations(pool, 2)
        if "gallery" in (one.split, other.split) and not _is_same_encounter(one, other)
    ]
    if len(asked) > MOST_PAIRS:
        missing = f"has no embedding, and at most {MOST_PAIRS:,} pairs of photos are measured; here are {len(asked):,}"
        return Discrimination(Sample({}, {}), Sample({}, {}), None, missing)
    # Each two once: the metrics here are symmetric.
    measured = distance.of_pairs([(one.path, other.path) for one, other in asked], resources)
    of: dict[str, list[tuple[Photo, float]]] = defaultdict(list)
    for (one, other), value in zip(asked, measured.tolist(), strict=True):
        of[one.file_name].append((other, value))
        of[other.file_name].append((one, value))
    answers = {}
    for photo in gallery.split("gallery"):
        ranked = of[photo.file_name]
        everyone = np.array([value for _, value in ranked])
        own = np.sort([v for other, v in ranked if other.split == "gallery" and other.identity == photo.identity])
        if len(own):
            nearer = (everyone[:, None] < own).sum(axis=0)
            equal = (everyone[:, None] == own).sum(axis=0) - 1  # a photo equals itself once
            scores = score_query(RankCounts(-own, nearer, equal, len(ranked)))
            answers[photo.file_name] = Answer(photo.identity, photo.category, scores, chance_of(scores))
    return _discrimination(answers)


def _is_same_encounter(one: Photo, other: Photo) -> bool:
    return bool(one.encounter) and one.encounter == other.encounter
