"""Does a score follow identity? Scores of simulated models whose loss of identity is known, by any embedder.

In a world of drawn animals each simulated model has moved the details of every individual by a known share, its
*drift*. A score that is to stand for identity must fall with it, and tell a small drift from none.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from benchmark.embed import Progress
from benchmark.embedders import Embedder, published_spec
from benchmark.protocol import Options, evaluate
from benchmark.records import Record
from benchmark.statistics import LEVEL, N_RESAMPLES, SEED, Estimate, holm, sign_flip_p
from benchmark.store import Root
from galleries.critters import GROUPS
from galleries.critters.drawn_gallery import Plan, draw_gallery, individuals_of
from galleries.errors import FinerRankError
from galleries.gallery import Gallery
from personalization_runs.run import Run
from personalization_runs.simulate import Failure, SimulatedModel, simulate

Floats = npt.NDArray[np.float64]

METRICS = ("pairwise similarity", "mAP", "AUC", "rank_1", "retention")
ALPHA = 0.05
POWER = 0.8
"""Share of samples of identities in which a drift that counts as told apart is found."""
N_SAMPLES = 400


@dataclass(frozen=True)
class Response:
    """How one score answers to drift.

    Attributes:
        values: mean score over identities at each level of drift.
        spearman: correlation of drift and mean score, -1 where the score always falls; None where it is constant.
        n_down: steps between neighbouring levels at which it falls, of one fewer than there are levels.
        change: (score at full drift - score at none) / |score at none|; None where the latter is 0.
        told_apart_from: the smallest drift from which on every level differs from none (sign-flip test over identities,
            Holm over levels); None where even full drift does not.
        told_apart_with: number of identities → the smallest drift from which on every level is told from none
            (paired t-test at 95 %) in 80 % of samples of so many of the identities.
    """

    metric: str
    values: tuple[Estimate, ...]
    spearman: Estimate | None
    n_down: int
    change: Estimate | None
    told_apart_from: float | None
    told_apart_with: Mapping[int, float | None]


@dataclass(frozen=True)
class Reaction:
    """How one score answers to a failure, against the faithful model.

    Attributes:
        difference: mean over identities of (failing - faithful).
        p: two-sided sign-flip test over identities, Holm over the failures.
    """

    metric: str
    failure: str
    value: Estimate
    difference: Estimate
    p: float

    @property
    def verdict(self) -> str:
        """`wins` where the failing model scores above the faithful one, `loses` below, `tied` where neither is told."""
        if self.p >= ALPHA:
            return "tied"
        return "wins" if self.difference.value > 0 else "loses"


def identity_scores(record: Record) -> dict[str, dict[str, float]]:
    """Of each metric, each identity's mean over its images."""
    similarity = f"similarity_to_{_similarity_to(record)}"
    columns = {"pairwise similarity": similarity, "mAP": "average_precision", "AUC": "auc", "rank_1": "rank_1"}
    scores = {metric: record.identity_means(column) for metric, column in columns.items()}
    anchors = record.summary["matched_anchors"]
    low, high = anchors["chance"], anchors["held_out"]
    if low is not None and high is not None and high > low:  # else the encoder tells nobody apart
        scores["retention"] = {identity: (value - low) / (high - low) for identity, value in scores["mAP"].items()}
    return scores


def _similarity_to(record: Record) -> str:
    return str(record.summary["pairwise_similarity"]["to"])


def responses(levels: Sequence[float], records: Sequence[Record], sizes: Sequence[int] = ()) -> list[Response]:
    """How each score answers to drift.

    Args:
        levels: drift of each record, rising, the first of them 0.
        sizes: numbers of identities for `Response.told_apart_with`.
    """
    found = []
    scores = [identity_scores(record) for record in records]
    for metric in METRICS:
        own = [of.get(metric, {}) for of in scores]
        identities = sorted(set.intersection(*(set(of) for of in own)))
        if identities:
            table = np.array([[of[identity] for identity in identities] for of in own])
            found.append(_response(metric, np.array(levels), table, sizes))
    return found


