"""Distances held against human judgements: every measure with its intervals, the human ceiling, and comparisons."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmark.distances.base import Floats
from benchmark.human_agreement.agreement import MAIN, ONE_RATER, Measure, left_out, measures_of, named
from benchmark.human_agreement.ceiling import people_of
from benchmark.human_agreement.comparisons import HOW_COMPARED, Comparison, compared
from benchmark.human_agreement.correlations import varies
from benchmark.human_agreement.intervals import bounds_of, drawn
from benchmark.human_agreement.questions import Questions, questions_of
from benchmark.human_judgements.judgements import Judgements
from benchmark.statistics import N_RESAMPLES
from galleries.errors import FinerRankError

MEAN_OVER_SUBSETS = "mean over subsets"


@dataclass(frozen=True)
class Result:
    """A measure of a distance, of people, or of the answers' reliability.

    Attributes:
        metric: spec of the distance; "" for people.
        subset: "" for all judgements.
        over_targets, over_raters: bounds of the 95 % intervals; None where there is none.
        n, over: of what the value is made.
        reason: what the value needs, where it is None.
        raters: value of each rater, of measures within raters.
    """

    metric: str
    measure: str
    subset: str
    value: float | None
    over_targets: tuple[float, float] | None
    over_raters: tuple[float, float] | None
    n: int
    over: str
    reason: str
    raters: Mapping[str, float | None] | None = None


@dataclass(frozen=True)
class Scores:
    """All that was found about some distances on judgements of one kind.

    Attributes:
        main: the measure of comparisons, of subsets and of the picture.
        results: of distances, in the order asked for. ceiling: of one rater against the others. reliability: of raters.
        tied_with_best: distances that are not significantly worse than the best one; empty where nothing is compared.
        test: how pairs were compared.
    """

    name: str
    kind: str
    main: str
    n_judgements: int
    n_questions: int
    n_targets: int
    n_raters: int
    splits: tuple[str, ...]
    subsets: tuple[str, ...]
    results: tuple[Result, ...]
    ceiling: tuple[Result, ...]
    reliability: tuple[Result, ...]
    comparisons: tuple[Comparison, ...]
    tied_with_best: tuple[str, ...]
    test: str
    notes: tuple[str, ...]
    left_out: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def of(self, metric: str, measure: str = "", subset: str = "") -> Result | None:
        """The result of a distance, or of people where `metric` is ""; the main measure where none is named."""
        for each in (*self.results, *self.ceiling):
            if (each.metric, each.measure, each.subset) == (metric, measure or self.main, subset):
                return each
        return None


def score_distances(judgements: Judgements, distances: Mapping[str, Floats]) -> Scores:
    """Hold distances against judgements. The result does not depend on the order of rows.

    Args:
        distances: spec → `[rows, K]`, see `distances_of`.

    Raises:
        FinerRankError: no judgements, or a distance that is not a number.
    """
    if not judgements.rows:
        raise FinerRankError(f"{judgements.name}: holds no judgements; nothing can be scored")
    for spec, of in distances.items():
        if np.isnan(of).any():
            row = judgements.rows[int(np.argmax(np.isnan(of).any(axis=1)))]
            raise FinerRankError(f"{spec}: the distance of {' and '.join(map(str, row.images))} is not a number")
    q = questions_of(judgements)
    own = {spec: of[q.rows] for spec, of in distances.items()}
    people = people_of(q)
    measures = {spec: measures_of(q, of) for spec, of in own.items()}
    groups = [*((spec, m) for spec, of in measures.items() for m in of), *(("", m) for m in people.ceiling)]
    evaluated = _evaluated(q, [*groups, *(("", m) for m in people.reliability)])
    results, ceiling = evaluated[: len(groups)], evaluated[len(groups) - len(people.ceiling) : len(groups)]
    results = results[: len(groups) - len(people.ceiling)]
    in_subsets, subsets = _of_subsets(judgements, q, own)
    main = MAIN[judgements.kind]
    comparisons, tied = compared(q, own, {s: next(m for m in of if m.name == main) for s, of in measures.items()})
    return Scores(
        judgements.name,
        judgements.kind,
        main,
        len(judgements.rows),
        q.n,
        len(q.targets),
        len(q.raters),
        tuple(sorted({row.split for row in judgements.rows})),
        tuple(subsets),
        (*results, *(r for r in in_subsets if r.metric)),
        (*ceiling, *(r for r in in_subsets if not r.metric)),
        tuple(evaluated[len(groups) :]),
        tuple(comparisons),
        tuple(tied),
        HOW_COMPARED[q.kind == "jnd"] if comparisons else "",
        (*_ties(q, own), *left_out(q), *people.notes, *_no_raters(q)),
        judgements.left_out,
    )


def _evaluated(q: Questions, measures: Sequence[tuple[str, Measure]]) -> list[Result]:
    by_target = [m.by_target for _, m in measures if m.by_target]
    by_rater = [m.by_rater for _, m in measures if m.by_rater]
    over_targets = iter(drawn(by_target, len(q.targets), len(q.rows)).T)
    over_raters = iter(drawn(by_rater, len(q.raters), len(q.rows)).T)
    found = []
    for spec, m in measures:
        value = m.value
        bounds = [
            bounds_of(next(draws)) if statistic else None
            for statistic, draws in ((m.by_target, over_targets), (m.by_rater, over_raters))
        ]
        each = None
        if spec and m.by_rater and m.name.endswith(ONE_RATER):
            values = m.by_rater(np.eye(len(q.raters))).tolist()
            each = {rater: None if np.isnan(v) else v for rater, v in zip(q.raters, values, strict=True)}
        if value is None:
            found.append(Result(spec, m.name, "", None, None, None, m.n, m.over, m.reason, each))
        else:
            found.append(Result(spec, m.name, "", value, bounds[0], bounds[1], m.n, m.over, "", each))
    return found


def _of_subsets(judgements: Judgements, q: Questions, own: Mapping[str, Floats]) -> tuple[list[Result], list[str]]:
    """The main measure of each subset, and its mean over subsets: targets are drawn within their subset."""
    of_row = np.array([judgements.rows[i].subset for i in q.rows])
    names = sorted(set(of_row.tolist()))
    if len(names) < 2:
        return [], [name for name in names if name]
    main, found = MAIN[judgements.kind], []
    specs = [*own, ""]
    values: dict[str, list[float]] = {spec: [] for spec in specs}
    draws: dict[str, list[Floats]] = {spec: [] for spec in specs}
    for stream, name in enumerate(names, start=1):
        some = of_row == name
        part = q.some(some)
        of = {s: next(m for m in measures_of(part, d[some]) if m.name == main) for s, d in own.items()}
        of.update(("", m) for m in people_of(part).ceiling if m.name == main)
        ready = {spec: m for spec, m in of.items() if m.by_target is not None}
        columns = drawn([m.by_target for m in ready.values() if m.by_target], len(part.targets), len(part.rows), stream)
        drawn_of = dict(zip(ready, columns.T, strict=True))
        for spec, m in of.items():
            value, own_draws = m.value, drawn_of.get(spec, np.zeros(0))
            bounds = None if value is None else bounds_of(own_draws)
            reason = m.reason if value is None else ""
            found.append(Result(spec, main, name or "(none)", value, bounds, None, m.n, m.over, reason))
            if value is not None:
                values[spec].append(value)
                draws[spec].append(own_draws)
    for spec in specs:
        if len(values[spec]) == len(names):
            is_drawn = all(len(each) == N_RESAMPLES for each in draws[spec])
            bounds = bounds_of(np.mean(draws[spec], axis=0)) if is_drawn else None
            mean = float(np.mean(values[spec]))
            found.append(Result(spec, main, MEAN_OVER_SUBSETS, mean, bounds, None, len(names), "subsets", ""))
        elif spec:
            reason = "needs a value of every subset"
            found.append(Result(spec, main, MEAN_OVER_SUBSETS, None, None, None, len(names), "subsets", reason))
    return found, [name or "(none)" for name in names]


def _ties(q: Questions, own: Mapping[str, Floats]) -> list[str]:
    notes = []
    for spec, of in own.items():
        if q.kind == "2afc":
            n = int((of[q.first, 0] == of[q.first, 1]).sum())
            what = "at equal distance, scored one half"
        elif q.kind == "odd-one-out":
            nearest = of[q.first] == of[q.first].min(axis=1, keepdims=True)
            n = int((nearest.sum(axis=1) > 1).sum())
            what = "with several nearest pairs, which share the point"
        elif q.kind in ("ranking", "rating"):
            several = np.bincount(q.target_of) > 1
            same = several & ~varies(q.target_of, of[q.first, 0], len(q.targets))
            if same.any():
                notes.append(f"{spec}: distances that are all equal on {named(q.targets, same)}: left out there")
            continue
        else:
            continue
        if n:
            notes.append(f"{spec}: {n} of {q.n} triplets {what}")
    return notes


def _no_raters(q: Questions) -> list[str]:
    if q.knows_raters:
        return []
    if q.raters and (q.rater >= 0).all():
        return ["no interval over raters: there is one; two are needed at least"]
    return ["no interval over raters: the data do not say who answered" + (" in each row" if q.raters else "")]
