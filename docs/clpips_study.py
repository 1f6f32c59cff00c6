"""The study behind the defaults in clpips.md: `python docs/clpips_study.py PHOTOS squeeze TRUNK`, a table on stdout.

Raters are made up, photos and features are real: a rater's distance is the network's differences under weights of their
own, with noise. Each ranks some photos for each of some targets; the tuned distance is held against what they would say
of other targets without noise, as the mean over targets of Spearman's correlation.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmark.distances import Resources
from benchmark.distances.base import Floats
from benchmark.distances.lpips import CHANNELS, published_weights
from benchmark.human_agreement.correlations import spearman_within
from benchmark.store import default_store
from benchmark.tuning.clpips import Settings, measured
from benchmark.tuning.clpips_weights import PER, Per, layers_of, tuned_weights
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


class World(NamedTuple):
    """A rater and what they said. Their targets, `N_RANKED` pictures each, those that are tuned to first, and the last
    `N_HELD_OUT` never tuned to.

    Attributes:
        differences: `[M, ΣC]`.
        truth: `[M]` distances without noise.
        pairs: of those that are tuned to.
    """

    differences: Floats
    truth: Floats
    pairs: Pairs


Fit = Callable[[World], Floats]


def raters(start: Floats, network: str, random: np.random.Generator) -> dict[str, Floats]:
    """Weights of made-up people: LPIPS' own, its layers or its channels weighed otherwise, its first or last layers
    alone, and twenty channels that have nothing to do with LPIPS' weights."""
    layers = list(layers_of(CHANNELS[network]))
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
        worlds = [worlds_of(of, start, settings.network, n, noise, seed) for seed, of in enumerate(by_seed)]
        rows.append(([str(n), f"{noise:g}", "untuned", "", ""], held_out_spearman(worlds, lambda _: start)))
        for per in PER:
            for margin in MARGINS:
                for pull in PULLS:
                    fit = partial(fitted, start, CHANNELS[settings.network], per, margin, pull)
                    cells = [str(n), f"{noise:g}", per, f"{margin:g}", f"{pull:g}"]
                    rows.append((cells, held_out_spearman(worlds, fit)))
    return rows


def fitted(start: Floats, channels: Sequence[int], per: Per, margin: float, pull: float, world: World) -> Floats:
    found = tuned_weights(world.differences, start, channels, world.pairs, per=per, margin=margin, pull=pull).weights
    return start if found is None else found


def worlds_of(differences: Floats, start: Floats, network: str, n: int, noise: float, seed: int) -> list[World]:
    """One for each rater, who ranks the pictures of the first `n` targets."""
    random = np.random.default_rng(seed)
    found = []
    for weights in raters(start, network, random).values():
        truth = differences @ weights
        spread = float(np.sqrt(np.mean([of.var() for of in truth.reshape(-1, N_RANKED)[:n]])))
        said = truth + noise * spread * random.normal(size=len(truth))
        order = np.argsort(said.reshape(-1, N_RANKED)[:n], axis=1) + N_RANKED * np.arange(n)[:, None]
        first, second = np.triu_indices(N_RANKED, 1)
        near, far = order[:, first].ravel(), order[:, second].ravel()
        found.append(World(differences, truth, Pairs(near, far, np.ones(len(near)))))
    return found


def held_out_spearman(worlds: Sequence[Sequence[World]], fit: Fit) -> list[float]:
    """Of each rater, the mean over seeds."""
    group = np.repeat(np.arange(N_HELD_OUT), N_RANKED)
    own = [
        [
            spearman_within(
                group, (of.differences @ fit(of))[-len(group) :], of.truth[-len(group) :], N_HELD_OUT
            ).mean()
            for of in raters_of
        ]
        for raters_of in worlds
    ]
    means: list[float] = np.mean(own, axis=0).tolist()
    return means


def main(folder: str, network: str, trunk: str) -> None:
    photos = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in READABLE_SUFFIXES)
    settings = Settings(network, Path(trunk), size=128)
    with progress_bars() as progress:
        rows = study(photos, settings, Resources(default_store(), None, progress))
    names = list(raters(published_weights(network).numpy().astype(np.float64), network, np.random.default_rng(0)))
    header = ["rankings", "noise", "`--per`", "margin", "pull", *names, "mean"]
    say(f"| {' | '.join(header)} |")
    say("|---" * len(header) + "|")
    for cells, values in rows:
        say(f"| {' | '.join([*cells, *(f'{value:.3f}' for value in [*values, float(np.mean(values))])])} |")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python docs/clpips_study.py PHOTOS squeeze TRUNK")
    main(*sys.argv[1:])