def reactions(faithful: Record, failing: Mapping[str, Record]) -> list[Reaction]:
    """How each score answers to each failure."""
    found = []
    base = identity_scores(faithful)
    scores = {failure: identity_scores(record) for failure, record in failing.items()}
    for metric in METRICS:
        tested = []
        for failure, of in scores.items():
            if metric == "pairwise similarity" and _similarity_to(failing[failure]) != _similarity_to(faithful):
                continue  # to other photos: another number
            shared = sorted(base.get(metric, {}).keys() & of.get(metric, {}).keys())
            if shared:
                values = np.array([of[metric][identity] for identity in shared])
                differences = values - np.array([base[metric][identity] for identity in shared])
                tested.append((failure, values, differences, sign_flip_p(differences)))
        corrected = holm([p for *_, p in tested])
        for (failure, values, differences, _), p in zip(tested, corrected, strict=True):
            found.append(Reaction(metric, failure, _mean(values), _mean(differences), p))
    return found


def _response(metric: str, levels: Floats, table: Floats, sizes: Sequence[int]) -> Response:
    """`table`: `[L, I]` scores of identities at each level."""
    means = table.mean(axis=1)
    draws = _resampled(table)
    differences = table - table[0]
    p_values = holm([sign_flip_p(row) for row in differences[1:]])
    return Response(
        metric,
        tuple(_mean(row) for row in table),
        _estimate(_spearman(levels, means[None])[0], _spearman(levels, draws)),
        int(np.count_nonzero(np.diff(means) < 0)),
        _relative_change(means, draws),
        _from_where_on(levels[1:], np.array(p_values) < ALPHA),
        {n: _told_apart_with(levels, differences, n) for n in sizes if 3 <= n <= table.shape[1]},
    )


def _mean(values: Floats) -> Estimate:
    estimate = _estimate(float(values.mean()), _resampled(values[None])[:, 0])
    return estimate or Estimate(float(values.mean()), None, None)


def _resampled(table: Floats) -> Floats:
    """`[N_RESAMPLES, L]` means over identities drawn with replacement, the same ones at every level."""
    n = table.shape[1]
    weights = np.random.default_rng(SEED).multinomial(n, [1 / n] * n, size=N_RESAMPLES) / n
    return np.stack([(weights * row).sum(axis=1) for row in table], axis=1)


def _spearman(levels: Floats, means: Floats) -> Floats:
    """Of each row of `means` `[R, L]`; NaN where it is constant."""
    from scipy.stats import rankdata

    # Rounding must not put equal means in an order.
    ranks = rankdata(np.round(means, 12), axis=1)
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    of_levels = rankdata(levels) - (len(levels) + 1) / 2
    with np.errstate(invalid="ignore"):
        found: Floats = (ranks * of_levels).sum(axis=1) / np.sqrt((ranks**2).sum(axis=1) * (of_levels**2).sum())
    return found


def _relative_change(means: Floats, draws: Floats) -> Estimate | None:
    if means[0] == 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        changes = (draws[:, -1] - draws[:, 0]) / np.abs(draws[:, 0])
    return _estimate((means[-1] - means[0]) / abs(means[0]), changes)


def _estimate(value: float, draws: Floats) -> Estimate | None:
    draws = draws[np.isfinite(draws)]
    if not math.isfinite(value):
        return None
    if not len(draws):
        return Estimate(float(value), None, None)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(low), float(high))


def _from_where_on(levels: Floats, is_found: npt.NDArray[np.bool_]) -> float | None:
    """The smallest level from which on every level is found."""
    from_here = np.logical_and.accumulate(is_found[::-1])[::-1]
    return float(levels[int(np.argmax(from_here))]) if from_here.any() else None


