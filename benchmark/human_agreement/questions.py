"""Judgements as arrays: which rows are about one question, what it was about, and who answered."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.distances.base import Floats
from benchmark.human_agreement.correlations import Ints
from benchmark.human_judgements.judgements import Judgement, Judgements, Kind

WHOLE = 1e-6
"""How far a number of votes may be from a whole one: shares come from tables, rounded."""


@dataclass(frozen=True)
class Questions:
    """Judgements of one kind, in an order that neither files nor rows decide. N rows, U questions.

    Attributes:
        rows: `[N]` places in `judgements.rows`.
        question: `[N]`, 0 to U - 1. The sides of a triplet or pair may be swapped between rows of one question.
        target: `[N]`, numbered in the order of `targets`.
        rater: `[N]`, numbered in the order of `raters`; -1 where unknown.
        answer: `[N]` as judged, for the images as they stand in the row.
        common: `[N]` the answer as if all rows of the question had their images in one order.
        votes: `[N]` people whose mean the answer is.
    """

    kind: Kind
    rows: Ints
    question: Ints
    target: Ints
    rater: Ints
    answer: Floats
    common: Floats
    votes: Floats
    targets: tuple[str, ...]
    raters: tuple[str, ...]

    @cached_property
    def n(self) -> int:
        """Questions."""
        return int(self.question.max()) + 1

    @cached_property
    def share(self) -> Floats:
        """`[N]` of the votes on its question: weights that give each question the same."""
        found: Floats = self.votes / np.bincount(self.question, self.votes)[self.question]
        return found

    @cached_property
    def first(self) -> Ints:
        """`[U]` a row of each question."""
        return np.unique(self.question, return_index=True)[1]

    @cached_property
    def target_of(self) -> Ints:
        """`[U]` target of each question."""
        return self.target[self.first]

    @cached_property
    def mean_answer(self) -> Floats:
        """`[U]`, over votes."""
        return means(np.bincount(self.question, self.votes * self.common), np.bincount(self.question, self.votes))

    @cached_property
    def knows_raters(self) -> bool:
        """Whether all rows say who answered, and two people did."""
        return len(self.raters) > 1 and bool((self.rater >= 0).all())

    def some(self, where: np.ndarray) -> "Questions":
        """Those rows alone; targets and raters that are in none of them are forgotten."""
        question = np.unique(self.question[where], return_inverse=True)[1]
        targets, target = np.unique(self.target[where], return_inverse=True)
        raters = np.unique(self.rater[where][self.rater[where] >= 0])
        rater = np.where(self.rater[where] >= 0, np.searchsorted(raters, self.rater[where]), -1)
        return Questions(
            self.kind, self.rows[where], question, target, rater, self.answer[where], self.common[where],
            self.votes[where], tuple(self.targets[i] for i in targets), tuple(self.raters[i] for i in raters),
        )  # fmt: skip


def means(sums: npt.NDArray[Any], n: npt.NDArray[Any]) -> Floats:
    """`sums / n`, where means that differ by rounding alone are equal: orders are taken of them."""
    found: Floats = sums / n
    scale = float(np.abs(found).max(initial=0.0)) or 1.0
    rounded: Floats = np.round(found / scale, 12) * scale
    return rounded


def questions_of(judgements: Judgements) -> Questions:
    """The judgements as arrays. There is at least one."""
    rows = judgements.rows
    ordered = [_in_one_order(judgements.kind, row) for row in rows]
    about = [(row.target, row.split, row.subset, images) for row, (images, _) in zip(rows, ordered, strict=True)]
    keys = [
        (*about[i], row.rater, ordered[i][1], row.n_votes, tuple(map(str, row.images))) for i, row in enumerate(rows)
    ]
    order = sorted(range(len(rows)), key=keys.__getitem__)
    targets, raters = judgements.targets, judgements.raters
    numbers = {key: i for i, key in enumerate(sorted(set(about)))}
    place_of_target = {name: i for i, name in enumerate(targets)}
    place_of_rater = {"": -1} | {name: i for i, name in enumerate(raters)}
    return Questions(
        judgements.kind,
        np.array(order, dtype=np.intp),
        np.array([numbers[about[i]] for i in order], dtype=np.intp),
        np.array([place_of_target[rows[i].target] for i in order], dtype=np.intp),
        np.array([place_of_rater[rows[i].rater] for i in order], dtype=np.intp),
        np.array([rows[i].answer for i in order], dtype=np.float64),
        np.array([ordered[i][1] for i in order], dtype=np.float64),
        np.array([rows[i].n_votes for i in order], dtype=np.float64),
        targets,
        raters,
    )


def _in_one_order(kind: Kind, row: Judgement) -> tuple[tuple[str, ...], float]:
    """The row's images, sorted where their order is chance, and the answer for that order."""
    names = tuple(map(str, row.images))
    if kind == "2afc" and names[1] > names[2]:
        return (names[0], names[2], names[1]), 1 - row.answer
    if kind == "jnd":
        return tuple(sorted(names)), row.answer
    if kind == "odd-one-out":
        order = sorted(range(3), key=names.__getitem__)
        return tuple(names[i] for i in order), float(order.index(int(row.answer)))
    return names, row.answer


@dataclass(frozen=True)
class Votes:
    """How many people gave each answer to a question: `question`, `answer` and `times` are `[M]`."""

    question: Ints
    answer: Floats
    times: Floats

    def of_several(self) -> "Votes":
        """Those on questions that two people answered at least."""
        n = np.bincount(self.question, self.times)
        several = (n[self.question] > 1) & (self.times > 0)
        return Votes(self.question[several], self.answer[several], self.times[several])


def votes_of(questions: Questions) -> tuple[Votes, Sequence[int]]:
    """The single votes, as far as the rows tell them, and the places in `judgements.rows` of rows that do not.

    A share of n votes tells them where share · n is a whole number; the mean of several ranks or ratings never does.
    """
    q = questions
    if q.kind in ("ranking", "rating"):
        told = q.votes == 1
        answers, times = [q.common], [q.votes]
    elif q.kind == "odd-one-out":
        told = np.ones(len(q.votes), np.bool_)
        answers, times = [q.common], [q.votes]
    else:
        n_yes = np.round(q.common * q.votes)
        told = np.abs(q.common * q.votes - n_yes) <= WHOLE * q.votes
        answers, times = [np.ones(len(n_yes)), np.zeros(len(n_yes))], [n_yes, q.votes - n_yes]
    pooled: dict[tuple[int, float], float] = {}
    for answer, number in zip(answers, times, strict=True):
        for i in np.flatnonzero(told & (number > 0)):
            key = (int(q.question[i]), float(answer[i]))
            pooled[key] = pooled.get(key, 0.0) + float(number[i])
    keys = sorted(pooled)
    votes = Votes(
        np.array([k for k, _ in keys], dtype=np.intp),
        np.array([a for _, a in keys]),
        np.array([pooled[key] for key in keys]),
    )
    return votes, sorted(q.rows[~told].tolist())
