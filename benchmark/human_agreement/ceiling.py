"""How far people agree with each other: what a distance can be expected to reach, and how reliable answers are."""

from dataclasses import dataclass, replace

import numpy as np

from benchmark.distances.base import Floats
from benchmark.human_agreement.agreement import (
    NAMES,
    ONE_RATER,
    POOLED,
    SETS,
    Measure,
    correlation_measures,
    jnd_measures,
    people_side,
    rank_icc,
)
from benchmark.human_agreement.correlations import WITHIN, Ints
from benchmark.human_agreement.intervals import OfRows, mean_of
from benchmark.human_agreement.questions import Questions, Votes, means, votes_of
from benchmark.human_agreement.reliability import ICC_FORMS, NO_ALPHA, Level, alpha_of_groups, icc_of_groups
from benchmark.human_judgements.judgements import Kind

LEVELS: dict[Kind, Level] = {
    "2afc": "nominal",
    "jnd": "nominal",
    "odd-one-out": "nominal",
    "ranking": "ordinal",
    "rating": "interval",
}
"""Level of measurement at which alpha is taken."""


@dataclass(frozen=True)
class People:
    """What people reach against each other.

    Attributes:
        ceiling: measures of a distance, with one rater in its place and the others as the people.
        reliability: alpha, and intraclass correlations where answers are ranks or ratings.
        notes: why something of it is missing.
    """

    ceiling: tuple[Measure, ...]
    reliability: tuple[Measure, ...]
    notes: tuple[str, ...]


def people_of(q: Questions) -> People:
    """Each rater's own answers, scored as if they were a distance, against those of the others on the same question."""
    votes, untold = votes_of(q)
    several, notes = votes.of_several(), []
    if untold:
        notes.append(f"{len(untold)} judgements do not tell single votes; left out of what people reach")
    if not len(several.question):
        notes.append("no human ceiling: no question was answered by two people; ask a second one")
        return People((), (), tuple(notes))
    if q.kind in ("ranking", "rating"):
        ceiling = _order_ceiling(q)
        if not ceiling:
            notes.append("no human ceiling: the data do not say who answered; name a rater in each row")
    else:
        ceiling = _vote_ceiling(q, several)
        if _all_alike(several):
            notes.append(
                "all who answered a question agree on it, as where only unanimous ones were kept: the ceiling is 1 by "
                "that choice"
            )
    return People(tuple(ceiling), tuple(_reliability(q, votes)), tuple(notes))


def _all_alike(votes: Votes) -> bool:
    return len(np.unique(votes.question)) == len(votes.question)


def _vote_ceiling(q: Questions, votes: Votes) -> list[Measure]:
    """One vote against the others on its question: k of n agree with k - 1 of n - 1 others."""
    question, n = votes.question, np.bincount(votes.question, votes.times)[votes.question]
    share, target = votes.times / n, q.target_of[votes.question]
    of = len(np.unique(question))
    if q.kind == "jnd":
        n_same = np.bincount(question, votes.times * votes.answer)[question]
        others = (n_same - votes.answer) / (n - 1)
        return [replace(m, n=of) for m in jnd_measures(q, target, None, 1 - votes.answer, others, share)]
    by_target = mean_of(target, len(q.targets), (votes.times - 1) / (n - 1), share)
    by_rater = None
    if q.knows_raters and (q.votes == 1).all():
        by_rater = OfRows(q.rater, np.ones(len(q.rows)), AgreeingPairs(q.question, q.common))
    names = ("2AFC",) if q.kind == "2afc" else ("odd-one-out", "odd-one-out, ties correct")
    return [Measure(name, of, "triplets", len(q.targets), len(q.raters), by_target, by_rater) for name in names]


class AgreeingPairs:
    """Share of the pairs of two people that agree on a question, each question weighing the same, of people who stand
    so many times in the sample as their weights say. Nobody is paired with himself, however often he was drawn."""

    def __init__(self, question: Ints, answer: Floats) -> None:
        """One answer of one person a row; some question has two."""
        n = np.bincount(question)[question]
        rows = np.flatnonzero(n > 1)
        self.rows = rows[np.lexsort((answer[rows], question[rows]))]
        question, answer, n = question[self.rows], answer[self.rows], n[self.rows]
        is_new = np.append(True, question[1:] != question[:-1])
        self.questions = np.flatnonzero(is_new)
        self.answers = np.flatnonzero(is_new | np.append(True, answer[1:] != answer[:-1]))
        self.share = 1 / (n * (n - 1.0))  # of one pair

    def __call__(self, weights: Floats) -> Floats:
        """`[B]` of `[B, rows]`; NaN where no two people share a question."""
        own = weights[:, self.rows]
        agree, all_ = (self._pairs(own, starts) for starts in (self.answers, self.questions))
        with np.errstate(divide="ignore", invalid="ignore"):
            return agree / all_

    def _pairs(self, own: Floats, starts: Ints) -> Floats:
        pairs = np.add.reduceat(own, starts, axis=1) ** 2 - np.add.reduceat(own**2, starts, axis=1)
        found: Floats = (pairs * self.share[starts]).sum(axis=1)
        return found


