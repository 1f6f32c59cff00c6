"""Do embedders agree on which run is better?

A score is a statement about a run and the embedder that judges it. Here the same runs are put in order by several
embedders: how alike the orders are (Kendall's tau-b), and which differences hold under more than one of them. Whatever
is compared, is compared over the identities that all of it share.
"""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.embedders.zoo import SEEN_STATES
from benchmark.statistics import (
    LEVEL,
    N_RESAMPLES,
    SEED,
    Estimate,
    Floats,
    PairedDifference,
    Signs,
    compare_paired,
    holm,
)
from galleries.errors import FinerRankError

if TYPE_CHECKING:
    from benchmark.records import Record

UNKNOWN, UNSEEN = "unknown", "unseen"
"""Of `SEEN_STATES`, which are in the order of what speaks most against a claim."""

DECIMALS = 12
"""Means that agree so far are tied: the rest is rounding, and depends on the order of a sum."""

ALPHA = 0.05
ENOUGH = 2
"""Embedders that have not seen the gallery and must agree before a claim is supported."""

Means = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Embedder → run → identity → mean score over the run's queries of that identity."""


@dataclass(frozen=True)
class NamedEmbedder:
    """An embedder as its records describe it.

    Attributes:
        label: its spec, with the start of its fingerprint where embedders of several fingerprints have that spec.
        gallery_seen: one of `SEEN_STATES`.
    """

    label: str
    spec: str
    fingerprint: str
    gallery_seen: str


@dataclass(frozen=True)
class EmbedderPair:
    """How alike two embedders order the runs that both have judged.

    Attributes:
        tau: Kendall's tau-b in [-1, 1]; None where an embedder gives all of these runs the same mean.
        low: lower bound of the 95 % percentile bootstrap interval over identities; None where there is none: tau is
            undefined, a single identity is shared, or no resample leaves an order.
        high: its upper bound.
        n_runs: runs that both have judged.
        n_identities: identities that all of these runs were asked for, under both.
        n_undefined: resamples that were left out because an embedder ties all runs in them.
    """

    first: str
    second: str
    tau: float | None
    low: float | None
    high: float | None
    n_runs: int
    n_identities: int
    n_undefined: int


@dataclass(frozen=True)
class Place:
    """A run's mean over the identities that all records share, and its rank from 1; tied runs share the best."""

    value: float
    rank: int


@dataclass(frozen=True)
class Verdict:
    """What one embedder says of two runs.

    Attributes:
        difference: mean over their shared identities of (first - second), with its interval.
        sign: 1 if the first is better, -1 if the second is, 0 if they are tied.
        p: two-sided sign-flip permutation test over these identities.
        p_holm: the same, corrected over all pairs of runs under all embedders (Holm 1979).
        smallest_p: the smallest p that so few identities can give.
        is_apart: `p_holm` < 0.05.
    """

    embedder: str
    difference: Estimate
    sign: int
    p: float
    p_holm: float
    smallest_p: float
    is_apart: bool


@dataclass(frozen=True)
class RunPair:
    """Two runs under every embedder that has judged both.

    Attributes:
        n_identities: identities that both were asked for, under each of these embedders.
        is_ordered_differently: an embedder has the first before the second, another the second before the first.
        better: the run of the supported claim "this one is better": at least `ENOUGH` embedders that have not seen
            the gallery tell the two apart with this sign, and none of them tells them apart with the other.
        is_contradicted: embedders that have not seen the gallery tell them apart with opposite signs.
    """

    first: str
    second: str
    n_identities: int
    verdicts: tuple[Verdict, ...]
    is_ordered_differently: bool
    better: str | None
    is_contradicted: bool


@dataclass(frozen=True)
class Agreement:
    """How embedders agree.

    Attributes:
        embedders: their labels, sorted.
        matrix: `[embedder][embedder]` tau-b, symmetric; on the diagonal 1, or None for an embedder that ties all runs.
        embedder_pairs: the same with intervals, each two embedders once.
        places: run → embedder → its place; without the embedders that have not judged it.
        n_identities: how many identities the places are over: those that all records share.
        n_all_identities: how many there are in any record.
        missing: (run, embedder) of which there is no record.
        run_pairs: each two runs that an embedder has judged both.
        n_tests: tests that Holm's correction counts.
    """

    embedders: tuple[str, ...]
    matrix: tuple[tuple[float | None, ...], ...]
    embedder_pairs: tuple[EmbedderPair, ...]
    places: Mapping[str, Mapping[str, Place]]
    n_identities: int
    n_all_identities: int
    missing: tuple[tuple[str, str], ...]
    run_pairs: tuple[RunPair, ...]
    n_tests: int

    @property
    def verdicts(self) -> list[Verdict]:
        return [verdict for pair in self.run_pairs for verdict in pair.verdicts]


