"""Does tuning to people hurt identity? Agreement with people beside discrimination of identities, metric by metric.

NearID (arXiv 2604.01973) warns that the two may part: at a discrimination of 99.97 (SSR), agreement fell to r 0.141.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from benchmark.distances import Distance, Resources
from benchmark.distances.base import Floats
from benchmark.human_agreement.compared import distances_of
from benchmark.human_agreement.score import Result, Scores, score_distances
from benchmark.human_judgements.judgements import Judgements
from benchmark.identity_discrimination import Discrimination, Sample, discriminations
from benchmark.statistics import Estimate, estimate_mean, holm, sign_flip_p
from galleries.gallery import Gallery

ALPHA = 0.05
FEWEST_METRICS = 5
"""For a rank correlation: of four, even the same order twice has a two-sided p of 2/24, above any usual level."""


@dataclass(frozen=True)
class Change:
    """What tuning did to a mean, paired by question.

    Attributes:
        difference: after - before, with a 95 % interval over groups.
        p: two-sided sign-flip test over groups.
        p_holm: the same, corrected over the pairs that are compared in this column.
    """

    difference: Estimate
    n_groups: int
    p: float
    p_holm: float

    @property
    def verb(self) -> str:
        """`raised`, `lowered`, `did not change`, or "" where so few groups allow no verdict."""
        if 2 / 2**self.n_groups >= ALPHA:
            return ""
        if self.p_holm >= ALPHA:
            return "did not change"
        return "raised" if self.difference.value > 0 else "lowered"

    def said_of(self, what: str, groups: str) -> str:
        """A clause such as `raised human agreement (+0.081 [+0.030, +0.120], p 0.008, 40 targets)`.

        Args:
            what: the score.
            groups: what its groups are called, such as `targets`.
        """
        value, low, high = self.difference.value, self.difference.low, self.difference.high
        interval = "" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]"
        amount = f"{value:+.3f}{interval}"
        if not self.verb:
            return f"moved {what} by {amount}, of which {self.n_groups} {groups} are too few to tell anything"
        measurably = " measurably" if self.verb == "did not change" else ""
        return f"{self.verb} {what}{measurably} ({amount}, p {self.p_holm:.2g}, {self.n_groups} {groups})"


def change(before: Sample, after: Sample) -> Change | None:
    """What became of the questions that both answer; None where there are none."""
    names = sorted(name for name in before.values.keys() & after.values.keys() if _is_finite(before, after, name))
    groups = [before.group_of[name] for name in names]
    differences = [after.values[name] - before.values[name] for name in names]
    found = estimate_mean(differences, groups)
    if found is None:
        return None
    sums: dict[str, list[float]] = defaultdict(list)
    for group, difference in zip(groups, differences, strict=True):
        sums[group].append(difference)
    # Sums, not means: the flipped statistic is then the mean over questions, which is what is reported.
    p = sign_flip_p(np.array([math.fsum(sums[group]) for group in sorted(sums)]))
    return Change(found, len(sums), p, p)


def _is_finite(before: Sample, after: Sample, name: str) -> bool:
    return math.isfinite(before.values[name]) and math.isfinite(after.values[name])


def _corrected(changes: Sequence[Change | None]) -> list[Change | None]:
    """The same with Holm's correction over all of them."""
    p_values = iter(holm([each.p for each in changes if each]))
    return [replace(each, p_holm=next(p_values)) if each else None for each in changes]


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's correlation of two columns over metrics, and a permutation p; or why there is none."""

    value: float | None
    p: float | None
    n: int
    missing: str = ""


def rank_correlation(agreement: Sequence[float | None], identity: Sequence[float | None]) -> RankCorrelation:
    """Do metrics that agree better with people tell identities better apart?

    The p is two-sided, over pairings: all of them up to seven metrics, else 9,999 random ones. Metrics of which one
    was tuned from another are no independent draws, so that it flatters.
    """
    both = [(a, i) for a, i in zip(agreement, identity, strict=True) if a is not None and i is not None]
    n = len(both)
    if n < FEWEST_METRICS:
        what = f"{n} metrics with both columns: the order of fewer than {FEWEST_METRICS} cannot be told from chance"
        return RankCorrelation(None, None, n, what)
    # Rounding must not put equal scores in an order.
    first, second = (np.round([pair[side] for pair in both], 12) for side in (0, 1))
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return RankCorrelation(None, None, n, "one column is the same for all metrics")
    from scipy.stats import permutation_test, rankdata

    a, b = (rankdata(column) - (n + 1) / 2 for column in (first, second))
    scale = math.sqrt(float((a**2).sum() * (b**2).sum()))

    def spearman(x: Floats) -> float:
        return float((x * b).sum()) / scale

    tested = permutation_test(
        (a,), spearman, permutation_type="pairings", n_resamples=9999, vectorized=False, rng=np.random.default_rng(0)
    )
    return RankCorrelation(float(tested.statistic), float(tested.pvalue), n)