def _order_ceiling(q: Questions) -> list[Measure]:
    known = np.flatnonzero(q.rater >= 0)
    n = np.bincount(q.question[known], minlength=q.n)
    rows = known[n[q.question[known]] > 1]
    if not len(rows):
        return []
    question, own = q.question[rows], q.common[rows]
    sums = np.bincount(q.question[known], q.common[known], q.n)
    others = people_side(q, means(sums[question] - own, n[question] - 1))
    own = people_side(q, own)
    pairs, cells = np.unique(np.stack([q.rater[rows], q.target[rows]]), axis=1, return_inverse=True)
    cells = cells.reshape(-1)
    found = correlation_measures(q, cells, pairs[1], pairs[0], own, others, "", SETS[q.kind])
    found += _pooled_ceiling(q, rows, own, others)
    if q.kind == "ranking":
        found.append(rank_icc(q, cells, q.target[rows], q.rater[rows], own, others, ""))
    if q.knows_raters:
        found += _one_against_one(q, rows)
    return found


def _pooled_ceiling(q: Questions, rows: Ints, own: Floats, others: Floats) -> list[Measure]:
    """Mean over raters of each one's correlation over all targets."""
    found = []
    for name in NAMES.get(q.kind, tuple(WITHIN)):
        values = WITHIN[name](q.rater[rows], own, others, len(q.raters))
        by_rater = mean_of(np.arange(len(q.raters)), len(q.raters), values)
        n = int((~np.isnan(values)).sum())
        reason = "no rater has two different answers that others gave too"
        found.append(Measure(f"{name}, {POOLED}", n, "raters", len(q.targets), len(q.raters), None, by_rater, reason))
    return found


def _one_against_one(q: Questions, rows: Ints) -> list[Measure]:
    """Mean over targets and pairs of raters of the correlation of their answers."""
    rows = rows[np.lexsort((q.rater[rows], q.question[rows]))]
    sizes = np.bincount(q.question[rows])
    firsts = np.cumsum(sizes) - sizes
    sides: list[list[Ints]] = [[], []]
    for size in np.unique(sizes[sizes > 1]):
        members = rows[firsts[sizes == size][:, None] + np.arange(size)]
        for side, place in zip(sides, np.triu_indices(size, 1), strict=True):
            side.append(members[:, place].reshape(-1))
    one, other = (np.concatenate(side) for side in sides)
    keys = np.stack([q.rater[one], q.rater[other], q.target[one]])
    found, cells = np.unique(keys, axis=1, return_inverse=True)
    cells, nobody = cells.reshape(-1), np.full(found.shape[1], -1)
    x, y = (people_side(q, q.common[side]) for side in (one, other))
    suffix = f", {ONE_RATER}"
    measures = correlation_measures(q, cells, found[2], nobody, x, y, suffix, f"pairs of {SETS[q.kind]}")
    if q.kind == "ranking":
        measures.append(rank_icc(q, cells, q.target[one], None, x, y, suffix))
    return measures


def _reliability(q: Questions, votes: Votes) -> list[Measure]:
    level = LEVELS[q.kind]
    n = len(np.unique(votes.of_several().question))
    sizes = (len(q.targets), len(q.raters))
    target = q.target_of[votes.question]
    alpha = alpha_of_groups(target, sizes[0], votes.question, votes.answer, votes.times, level)
    found = [Measure(f"alpha, {level}", n, "questions", *sizes, alpha, None, NO_ALPHA)]
    if level != "nominal" and q.knows_raters:
        found += _intraclass(q)
    return found


def _intraclass(q: Questions) -> list[Measure]:
    """On the questions that all raters of two judgements at least answered."""
    sizes = (len(q.targets), len(q.raters))
    raters = np.flatnonzero(np.bincount(q.rater) > 1)
    column = np.full(len(q.raters), -1)
    column[raters] = np.arange(len(raters))
    table = np.full((q.n, len(raters)), np.nan)
    rows = np.flatnonzero(column[q.rater] >= 0)
    table[q.question[rows], column[q.rater[rows]]] = q.common[rows]
    whole = ~np.isnan(table).any(axis=1) if len(raters) > 1 else np.zeros(q.n, np.bool_)
    n = int(whole.sum())
    reason = f"needs two questions that all {len(raters)} raters answered, and answers that differ between them"
    if len(raters) < 2:
        reason = "needs two raters of two judgements at least"
    if n < 2:
        return [Measure(form, n, "questions", *sizes, reason=reason) for form in ICC_FORMS]
    target, ratings = q.target_of[whole], table[whole]
    return [
        Measure(form, n, "questions", *sizes, icc_of_groups(target, sizes[0], ratings, form), None, reason)
        for form in ICC_FORMS
    ]