def _told_apart_with(levels: Floats, differences: Floats, n: int) -> float | None:
    from scipy.stats import t

    rng = np.random.default_rng([SEED, n])
    chosen = np.stack([rng.choice(differences.shape[1], size=n, replace=False) for _ in range(N_SAMPLES)])
    samples = differences[1:, chosen]  # [L - 1, N_SAMPLES, n]
    spread = samples.std(axis=2, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.abs(samples.mean(axis=2)) / (spread / math.sqrt(n))
    power = np.mean(statistic > t.ppf(1 - ALPHA / 2, n - 1), axis=1)
    return _from_where_on(levels[1:], power >= POWER)


@dataclass(frozen=True)
class World:
    """A drawn gallery, and runs of simulated models on it.

    Attributes:
        levels: drift of each of `drifting`, rising from 0 to 1.
        partial: name of a kind of drift → run at full drift of that kind alone.
    """

    gallery: Gallery
    levels: tuple[float, ...]
    drifting: tuple[Run, ...]
    partial: Mapping[str, Run]
    failing: Mapping[str, Run]


@dataclass(frozen=True)
class Calibration:
    """What an embedder makes of a world.

    Attributes:
        reactions: to failures, and to full drift of one kind of detail alone.
    """

    embedder: str
    fingerprint: str
    levels: tuple[float, ...]
    responses: tuple[Response, ...]
    reactions: tuple[Reaction, ...]

    def as_json(self) -> dict[str, Any]:
        """For `calibration.json`."""
        verdicts = [{**asdict(reaction), "verdict": reaction.verdict} for reaction in self.reactions]
        return {**asdict(self), "reactions": verdicts}


def make_world(
    folder: Path,
    gallery: Gallery | Plan,
    *,
    n_images: int,
    n_levels: int,
    seed: int,
    size_px: int,
    progress: Progress | None = None,
) -> World:
    """Draw runs of a gallery of critters, or open those that lie in `folder`; what is missing is drawn.

    Args:
        gallery: or the plan of one that is drawn too.
        n_images: of each individual by each model.
        seed, size_px: of the runs.

    Raises:
        FinerRankError: not a gallery of critters, `folder` holds a world of other numbers, or cannot be written.
    """
    drawn_with: dict[str, Any] = {"n_images": n_images, "seed": seed, "size_px": size_px}
    if isinstance(gallery, Plan):
        drawn_with |= {**asdict(gallery), "source": gallery.source}
    else:
        individuals_of(gallery.card)  # before anything is written
        drawn_with |= {"gallery": gallery.digest}
    note = folder / "world.json"
    if note.is_file() and json.loads(note.read_text(encoding="utf-8")) != drawn_with:
        raise FinerRankError(f"{folder}: a world of other numbers lies there; name another --out")
    if not note.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(drawn_with), encoding="utf-8")
    workers = os.cpu_count() or 1
    if isinstance(gallery, Plan):
        own = folder / "gallery"
        if not own.is_dir():
            step = progress("drawing the gallery", gallery.total) if progress else None
            draw_gallery(gallery, own, "critters", workers=workers, step=step)
        gallery = Gallery.open(own)
    levels = tuple(i / (n_levels - 1) for i in range(n_levels))
    models = {f"drift-{level:.4f}": SimulatedModel(drift=level) for level in levels}
    models |= {f"{group} alone": SimulatedModel(drift=1.0, groups=(group,)) for group in GROUPS}
    models |= {"toward the mean": SimulatedModel(drift=1.0, toward="mean")}
    models |= {failure: SimulatedModel(failure=failure) for failure in get_args(Failure) if failure}
    step = progress("drawing runs", len(models)) if progress else None
    runs = {}
    for name, model in models.items():
        out = folder / "runs" / name.replace(" ", "-")
        options: dict[str, Any] = {"n_images": n_images, "seed": seed, "size_px": size_px, "workers": workers}
        runs[name] = Run.open(out) if out.is_dir() else simulate(gallery, model, out, name, **options)
        if step:
            step(1)
    names = list(runs)
    partial = {name: runs[name] for name in names if name.endswith(" alone") or name == "toward the mean"}
    failing = {name: run for name, run in runs.items() if name in get_args(Failure)}
    return World(gallery, levels, tuple(runs[name] for name in names[:n_levels]), partial, failing)


def calibrations(
    world: World,
    embedders: Sequence[Embedder],
    store: Root,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None],
) -> list[Calibration]:
    """Judge a world by each embedder.

    Raises:
        FinerRankError: an embedder that cannot be loaded.
    """
    others = {**world.partial, **world.failing}
    runs = [*world.drifting, *others.values()]
    options = Options(batch_size=batch_size)
    n = len(world.gallery.category_of)
    sizes = sorted({size for size in (5, 10, 20, 50) if size < n} | {n})
    found = []
    for evaluation, embedder in zip(
        evaluate(world.gallery, runs, embedders, store, options, progress, warn), embedders, strict=True
    ):
        records = {record.name: record for record in evaluation.records}
        drifting = [records[run.card.model] for run in world.drifting]
        reacting = {name: records[run.card.model] for name, run in others.items()}
        found.append(
            Calibration(
                published_spec(embedder.spec),
                embedder.fingerprint,
                world.levels,
                tuple(responses(world.levels, drifting, sizes)),
                tuple(reactions(drifting[0], reacting)),
            )
        )
    return found
