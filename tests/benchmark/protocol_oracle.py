"""The protocol with the classical embedder, and its scores again by scikit-learn without the store."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from animals import ANIMALS
from PIL import Image
from sklearn.metrics import average_precision_score

from benchmark.embedders import load_embedder
from benchmark.protocol import Evaluation, Options, evaluate
from benchmark.records import Record
from galleries.gallery import Gallery, Photo
from personalization_runs.run import Run


def judge(gallery: Path, *runs: Path, store: Path, **options: Any) -> Evaluation:
    opened = Gallery.open(gallery), [Run.open(run) for run in runs]
    (evaluation,) = evaluate(*opened, [load_embedder("classical:")], store, Options(**options))
    return evaluation


def table(record: Record) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = record.queries.to_pylist()
    return rows


def mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)


def embedded(paths: Sequence[Path]) -> np.ndarray:
    """Unit rows in float64, without the store."""
    rows = load_embedder("classical:").embed([Image.open(path) for path in paths]).astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def ranked(
    query: Path, category: str, photos: Sequence[Photo], leave_out: Callable[[Photo], bool] = lambda photo: False
) -> tuple[list[str], np.ndarray]:
    """The identities of the photos that a query is ranked among, and their similarity to it."""
    pool = [p for p in photos if p.category == category and p.split != "reference" and not leave_out(p)]
    rows = embedded([query, *(photo.path for photo in pool)])
    return [photo.identity for photo in pool], rows[1:] @ rows[0]


def oracle(query: Path, identity: str, photos: Sequence[Photo], *leave_out: Callable[[Photo], bool]) -> float:
    """Average precision by scikit-learn."""
    names, similarity = ranked(query, ANIMALS[identity], photos, *leave_out)
    return float(average_precision_score(np.array(names) == identity, similarity))


def value(evaluation: Evaluation, anchor: str, metric: str = "mAP") -> float:
    aggregate = evaluation.anchors[anchor]
    assert aggregate is not None
    estimate = aggregate[metric]
    assert estimate is not None
    return estimate.value
