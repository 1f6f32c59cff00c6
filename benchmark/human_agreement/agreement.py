"""What is measured of a distance on each kind of judgement."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.distances.base import Floats
from benchmark.human_agreement.correlations import (
    NO_ORDER,
    WITHIN,
    Ints,
    PooledKendall,
    PooledSpearman,
    kendall,
    midranks,
    varies,
)
from benchmark.human_agreement.intervals import OfRows, OfSums, Statistic, mean_of, sums_by, value_of
from benchmark.human_agreement.measures import (
    NO_SAME,
    NO_TWO_ANSWERS,
    SameCurve,
    odd_one_out_scores,
    odd_one_out_scores_ties_correct,
    two_afc_scores,
)
from benchmark.human_agreement.questions import Questions
from benchmark.human_agreement.reliability import NO_ICC, icc_of_groups
from benchmark.human_judgements.judgements import Kind

MAIN: dict[Kind, str] = {
    "2afc": "2AFC",
    "jnd": "JND mAP",
    "odd-one-out": "odd-one-out",
    "ranking": "Spearman",
    "rating": "Spearman",
}
"""The measure of each kind by which distances are compared with each other, and drawn."""

NAMES: dict[Kind, tuple[str, ...]] = {"ranking": ("Spearman", "Kendall tau-b")}
"""Correlations of a kind; all where it is not named."""

SETS: dict[Kind, str] = {"ranking": "rankings", "rating": "sets of ratings"}
"""What one rater said about one target."""

PAIRWISE_UP_TO = 5000
"""Items whose pairs are counted for an interval of the pooled Kendall's tau-b …"""
GROUPS_UP_TO = 500
"""… and targets."""
POOLED, ONE_RATER = "pooled", "one rater"
NO_ORDER_ANYWHERE = "needs two images of one target with different answers and different distances"


@dataclass(frozen=True)
class Measure:
    """A measure of one distance, or of people.

    Attributes:
        n, over: how many of what it is the mean of, or counted over.
        by_target, by_rater: the measure as a function of the weights of targets, of raters; None where there is no
            such interval.
        reason: what the value needs where it is None.
        fixed: the value, where it is no function of weights.
    """

    name: str
    n: int
    over: str
    n_targets: int
    n_raters: int
    by_target: Statistic | None = None
    by_rater: Statistic | None = None
    reason: str = ""
    fixed: float | None = None

    @property
    def value(self) -> float | None:
        if self.fixed is not None:
            return self.fixed
        if self.by_target is not None:
            found = value_of(self.by_target, self.n_targets)
        elif self.by_rater is not None:
            found = value_of(self.by_rater, self.n_raters)
        else:
            return None
        return None if np.isnan(found) else found


def measures_of(q: Questions, distances: Floats) -> list[Measure]:
    """All measures of a distance.

    Args:
        distances: `[N, K]` of the rows of `q`, in the order of `COMPARED`.
    """
    if q.kind == "2afc":
        return [share_measure(q, "2AFC", two_afc_scores(distances[:, 0], distances[:, 1], q.answer))]
    if q.kind == "odd-one-out":
        return [
            share_measure(q, "odd-one-out", odd_one_out_scores(distances, q.answer)),
            share_measure(q, "odd-one-out, ties correct", odd_one_out_scores_ties_correct(distances, q.answer)),
        ]
    if q.kind == "jnd":
        return jnd_measures(q, q.target, q.rater, distances[:, 0], q.answer, q.share)
    return _order_measures(q, distances)


def share_measure(q: Questions, name: str, scores: Floats) -> Measure:
    """Mean over questions of the share of votes that agree; `scores` is `[N]`."""
    by_rater = mean_of(q.rater, len(q.raters), scores, q.share) if q.knows_raters else None
    by_target = mean_of(q.target, len(q.targets), scores, q.share)
    return Measure(name, q.n, "triplets", len(q.targets), len(q.raters), by_target, by_rater)


