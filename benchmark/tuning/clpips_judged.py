"""Before and after: how well distances agree with people on targets that they were not tuned to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmark.distances.base import Floats
from benchmark.human_agreement.agreement import MAIN, people_side
from benchmark.human_agreement.correlations import midranks, spearman_within
from benchmark.human_agreement.intervals import Statistic, bounds_of, drawn, mean_of, value_of
from benchmark.human_agreement.measures import two_afc_scores
from benchmark.human_agreement.questions import Questions
from benchmark.human_agreement.reliability import IccForm, icc_of_groups
from benchmark.statistics import Estimate
from benchmark.training.result import in_words

EVERYBODY = ""
ICC: IccForm = "ICC(A,1)"


@dataclass(frozen=True)
class Change:
    """A measure of agreement with somebody, before and after tuning, over held-out targets.

    Attributes:
        rater: `EVERYBODY` for the mean answer of all.
        measure: `Spearman`, mean over targets; `ICC(A,1)` of ranks within targets; or `2AFC`.
        before, after, gain: with 95 % bootstrap intervals over targets; the gain is paired.
        n_targets: on which the measure is defined.
    """

    rater: str
    measure: str
    before: Estimate
    after: Estimate
    gain: Estimate
    n_targets: int

    @property
    def has_helped(self) -> bool:
        """Whether the interval of the gain lies above 0."""
        return self.gain.low is not None and self.gain.low > 0

    @property
    def verdict(self) -> str:
        gain = in_words(self.gain, sign="+")
        if self.has_helped:
            return f"tuning helped: {gain}"
        if self.gain.high is not None and self.gain.high < 0:
            return f"tuning has hurt: {gain}"
        return f"tuning is not shown to have helped: {gain}"

    @property
    def record(self) -> dict[str, Any]:
        numbers = {
            name: {key: value for key, value in vars(estimate).items() if value is not None}
            for name, estimate in (("before", self.before), ("after", self.after), ("gain", self.gain))
        }
        return {
            "rater": self.rater or "everybody", "measure": self.measure, **numbers, "n_targets": self.n_targets
        }  # fmt: skip


def changes_of(questions: Questions, before: Floats, after: Floats) -> tuple[list[Change], list[str]]:
    """The changes for everybody, the main measure first, then for each rater; and who is left out, and why.

    Args:
        before, after: `[N, K]` distances of the rows of `questions`, in the order of `COMPARED`.
    """
    found, notes = _of_one(questions, before, after, EVERYBODY), []
    for number, rater in enumerate(questions.raters if len(questions.raters) > 1 else ()):
        own = questions.rater == number
        changes = _of_one(questions.some(own), before[own], after[own], rater)
        found += changes
        if not changes:
            notes.append(f"rater {rater}: no held-out target with two pictures that they hold apart; left out")
    return found, notes


def _of_one(q: Questions, before: Floats, after: Floats, rater: str) -> list[Change]:
    decided = _decided(q)
    if not decided.any():
        return []
    q, before, after = q.some(decided), before[decided], after[decided]
    found = []
    for name, old, new in _statistics(q, before, after):
        values = [value_of(statistic, len(q.targets)) for statistic in (old, new)]
        if np.isnan(values).any():
            continue
        draws = drawn([old, new], len(q.targets), len(q.rows))
        estimates = [
            _estimate(value, of)
            for value, of in (
                (values[0], draws[:, 0]), (values[1], draws[:, 1]), (values[1] - values[0], draws[:, 1] - draws[:, 0])
            )
        ]  # fmt: skip
        found.append(Change(rater, name, estimates[0], estimates[1], estimates[2], len(q.targets)))
    return found


def _decided(q: Questions) -> np.ndarray:
    """`[N]`: whether the target of the row has answers that differ; every triplet is a question of its own."""
    if q.kind == "2afc":
        return np.ones(len(q.rows), np.bool_)
    means, targets = q.mean_answer, q.target_of
    low, high = np.full(len(q.targets), np.inf), np.full(len(q.targets), -np.inf)
    np.minimum.at(low, targets, means)
    np.maximum.at(high, targets, means)
    found: np.ndarray = (low < high)[q.target]
    return found


def _statistics(q: Questions, before: Floats, after: Floats) -> list[tuple[str, Statistic, Statistic]]:
    n = len(q.targets)
    if q.kind == "2afc":
        scores = [two_afc_scores(of[:, 0], of[:, 1], q.answer) for of in (before, after)]
        old, new = (mean_of(q.target, n, each, q.share) for each in scores)
        return [(MAIN[q.kind], old, new)]
    y = people_side(q, q.mean_answer)
    x = [of[q.first, 0] for of in (before, after)]
    # A distance that is the same for all pictures of a target agrees with nobody there: that counts as 0.
    within = [np.nan_to_num(spearman_within(q.target_of, side, y, n), nan=0.0) for side in x]
    old, new = (mean_of(np.arange(n), n, values) for values in within)
    agreed = [icc_of_groups(q.target_of, n, _ranks(q, side, y), ICC) for side in x]
    return [(MAIN[q.kind], old, new), (ICC, agreed[0], agreed[1])]


def _ranks(q: Questions, x: Floats, y: Floats) -> Floats:
    return np.stack([midranks(q.target_of, side) for side in (x, y)], axis=1)


def _estimate(value: float, draws: Floats) -> Estimate:
    bounds = bounds_of(draws)
    return Estimate(value, *(bounds or (None, None)))


def in_lines(changes: Sequence[Change], most_raters: int = 12) -> list[str]:
    """For people: everybody's measures, then each rater's main one."""
    lines = []
    for change in changes:
        if change.rater == EVERYBODY:
            lines.append(
                f"held-out {change.measure} {in_words(change.before)} before, {in_words(change.after)} after, "
                f"gain {in_words(change.gain, sign='+')}"
            )
    own = [c for c in changes if c.rater != EVERYBODY and c.measure != ICC]
    for change in own[:most_raters]:
        lines.append(
            f"  {change.rater}: {change.measure} {in_words(change.before)} before, {in_words(change.after)} after, "
            f"gain {in_words(change.gain, sign='+')} ({change.n_targets} targets)"
        )
    if len(own) > most_raters:
        lines.append(f"  and {len(own) - most_raters} more raters: see --json")
    return lines