def embedders_of(found: Sequence[tuple[Path, "Record"]]) -> dict[str, NamedEmbedder]:
    """The embedders of records by their fingerprint, sorted by label.

    Raises:
        FinerRankError: one embedder alone; one run twice under an embedder; or two runs of the same name.
    """
    runs: dict[str, tuple[Path, object]] = {}
    judged: dict[tuple[str, str], Path] = {}
    by_fingerprint: dict[str, list[Record]] = {}
    for folder, record in found:
        digests = [record.summary["run"].get(key) for key in ("table_sha256", "images_sha256")]
        there, its = runs.setdefault(record.name, (folder, digests))
        if its != digests:
            raise FinerRankError(
                f"{folder}: another run named {record.name!r} than {there}; rename one of them and evaluate it again"
            )
        fingerprint = record.summary["embedder"]["fingerprint"]
        there = judged.setdefault((record.name, fingerprint), folder)
        if there != folder:
            raise FinerRankError(
                f"two records are of the run {record.name!r} under {record.embedder}, {there} and {folder}; "
                "name each run once"
            )
        by_fingerprint.setdefault(fingerprint, []).append(record)
    if len(by_fingerprint) < 2:
        raise FinerRankError(
            f"all records are of the embedder {found[0][1].embedder}; name those of another one too, or leave --by out"
        )
    specs = {fingerprint: min(record.embedder for record in of) for fingerprint, of in by_fingerprint.items()}
    embedders = []
    for fingerprint, of in by_fingerprint.items():
        alike = [other for other, spec in specs.items() if spec == specs[fingerprint]]
        digits = 6
        while len({other[:digits] for other in alike}) < len(alike):
            digits += 1
        label = specs[fingerprint] + (f" #{fingerprint[:digits]}" if len(alike) > 1 else "")
        # Older records do not say; beside newer ones, what speaks most against a claim counts.
        said = [record.summary["embedder"].get("gallery_seen", UNKNOWN) for record in of]
        state = next((state for state in SEEN_STATES if state in said), UNKNOWN)
        embedders.append(NamedEmbedder(label, specs[fingerprint], fingerprint, state))
    return {embedder.fingerprint: embedder for embedder in sorted(embedders, key=lambda embedder: embedder.label)}