def jnd_measures(
    q: Questions, target: Ints, rater: Ints | None, distances: Floats, same: Floats, share: Floats
) -> list[Measure]:
    """Those of pairs: `[M]` rows with distances, shares of votes for the same, and weights."""
    if not len(same):
        return []
    curve = SameCurve(distances, same)
    found = []
    for name, of, reason in (
        ("JND mAP", curve.average_precision, NO_SAME),
        ("JND score", curve.area, NO_TWO_ANSWERS),
    ):
        by_rater = OfRows(rater, share, of) if q.knows_raters and rater is not None else None
        by_target = OfRows(target, share, of)
        found.append(Measure(name, q.n, "pairs", len(q.targets), len(q.raters), by_target, by_rater, reason))
    return found


def people_side(q: Questions, answers: Floats) -> Floats:
    """Answers so that smaller is nearer, as it is of ranks and of distances."""
    return -answers if q.kind == "rating" else answers


def _order_measures(q: Questions, distances: Floats) -> list[Measure]:
    x, y = distances[q.first, 0], people_side(q, q.mean_answer)
    no_raters = np.full(len(q.targets), -1)
    cells = np.arange(len(q.targets))
    found = correlation_measures(q, q.target_of, cells, no_raters, x, y, "", "targets")
    found += _pooled_measures(q, x, y)
    if q.kind == "ranking":
        found.append(rank_icc(q, q.target_of, q.target_of, None, x, y, ""))
    else:
        found.append(_alpha_of_scales(q, x, y))
    known = np.flatnonzero(q.rater >= 0)
    if q.knows_raters:
        found += one_rater_measures(q, known, distances[known, 0], people_side(q, q.common[known]))
    return found


def one_rater_measures(q: Questions, rows: Ints, x: Floats, y: Floats) -> list[Measure]:
    """Those within each rater's answers about each target."""
    of = f", {ONE_RATER}"
    pairs, cell = np.unique(np.stack([q.rater[rows], q.target[rows]]), axis=1, return_inverse=True)
    cell = cell.reshape(-1)
    found = correlation_measures(q, cell, pairs[1], pairs[0], x, y, of, SETS[q.kind])
    if q.kind == "ranking":
        found.append(rank_icc(q, cell, q.target[rows], q.rater[rows], x, y, of))
    return found


def correlation_measures(
    q: Questions, cells: Ints, target: Ints, rater: Ints, x: Floats, y: Floats, suffix: str, over: str
) -> list[Measure]:
    """Mean over cells of each correlation within them.

    Args:
        cells: `[M]` cell of each item.
        target, rater: of each cell; -1 where it is nobody's, or everybody's.
        x, y: `[M]`, smaller is nearer.
    """
    found = []
    for name in NAMES.get(q.kind, tuple(WITHIN)):
        values = WITHIN[name](cells, x, y, len(target))
        by_target = mean_of(target, len(q.targets), values) if len(target) and (target >= 0).all() else None
        by_rater = mean_of(rater, len(q.raters), values) if len(rater) and (rater >= 0).all() else None
        n = int((~np.isnan(values)).sum())
        sizes = (len(q.targets), len(q.raters))
        found.append(Measure(f"{name}{suffix}", n, over, *sizes, by_target, by_rater, NO_ORDER_ANYWHERE))
    return found


def rank_icc(q: Questions, cells: Ints, target: Ints, rater: Ints | None, x: Floats, y: Floats, suffix: str) -> Measure:
    """ICC(A,1) of ranks within cells over all items of all cells; those where a side is constant are left out."""
    n_cells = int(cells.max(initial=-1)) + 1
    told = (varies(cells, x, n_cells) & varies(cells, y, n_cells))[cells]
    name, sizes = f"ICC(A,1){suffix}", (len(q.targets), len(q.raters))
    if not told.any():
        return Measure(name, 0, "images", *sizes, reason=NO_ORDER_ANYWHERE)
    ranks = np.stack([midranks(cells[told], side[told]) for side in (x, y)], axis=1)
    by_target = icc_of_groups(target[told], sizes[0], ranks, "ICC(A,1)")
    by_rater = None if rater is None else icc_of_groups(rater[told], sizes[1], ranks, "ICC(A,1)")
    return Measure(name, len(ranks), "images", *sizes, by_target, by_rater, NO_ICC)


