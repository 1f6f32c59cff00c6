"""The pairs of images that judgements are about, and how far apart a distance holds them."""

from pathlib import Path

import numpy as np

from benchmark.distances import Distance, Resources
from benchmark.distances.base import Floats
from benchmark.human_judgements.judgements import Judgements, Kind

COMPARED: dict[Kind, tuple[tuple[int, int], ...]] = {
    "2afc": ((0, 1), (0, 2)),
    "jnd": ((0, 1),),
    "odd-one-out": ((0, 1), (0, 2), (1, 2)),
    "ranking": ((0, 1),),
    "rating": ((0, 1),),
}
"""Places in a judgement's `images` whose distances it needs."""


def distances_of(judgements: Judgements, distance: Distance, resources: Resources) -> Floats:
    """`[rows, K]` float64: for each judgement the distances of its pairs, in the order of `COMPARED`. Each distinct
    pair is measured once.

    Raises:
        Faults: images that cannot be used; all of them.
    """
    sides = COMPARED[judgements.kind]
    wanted = [(row.images[i], row.images[j]) for row in judgements.rows for i, j in sides]
    place: dict[tuple[Path, Path], int] = {}
    for pair in wanted:
        place.setdefault(pair, len(place))
    measured = distance.of_pairs(list(place), resources)
    indices = np.array([place[pair] for pair in wanted], dtype=np.intp).reshape(-1, len(sides))
    found: Floats = measured[indices]
    return found