def networks_of(embedders: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Embedders that share weights are one network, however it is prepared, rounded, or combined with others.

    Args:
        embedders: label → its description in a record.

    Returns:
        label → label of the first embedder that shares weights with it.
    """
    weights = {
        label: {part.get("weights_sha256", label) for part in own.get("members", [own])}
        for label, own in embedders.items()
    }
    found = {label: label for label in sorted(weights)}
    for first, second in itertools.combinations(sorted(weights), 2):
        if weights[first] & weights[second]:
            low, high = sorted((found[first], found[second]))
            found = {label: low if of == high else of for label, of in found.items()}
    return found


def encoder_agreement(
    means: Means, unseen: Collection[str], networks: Mapping[str, str] = MappingProxyType({})
) -> Agreement:
    """Compare the orders in which embedders put runs. The result does not depend on the order of anything given.

    Args:
        means: embedder → run → identity → mean score, finite.
        unseen: the embedders that have not seen the gallery; they alone support a claim.
        networks: embedder → its network (`networks_of`): two embedders of one network support a claim but once.

    Raises:
        ValueError: fewer than two embedders, two of them that share fewer than two runs, or no identity that is
            shared by all.
    """
    embedders = sorted(means)
    if len(embedders) < 2:
        raise ValueError("there is one embedder")
    every = [of for by_run in means.values() for of in by_run.values()]
    shared = _shared(every)
    for first, second in itertools.combinations(embedders, 2):
        runs = means[first].keys() & means[second].keys()
        if len(runs) < 2:
            raise ValueError(f"{first} and {second} share {'one run' if runs else 'no run'}; an order needs two")
    if not shared:
        raise ValueError("no identity is shared by all records")
    pairs = tuple(embedder_pairs({embedder: means[embedder] for embedder in embedders}))
    places = _places(means, shared)
    tau = {frozenset((pair.first, pair.second)): pair.tau for pair in pairs}
    for embedder in embedders:
        own = [of[embedder].value for of in places.values() if embedder in of]
        tau[frozenset((embedder,))] = kendall_tau_b(own, own)
    run_pairs = _run_pairs(means, unseen, networks)
    return Agreement(
        embedders=tuple(embedders),
        matrix=tuple(tuple(tau[frozenset((row, column))] for column in embedders) for row in embedders),
        embedder_pairs=pairs,
        places=places,
        n_identities=len(shared),
        n_all_identities=len(set().union(*every)),
        missing=tuple((run, embedder) for run in places for embedder in embedders if run not in means[embedder]),
        run_pairs=run_pairs,
        n_tests=sum(len(pair.verdicts) for pair in run_pairs),
    )


def kendall_tau_b(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b of two scores of the same things, in [-1, 1] (Kendall 1945, "The treatment of ties").

    (concordant − discordant pairs) / √(pairs not tied in the first · pairs not tied in the second). None, where one of
    the two ties everything: 0/0, not 0, for it says nothing of the other. Values that agree to `DECIMALS` are tied.

    >>> kendall_tau_b([0.1, 0.2, 0.3], [0.4, 0.6, 0.5])
    0.3333333333333333
    >>> kendall_tau_b([0.1, 0.2, 0.3], [0.5, 0.5, 0.5]) is None
    True
    """
    (tau,) = _tau_b_of_rows(np.array([first], dtype=np.float64), np.array([second], dtype=np.float64))
    return None if math.isnan(tau) else float(tau)


def tau_interval(first: Floats, second: Floats) -> tuple[float | None, float | None, int]:
    """95 % percentile bootstrap interval over identities of the tau-b of two embedders.

    Each resample draws identities once, for all runs and both embedders. Resamples in which an embedder ties all
    runs have no tau-b and are left out.

    Args:
        first: `[runs, identities]`, mean scores under one embedder.
        second: `[runs, identities]`, those under the other.

    Returns:
        The bounds, None if there are fewer than two identities or nothing is left, and how many were left out.
    """
    return _tau_intervals([first, second], [(0, 1)])[0, 1]


def _tau_intervals(
    scores: Sequence[Floats], pairs: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], tuple[float | None, float | None, int]]:
    """`tau_interval` of pairs of embedders, which share what is drawn; `scores` are all of the same shape."""
    n_runs, n = scores[0].shape
    if n < 2:
        return dict.fromkeys(pairs, (None, None, 0))
    rng = np.random.default_rng(SEED)
    draws: dict[tuple[int, int], list[Floats]] = {pair: [] for pair in pairs}
    step = max(1, min(N_RESAMPLES, 4_000_000 // (n_runs * max(n, n_runs))))
    for start in range(0, N_RESAMPLES, step):
        weights = rng.multinomial(n, [1 / n] * n, size=min(step, N_RESAMPLES - start))
        # Not a matrix product: its last bits depend on the number of threads.
        orders = [_order_of_rows((weights[:, None, :] * own).sum(axis=2) / n) for own in scores]
        for first, second in pairs:
            draws[first, second].append(_tau_b_of_orders(orders[first], orders[second]))
    return {pair: _bounds(np.concatenate(own)) for pair, own in draws.items()}


def _bounds(taus: Floats) -> tuple[float | None, float | None, int]:
    defined = taus[~np.isnan(taus)]
    if len(defined) == 0:
        return None, None, N_RESAMPLES
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high), N_RESAMPLES - len(defined)


def _tau_b_of_rows(first: Floats, second: Floats) -> Floats:
    """`[rows]` tau-b of each row of `first` with that of `second`, both `[rows, runs]`; NaN where undefined."""
    return _tau_b_of_orders(_order_of_rows(first), _order_of_rows(second))


def _order_of_rows(scores: Floats) -> tuple[Signs, Floats]:
    """Of each row of `[rows, runs]`: the sign of the difference of each two runs, and how many are not tied."""
    one, other = np.triu_indices(scores.shape[1], k=1)
    rounded = scores.round(DECIMALS)
    signs = np.sign(rounded[:, one] - rounded[:, other]).astype(np.int8)
    return signs, np.count_nonzero(signs, axis=1).astype(np.float64)


def _tau_b_of_orders(first: tuple[Signs, Floats], second: tuple[Signs, Floats]) -> Floats:
    agreement = (first[0] * second[0]).sum(axis=1, dtype=np.int64)
    with np.errstate(divide="ignore", invalid="ignore"):
        tau: Floats = agreement / np.sqrt(first[1] * second[1])
    return tau


def embedder_pairs(means: Means) -> list[EmbedderPair]:
    """How alike each two embedders order the runs that both have judged; without those that share fewer than two."""
    alike: dict[tuple[tuple[str, ...], tuple[str, ...]], list[tuple[str, str]]] = {}
    place: dict[tuple[str, str], int] = {}
    for first, second in itertools.combinations(means, 2):
        runs = sorted(means[first].keys() & means[second].keys())
        if len(runs) >= 2:
            identities = _shared([means[embedder][run] for embedder in (first, second) for run in runs])
            alike.setdefault((tuple(runs), tuple(identities)), []).append((first, second))
            place[first, second] = len(place)
    found = []
    for (runs_of, identities_of), pairs in alike.items():
        names = sorted({name for pair in pairs for name in pair})
        scores = [np.array([[means[name][run][i] for i in identities_of] for run in runs_of]) for name in names]
        values = [[_mean(row) for row in own.tolist()] for own in scores]
        at = {name: i for i, name in enumerate(names)}
        taus = {(at[a], at[b]): kendall_tau_b(values[at[a]], values[at[b]]) for a, b in pairs}
        intervals = _tau_intervals(scores, [pair for pair, tau in taus.items() if tau is not None])
        for first, second in pairs:
            pair = at[first], at[second]
            low, high, n_undefined = intervals.get(pair, (None, None, 0))
            sizes = len(runs_of), len(identities_of)
            found.append(EmbedderPair(first, second, taus[pair], low, high, *sizes, n_undefined))
    return sorted(found, key=lambda pair: place[pair.first, pair.second])


def _places(means: Means, identities: Sequence[str]) -> dict[str, dict[str, Place]]:
    values = {
        embedder: {run: _mean([of[identity] for identity in identities]) for run, of in by_run.items()}
        for embedder, by_run in means.items()
    }
    places: dict[str, dict[str, Place]] = {}
    for run in sorted({run for by_run in means.values() for run in by_run}):
        places[run] = {}
        for embedder in sorted(means):
            if run in values[embedder]:
                value = values[embedder][run]
                better = [other for other in values[embedder].values() if _sign(other - value) > 0]
                places[run][embedder] = Place(value, 1 + len(better))
    return places


def _run_pairs(means: Means, unseen: Collection[str], networks: Mapping[str, str]) -> tuple[RunPair, ...]:
    tested: dict[tuple[str, str], dict[str, PairedDifference]] = {}
    for pair in itertools.combinations(sorted({run for by_run in means.values() for run in by_run}), 2):
        judges = [embedder for embedder in sorted(means) if means[embedder].keys() >= set(pair)]
        both = {embedder: [means[embedder][run] for run in pair] for embedder in judges}
        identities = _shared([of for each in both.values() for of in each])
        for embedder, each in both.items():
            restricted = {run: {i: of[i] for i in identities} for run, of in zip(pair, each, strict=True)}
            ((difference,), _) = compare_paired(restricted)
            tested.setdefault(pair, {})[embedder] = difference
    # One family, all that is listed: what is picked from the list afterwards is covered too.
    adjusted = iter(holm([difference.p for of in tested.values() for difference in of.values()]))
    found = []
    for pair, of in tested.items():
        verdicts = []
        for embedder, difference in of.items():
            p = next(adjusted)
            sign = _sign(difference.difference.value)
            verdicts.append(
                Verdict(embedder, difference.difference, sign, difference.p, p, difference.smallest_p, p < ALPHA)
            )
        n_identities = next(iter(of.values())).n_identities
        signs = {verdict.sign for verdict in verdicts}
        witnesses = [verdict for verdict in verdicts if verdict.is_apart and verdict.embedder in unseen]
        heard = [verdict.sign for verdict in witnesses]
        better = None
        if len({networks.get(w.embedder, w.embedder) for w in witnesses}) >= ENOUGH and len(set(heard)) == 1:
            better = pair[0] if heard[0] > 0 else pair[1]
        found.append(RunPair(*pair, n_identities, tuple(verdicts), signs >= {-1, 1}, better, set(heard) >= {-1, 1}))
    return tuple(found)


def _shared(means: Sequence[Mapping[str, float]]) -> list[str]:
    """The identities that all of these have, sorted."""
    return sorted(set.intersection(*map(set, means))) if means else []


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _sign(difference: float) -> int:
    rounded = round(difference, DECIMALS)
    return (rounded > 0) - (rounded < 0)