def _pooled_measures(q: Questions, x: Floats, y: Floats) -> list[Measure]:
    sizes = (len(q.targets), len(q.raters))
    whole = np.ones(len(x))
    is_ordered = (x != x[0]).any() and (y != y[0]).any()
    found = []
    for name in NAMES.get(q.kind, tuple(WITHIN)):
        fixed: float | None = None
        statistic: Statistic | None = None
        if not is_ordered:
            pass
        elif name == "Spearman":
            statistic = OfRows(q.target_of, whole, PooledSpearman(x, y))
        elif name == "Pearson":
            statistic = _pooled_pearson(q, x, y, _pearson) if np.isfinite(x).all() else None
        elif len(x) <= PAIRWISE_UP_TO and len(q.targets) <= GROUPS_UP_TO:
            statistic = PooledKendall(q.target_of, x, y, len(q.targets))
        else:
            fixed = kendall(x, y).value
        reason = NO_ORDER if not is_ordered else "needs distances that are finite"
        found.append(Measure(f"{name}, {POOLED}", q.n, "images", *sizes, statistic, None, reason, fixed))
    return found


def _standardised(values: Floats) -> Floats:
    spread = float(values.std())
    found: Floats = (values - values.mean()) / (spread or 1.0)
    return found


def _pooled_pearson(q: Questions, x: Floats, y: Floats, of: Statistic) -> OfSums:
    a, b = _standardised(x), _standardised(y)  # sums of squares of far-off numbers would cancel
    return OfSums(sums_by(q.target_of, len(q.targets), np.ones(len(a)), a, b, a * a, b * b, a * b), of)


def _pearson(sums: Floats) -> Floats:
    n, a, b, aa, bb, ab = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        spreads = [(square - each**2 / n) for each, square in ((a, aa), (b, bb))]
        found = (ab - a * b / n) / np.sqrt(spreads[0] * spreads[1])
        varies = (spreads[0] > 1e-12 * n) & (spreads[1] > 1e-12 * n)
    return np.where(varies, found, np.nan)


def _alpha_of_pearson(sums: Floats) -> Floats:
    # Squared differences of two standardised sides are 2 (1 - r) in the mean, those of any two of all 2n values
    # 4n / (2n - 1).
    found: Floats = 1 - (1 - _pearson(sums)) * (1 - 1 / (2 * sums[:, 0]))
    return found


def _alpha_of_scales(q: Questions, x: Floats, y: Floats) -> Measure:
    """Krippendorff's alpha at the interval level between distance and mean rating, both standardised: a distance has no
    scale of ratings."""
    name, sizes = "alpha, standardised", (len(q.targets), len(q.raters))
    if not np.isfinite(x).all():
        return Measure(name, q.n, "images", *sizes, reason="needs distances that are finite")
    if not ((x != x[0]).any() and (y != y[0]).any()):
        return Measure(name, q.n, "images", *sizes, reason=NO_ORDER)
    return Measure(name, q.n, "images", *sizes, _pooled_pearson(q, x, y, _alpha_of_pearson))


def left_out(q: Questions) -> Sequence[str]:
    """Which targets and raters correlations leave out, and why, a line each."""
    if q.kind not in ("ranking", "rating"):
        return []
    notes = []
    sizes = np.bincount(q.target_of, minlength=len(q.targets))
    told = varies(q.target_of, q.mean_answer, len(q.targets))
    word = "ranks" if q.kind == "ranking" else "ratings"
    for where, what in (
        (sizes == 1, "one image: left out of correlations within targets, which need two"),
        ((sizes > 1) & ~told, f"{word} that are all equal: left out of correlations within targets"),
    ):
        if where.any():
            notes.append(f"{named(q.targets, where)}: {what}")
    if not q.raters:
        return notes
    known = q.rater >= 0
    n = np.bincount(q.rater[known], minlength=len(q.raters))
    told = varies(q.rater[known], q.common[known], len(q.raters))
    for where, what in (
        (n == 1, "one judgement: left out of what is computed within raters, which needs two on a target"),
        ((n > 1) & ~told, f"{word} that are all equal: left out of what is computed within raters"),
    ):
        if where.any():
            notes.append(f"rater {named(q.raters, where)}: {what}")
    return notes


def named(names: Sequence[str], where: np.ndarray, most: int = 5) -> str:
    """`a, b, c and 4 more`"""
    chosen = [name for name, is_chosen in zip(names, where, strict=True) if is_chosen]
    return ", ".join(chosen[:most]) + (f" and {len(chosen) - most} more" if len(chosen) > most else "")