def agreement_change(judgements: Judgements, before: Floats, after: Floats) -> Change | None:
    """As `agreement score` compares two metrics: sign flips over the means of targets, or of JND a bootstrap.

    Args:
        before, after: `[N, K]` of `distances_of`.
    """
    scores = score_distances(judgements, {"after": after, "before": before})
    if not scores.comparisons:
        return None
    (found,) = scores.comparisons
    return Change(Estimate(found.difference, found.low, found.high), scores.n_targets, found.p, found.p)


@dataclass(frozen=True)
class Pair:
    """A metric before and after tuning. Changes of identity are by gallery; None where there is nothing to compare."""

    before: str
    after: str
    agreement: Change | None
    m_ap: Mapping[str, Change | None]
    auc: Mapping[str, Change | None]

    @property
    def verdict(self) -> str:
        """In words."""
        said = [_clause(self.agreement, "agreement with people", "targets")]
        said += [_clause(each, f"identity mAP on {name}", "identities") for name, each in self.m_ap.items()]
        return f"tuning {self.before} into {self.after} {', and '.join(said)}"


def _clause(found: Change | None, what: str, groups: str) -> str:
    return found.said_of(what, groups) if found else f"cannot be judged by {what} (no score before and after)"


@dataclass(frozen=True)
class Study:
    """Both columns of some metrics.

    Attributes:
        scores: of agreement with people.
        discrimination: gallery → metric → how well it tells identities apart there.
        correlations: gallery → rank correlation of agreement and mAP over the metrics.
    """

    metrics: tuple[str, ...]
    scores: Scores
    discrimination: Mapping[str, Mapping[str, Discrimination]]
    pairs: tuple[Pair, ...]
    correlations: Mapping[str, RankCorrelation]

    def agreement(self, metric: str) -> Result:
        """The main measure of a metric; of people with each other where `metric` is "", which may lack."""
        found = self.scores.of(metric)
        assert found is not None
        return found

    def as_json(self) -> dict[str, Any]:
        """For programs: no NaN, and a reason for each number that is missing."""
        people = self.scores.of("")
        return {
            "judgements": {
                "name": self.scores.name,
                "kind": self.scores.kind,
                "n": self.scores.n_judgements,
                "n_targets": self.scores.n_targets,
                "n_raters": self.scores.n_raters,
                "left_out": self.scores.left_out,
                "notes": self.scores.notes,
            },
            "measure": self.scores.main,
            "ceiling": asdict(people) if people else None,
            "metrics": [
                {
                    "metric": metric,
                    "agreement": asdict(self.agreement(metric)),
                    "galleries": {name: _as_json(of[metric]) for name, of in self.discrimination.items()},
                }
                for metric in self.metrics
            ],
            "pairs": [{**asdict(pair), "verdict": pair.verdict} for pair in self.pairs],
            "correlations": {name: asdict(found) for name, found in self.correlations.items()},
        }


def _as_json(found: Discrimination) -> dict[str, Any]:
    m_ap, auc = (asdict(mean) if mean else None for mean in (found.average_precisions.mean, found.aucs.mean))
    return {"mAP": m_ap, "AUC": auc, "chance": found.chance, "missing": found.missing, "notes": found.notes}


def study(
    judgements: Judgements,
    galleries: Mapping[str, Gallery],
    distances: Sequence[Distance],
    pairs: Sequence[tuple[str, str]],
    resources: Resources,
) -> Study:
    """Hold metrics against people and against identities.

    Args:
        galleries: by the names that they are to be shown under.
        distances: of different specs.
        pairs: specs before and after tuning, both among `distances`.

    Raises:
        Faults: images that cannot be used.
        FinerRankError: what cannot be loaded, or a distance that is not a number.
    """
    measured = {each.spec: distances_of(judgements, each, resources) for each in distances}
    scores = score_distances(judgements, measured)
    found = {
        name: dict(zip(measured, discriminations(gallery, distances, resources), strict=True))
        for name, gallery in galleries.items()
    }
    of_agreement = _corrected([agreement_change(judgements, measured[one], measured[other]) for one, other in pairs])
    of_m_ap, of_auc = (
        {
            name: _corrected([change(getattr(of[one], column), getattr(of[other], column)) for one, other in pairs])
            for name, of in found.items()
        }
        for column in ("average_precisions", "aucs")
    )
    compared = [
        Pair(
            *specs,
            of_agreement[i],
            {name: changes[i] for name, changes in of_m_ap.items()},
            {name: changes[i] for name, changes in of_auc.items()},
        )
        for i, specs in enumerate(pairs)
    ]
    agreement = [result.value if (result := scores.of(metric)) else None for metric in measured]
    correlations = {
        name: rank_correlation(agreement, [mean.value if (mean := each.average_precisions.mean) else None
                                           for each in of.values()])
        for name, of in found.items()
    }  # fmt: skip
    return Study(tuple(measured), scores, found, tuple(compared), correlations)
