"""How many dimensions of an embedding people's choices need: 2AFC against principal components (DreamSim, Table 8).

Principal components are fitted on images other than those judged. Distances of projections are Euclidean: between unit
rows the squared one is 2 - 2 · cosine, so that with all dimensions the choices are those of the embedder's own
distance; and neither the sign of a component nor the mean that was subtracted has any influence.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.distances.base import Floats, Resources
from benchmark.distances.embeddings import cosine_distances
from benchmark.embed import EmbeddedFiles, embed_files
from benchmark.embedders import Embedder
from benchmark.human_agreement.measures import two_afc_scores
from benchmark.human_judgements.judgements import Judgement
from benchmark.perception.triplets import MIN_TARGETS
from benchmark.statistics import Estimate, estimate_mean
from galleries.errors import FinerRankError

N_FOLDS = 5
ROUNDING = 1e-6
"""Singular values below this share of the largest are rounding of float32 rows."""
AT_ONCE = 2048


@dataclass(frozen=True)
class Step:
    """Agreement with so many dimensions.

    Attributes:
        n_kept: principal components; None for the embedding as it is.
        variance: share of the variance of the fitted images that they hold, in (0, 1]; mean over folds.
        score: 2AFC in [0, 1], with its interval over targets.
        against_all: its difference to that of the embedding as it is; paired, so that the interval is narrower.
    """

    n_kept: int | None
    variance: float
    score: Estimate
    against_all: Estimate


@dataclass(frozen=True)
class Dimensions:
    """2AFC of an embedder against the number of dimensions.

    Attributes:
        fitted_on: what the components were fitted on, in words.
        n_fitted: distinct embeddings that they were fitted on; the fewest of any fold.
    """

    embedder: str
    fingerprint: str
    n_dimensions: int
    fitted_on: str
    n_fitted: int
    n_triplets: int
    n_targets: int
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Folds:
    """Which triplets are judged under which images.

    Attributes:
        rows: all that are judged.
        fold_of: `[rows]`: the place in `fitted` of what each is judged under.
        fitted: of each fold, images of which none stands in a triplet judged under them.
        described: what they are, in words.
    """

    rows: tuple[Judgement, ...]
    fold_of: npt.NDArray[np.intp]
    fitted: tuple[tuple[Path, ...], ...]
    described: str


def folds_of(rows: Sequence[Judgement], other_images: Iterable[Path] = (), split: str = "") -> Folds:
    """What to judge, and what to fit on: other images where they are given; the images of the split `train` where the
    data have one, and the triplets of all other splits are judged; else the images of other targets, in five folds.

    Args:
        other_images: to fit on.
        split: judge those of this split alone.

    Raises:
        FinerRankError: nothing of that split, or all that is left to judge is about one target.
    """
    others = tuple(other_images)
    judged = [row for row in rows if row.split == split] if split else list(rows)
    is_train = [row.split == "train" for row in rows]
    by_split = not others and split != "train" and any(is_train) and not all(is_train)
    if by_split:
        judged = [row for row in judged if row.split != "train"]
    if len({row.target for row in judged}) < MIN_TARGETS:
        what = f"{len(judged)} triplets{f' of the split {split}' if split else ''} are to be judged"
        raise FinerRankError(f"{what}; intervals are over targets: give triplets about {MIN_TARGETS} targets or more")
    if others:
        return _one_fold(judged, others, "the images given")
    if by_split:
        train = [path for row, is_own in zip(rows, is_train, strict=True) if is_own for path in row.images]
        return _one_fold(judged, train, "the images of the split train")
    rows = judged
    targets = sorted({row.target for row in rows})
    n_folds = min(N_FOLDS, len(targets))
    number = {target: i % n_folds for i, target in enumerate(targets)}
    fold_of = np.array([number[row.target] for row in rows], dtype=np.intp)
    fitted = []
    for fold in range(n_folds):
        own = {path for row in rows if number[row.target] == fold for path in row.images}
        fitted.append(tuple(sorted({path for row in rows for path in row.images} - own)))
    return Folds(tuple(rows), fold_of, tuple(fitted), f"the images of other targets, in {n_folds} folds")


def _one_fold(judged: Sequence[Judgement], fitted: Iterable[Path], described: str) -> Folds:
    own = {path for row in judged for path in row.images}
    return Folds(tuple(judged), np.zeros(len(judged), dtype=np.intp), (tuple(sorted(set(fitted) - own)),), described)


def measure_dimensions(folds: Folds, embedder: Embedder, resources: Resources) -> Dimensions:
    """2AFC with 1, 2, 4, … principal components, all that there are, and the embedding as it is.

    Raises:
        Faults: images that cannot be used; all of them.
        FinerRankError: too few images to fit on, or an embedder that tells none of them apart.
    """
    paths = {path for row in folds.rows for path in row.images} | {path for own in folds.fitted for path in own}
    embedded = embed_files(
        sorted(paths), embedder, resources.store, batch_size=resources.batch_size, progress=resources.progress,
        warn=resources.warn,
    )  # fmt: skip
    bases = [_fitted(own, folds, fold, embedded, embedder) for fold, own in enumerate(folds.fitted)]
    n_dimensions = int(embedded.rows.shape[1])
    rank = min(len(basis.components) for basis in bases)
    powers = [2**i for i in range(rank.bit_length()) if 2**i < rank]
    kept = [*powers, *([rank] if rank < n_dimensions else [])]
    share_b = np.array([row.answer for row in folds.rows])
    targets = [row.target for row in folds.rows]
    to_a, to_b = _projected_distances(folds, bases, embedded, kept)
    places = [np.array([embedded.row_of[row.images[i]] for row in folds.rows], dtype=np.intp) for i in range(3)]
    own_a, own_b = (cosine_distances(embedded.rows, embedded.rows, places[0], places[side]) for side in (1, 2))
    whole = two_afc_scores(own_a, own_b, share_b)
    steps = []
    for i, n_kept in enumerate([*kept, None]):
        scores = whole if n_kept is None else two_afc_scores(to_a[:, i], to_b[:, i], share_b)
        variance = 1.0 if n_kept is None else float(np.mean([basis.variance[n_kept - 1] for basis in bases]))
        score, against_all = estimate_mean(scores.tolist(), targets), estimate_mean((scores - whole).tolist(), targets)
        assert score is not None
        assert against_all is not None
        steps.append(Step(n_kept, variance, score, against_all))
    return Dimensions(
        embedder.spec,
        embedder.fingerprint,
        n_dimensions,
        folds.described,
        min(basis.n_fitted for basis in bases),
        len(folds.rows),
        len(set(targets)),
        tuple(steps),
    )


@dataclass(frozen=True)
class _Basis:
    """Principal components, `[rank, D]`, and the share of variance that the first of them hold, `[rank]`."""

    components: Floats
    variance: Floats
    n_fitted: int


def _fitted(own: Sequence[Path], folds: Folds, fold: int, embedded: EmbeddedFiles, embedder: Embedder) -> _Basis:
    """Exact, in float64: a singular value decomposition of the distinct rows, whatever the order of the files."""
    judged = {embedded.row_of[path] for i in np.flatnonzero(folds.fold_of == fold) for path in folds.rows[i].images}
    # By content too: a copy of a judged image under another name is a judged image.
    places = sorted({embedded.row_of[path] for path in own} - judged)
    if len(places) < 2:
        raise FinerRankError(
            f"{folds.described}: {len(places)} besides those judged; components need 2 or more: name other images "
            "with --fit"
        )
    rows = np.unique(embedded.rows[places].astype(np.float64), axis=0)
    _, sizes, components = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    rank = int((sizes > ROUNDING * max(1.0, sizes[0])).sum())
    if rank == 0:
        raise FinerRankError(f"{embedder.spec}: tells none of {len(places)} images apart; look at its weights")
    variance = np.cumsum(sizes[:rank] ** 2)
    return _Basis(components[:rank], variance / variance[-1], len(places))


def _projected_distances(
    folds: Folds, bases: Sequence[_Basis], embedded: EmbeddedFiles, kept: Sequence[int]
) -> tuple[Floats, Floats]:
    """Squared distances of the reference to a and to b, `[rows, len(kept)]` each."""
    found: list[Any] = [np.zeros((len(folds.rows), len(kept))) for _ in range(2)]
    begins = [0, *kept[:-1]]
    for fold, basis in enumerate(bases):
        own = np.flatnonzero(folds.fold_of == fold)
        components = basis.components[: kept[-1]] if kept else basis.components[:0]
        for start in range(0, len(own), AT_ONCE):
            block = own[start : start + AT_ONCE]
            reference, *others = (
                embedded.of([folds.rows[i].images[place] for i in block]).astype(np.float64) for place in range(3)
            )
            for side, other in enumerate(others):
                squares = ((reference - other) @ components.T) ** 2
                if kept:
                    found[side][block] = np.cumsum(np.add.reduceat(squares, begins, axis=1), axis=1)
    return found[0], found[1]
