"""What people said, as pairs of pictures of one target of which one is the nearer."""

from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from benchmark.human_agreement.agreement import people_side
from benchmark.human_agreement.compared import COMPARED
from benchmark.human_agreement.correlations import Ints
from benchmark.human_agreement.questions import Questions, questions_of
from benchmark.human_judgements.judgements import Judgements, Kind
from benchmark.tuning.margin_ranking import Pairs
from galleries.errors import FinerRankError

TUNED_TO: tuple[Kind, ...] = ("ranking", "rating", "2afc")


@dataclass(frozen=True)
class Ranked:
    """Judgements, the pictures they compare with targets, and the pairs that follow.

    Attributes:
        judgements: those that are tuned to.
        questions: the judgements as arrays, N rows.
        compared: `(target, picture)` files, M of them, distinct.
        places: `[N, K]` rows of `compared` that each judgement is about, in the order of `COMPARED`.
        pairs: rows of `compared`. Each ranking, which is what one person said of one target, weighs the same; of
            triplets each vote.
        target_of: `[P]` target of each pair, numbered as in `questions.targets`.
        n_rankings: those that gave a pair.
        notes: who gave none.
    """

    judgements: Judgements
    questions: Questions
    compared: tuple[tuple[Path, Path], ...]
    places: Ints
    pairs: Pairs
    target_of: Ints
    n_rankings: int
    notes: tuple[str, ...]


def ranked_pairs(judgements: Judgements, rater: str | None = None) -> Ranked:
    """The pairs of everybody, or of one person. Images of the same rank, and triplets on which as many said the one as
    the other, give none.

    Raises:
        FinerRankError: judgements of a kind that ranks nothing, an unknown rater, or no pair.
    """
    if judgements.kind not in TUNED_TO:
        raise FinerRankError(
            f"{judgements.name}: {judgements.kind} judgements rank no pictures; give {', '.join(TUNED_TO)}"
        )
    if rater is not None:
        if rater not in judgements.raters:
            known = ", ".join(judgements.raters) or "nobody, as the data name no raters"
            raise FinerRankError(f"--rater {rater}: judged nothing here; known: {known}")
        judgements = replace(judgements, rows=tuple(row for row in judgements.rows if row.rater == rater))
    if not judgements.rows:
        raise FinerRankError(f"{judgements.name}: holds no judgements; nothing can be tuned to")
    q = questions_of(judgements)
    sides = COMPARED[judgements.kind]
    rows = [judgements.rows[i] for i in q.rows]
    place: dict[tuple[Path, Path], int] = {}
    places = np.array(
        [[place.setdefault((row.images[i], row.images[j]), len(place)) for i, j in sides] for row in rows],
        dtype=np.intp,
    )
    near, far, weights, target_of, n_rankings = _of_triplets(q, places) if len(sides) > 1 else _of_orders(q, places)
    if not len(near):
        raise FinerRankError(
            f"{judgements.name}: no two pictures of one target stand at different ranks; add answers that differ"
        )
    notes = []
    silent = sorted(set(range(len(q.targets))) - set(target_of.tolist()))
    if silent:
        names = ", ".join(q.targets[i] for i in silent[:5]) + (
            f" and {len(silent) - 5} more" if len(silent) > 5 else ""
        )
        notes.append(f"{names}: no two pictures that people hold apart; of no use for tuning")
    return Ranked(judgements, q, tuple(place), places, Pairs(near, far, weights), target_of, n_rankings, tuple(notes))


def _of_triplets(q: Questions, places: Ints) -> tuple[Ints, Ints, np.ndarray, Ints, int]:
    votes_b = q.answer * q.votes
    for_a, for_b = q.votes - votes_b, votes_b
    decided = np.flatnonzero(for_a != for_b)
    near = np.concatenate([places[decided, 0], places[decided, 1]])
    far = np.concatenate([places[decided, 1], places[decided, 0]])
    weights = np.concatenate([for_a[decided], for_b[decided]])
    said = weights > 0
    n_rankings = len({(int(q.rater[i]), int(q.target[i])) for i in decided})
    return near[said], far[said], weights[said], np.tile(q.target[decided], 2)[said], n_rankings


def _of_orders(q: Questions, places: Ints) -> tuple[Ints, Ints, np.ndarray, Ints, int]:
    near, far, weights, targets = [], [], [], []
    distances = people_side(q, q.answer)
    order = np.lexsort((distances, q.target, q.rater))
    for (_, target), members in groupby(order.tolist(), key=lambda i: (int(q.rater[i]), int(q.target[i]))):
        rows = np.array(list(members), dtype=np.intp)
        first, second = np.triu_indices(len(rows), 1)
        differ = distances[rows[first]] < distances[rows[second]]
        # Two rows of one picture stand together where the data name no raters and several people answered.
        differ &= places[rows[first], 0] != places[rows[second], 0]
        if differ.any():
            near.append(places[rows[first[differ]], 0])
            far.append(places[rows[second[differ]], 0])
            weights.append(np.full(int(differ.sum()), 1 / int(differ.sum())))
            targets.append(np.full(int(differ.sum()), target))
    if not near:
        return np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0), np.zeros(0, np.intp), 0
    return np.concatenate(near), np.concatenate(far), np.concatenate(weights), np.concatenate(targets), len(near)
