"""The study behind CLPIPS' defaults: `python -m benchmark.tuning.clpips_study PHOTOS squeeze [TRUNK FILE]`.

Raters are made up, photos and features are real: a rater's distance is the network's differences under weights of their
own, with noise. Each ranks some photos for each of some targets; the tuned distance is held against what they would say
of other targets without noise, as the mean over targets of Spearman's correlation.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmark.distances import Resources
from benchmark.distances.base import Floats
from benchmark.distances.lpips import published_weights
from benchmark.human_agreement.correlations import Ints, spearman_within
from benchmark.store import default_store
from benchmark.tuning.clpips import PER, Settings, layers_of, measured, tuned_weights
from benchmark.tuning.margin_ranking import Pairs
from galleries.console import progress_bars, say
from galleries.images import READABLE_SUFFIXES

N_RANKED = 8
N_HELD_OUT = 20
CASES = ((12, 0.5), (12, 1.5), (40, 1.0))
"""Rankings that are tuned to, and noise in standard deviations of a target's distances."""
MARGINS = (0.1, 0.3, 1.0)
PULLS = (0.001, 0.01, 0.1)
N_SEEDS = 5


def raters(start: Floats, network: str, random: np.random.Generator) -> dict[str, Floats]:
    """Weights of made-up people: LPIPS' own, its layers or its channels weighed otherwise, its first or last layers
    alone, and twenty channels that have nothing to do with LPIPS' weights."""
    layers = list(layers_of(network))
    of_layer = np.concatenate([np.full(some.stop - some.start, i) for i, some in enumerate(layers)])
    few = np.zeros(len(start))
    few[random.choice(len(start), 20, replace=False)] = 1.0
    return {
        "LPIPS": start,
        "layers": start * np.exp(random.normal(size=len(layers)))[of_layer],
        "channels": start * np.exp(1.5 * random.normal(size=len(start))),
        "first layers": start * (of_layer < 2),
        "last layers": start * (of_layer >= len(layers) - 2),
        "20 channels": few,
    }


def study(photos: Sequence[Path], settings: Settings, resources: Resources) -> list[tuple[list[str], list[float]]]:
    """Rows of a table: what was tuned and how, and the mean over seeds of each rater's held-out Spearman."""
    start = published_weights(settings.network).numpy().astype(np.float64)
    asked: list[list[tuple[Path, Path]]] = []
    for seed in range(N_SEEDS):
        random = np.random.default_rng(seed)
        targets = random.choice(len(photos), max(n for n, _ in CASES) + N_HELD_OUT, replace=False)
        others = [random.choice(np.delete(np.arange(len(photos)), t), N_RANKED, replace=False) for t in targets]
        asked.append([(photos[t], photos[i]) for t, of in zip(targets, others, strict=True) for i in of])
    differences = measured([pair for of in asked for pair in of], settings, resources, "cpu")[1]
    by_seed = np.split(differences, N_SEEDS)
    rows = []
    for n, noise in CASES:
        worlds = [_world(of, start, settings.network, n, noise, seed) for seed, of in enumerate(by_seed)]
        rows.append(([str(n), f"{noise:g}", "untuned", "", ""], _mean(worlds, lambda *_: start)))
        for per in PER:
            for margin in MARGINS:
                for pull in PULLS:
                    tuned = Settings(settings.network, settings.trunk, per, None, margin, pull, size=settings.size)

                    def fit(of: Floats, pairs: Pairs, tuned: Settings = tuned) -> Floats:
                        found = tuned_weights(of, start, tuned, pairs)
                        return start if found is None else found

                    rows.append(([str(n), f"{noise:g}", per, f"{margin:g}", f"{pull:g}"], _mean(worlds, fit)))
    return rows


def _world(differences: Floats, start: Floats, network: str, n: int, noise: float, seed: int):  # type: ignore[no-untyped-def]
    random = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(differences) // N_RANKED), N_RANKED)
    held_out = group >= group.max() + 1 - N_HELD_OUT
    found = []
    for weights in raters(start, network, random).values():
        truth = differences @ weights
        spread = float(np.sqrt(np.mean([truth[group == g].var() for g in range(n)])))
        said = truth + noise * spread * random.normal(size=len(truth))
        found.append((differences, truth, _pairs(said, group, n), group, held_out))
    return found


def _pairs(said: Floats, group: Ints, n: int) -> Pairs:
    near, far = [], []
    for g in range(n):
        order = np.flatnonzero(group == g)[np.argsort(said[group == g])]
        first, second = np.triu_indices(N_RANKED, 1)
        near.append(order[first])
        far.append(order[second])
    return Pairs(np.concatenate(near), np.concatenate(far), np.ones(n * N_RANKED * (N_RANKED - 1) // 2))


def _mean(worlds, fit) -> list[float]:  # type: ignore[no-untyped-def]
    found = []
    for raters_of in worlds:
        own = []
        for differences, truth, pairs, group, held_out in raters_of:
            distances = differences @ fit(differences, pairs)
            group = np.unique(group[held_out], return_inverse=True)[1]
            own.append(spearman_within(group, distances[held_out], truth[held_out], N_HELD_OUT).mean())
        found.append(own)
    return np.mean(found, axis=0).tolist()  # type: ignore[no-any-return]


def main(folder: str, network: str, trunk: str | None = None) -> None:
    photos = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in READABLE_SUFFIXES)
    settings = Settings(network, Path(trunk) if trunk else None, size=128)
    with progress_bars() as progress:
        rows = study(photos, settings, Resources(default_store(), None, progress))
    names = list(raters(published_weights(network).numpy().astype(np.float64), network, np.random.default_rng(0)))
    say(" | ".join(["rankings", "noise", "per", "margin", "pull", *names, "mean"]))
    for cells, values in rows:
        say(" | ".join([*cells, *(f"{value:.3f}" for value in [*values, float(np.mean(values))])]))


if __name__ == "__main__":
    main(*sys.argv[1:])
