"""Judgements as triplets, and which of them are trained on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmark.human_judgements.judgements import Judgement, Judgements
from galleries.errors import FinerRankError
from galleries.images import sha256_of

LEAST_TARGETS = 6
"""That are divided here: fewer leave nothing to train on, or no interval."""


@dataclass(frozen=True)
class Triplets:
    """Rows of triplets, by the places of their images.

    Attributes:
        places: `[N, 3]`: reference, a, b; of `Sides.images`.
        share_b: `[N]` share of the votes for b.
        targets: `[N]` names.
    """

    places: npt.NDArray[np.intp]
    share_b: npt.NDArray[np.float64]
    targets: tuple[str, ...]

    @property
    def images(self) -> list[int]:
        """Places of the images, each once."""
        return sorted(set(self.places.ravel().tolist()))


@dataclass(frozen=True)
class Sides:
    """What is trained on, what chooses the epoch, and what the result is judged by.

    Attributes:
        images: distinct files, sorted.
        judged_on: in a few words.
        notes: what a reader should know.
    """

    images: tuple[Path, ...]
    trained: Triplets
    validated: Triplets
    tested: Triplets
    judged_on: str
    notes: tuple[str, ...]


def as_triplets(judgements: Judgements) -> Judgements:
    """2AFC judgements as they are; of rankings and ratings every two pictures that somebody put at different places.

    Raises:
        FinerRankError: judgements of which no triplets can be made.
    """
    if judgements.kind == "2afc":
        return judgements
    if judgements.kind not in ("ranking", "rating"):
        raise FinerRankError(
            f"{judgements.source}: {judgements.kind} judgements make no triplets; give 2afc, ranking or rating ones"
        )
    nearest_first = 1 if judgements.kind == "ranking" else -1
    by_person: dict[tuple[str, str, str, Path], list[Judgement]] = {}
    for row in judgements.rows:
        by_person.setdefault((row.target, row.rater, row.split, row.images[0]), []).append(row)
    rows = [
        replace(near, images=(near.images[0], near.images[1], far.images[1]), answer=0.0)
        for own in by_person.values()
        for near, far in combinations(sorted(own, key=lambda row: (nearest_first * row.answer, row.images)), 2)
        if near.answer != far.answer
    ]
    if not rows:
        raise FinerRankError(f"{judgements.source}: nobody puts one picture before another; there is nothing to learn")
    return replace(judgements, kind="2afc", rows=tuple(rows))


def choose_sides(judgements: Judgements, held_out: float, seed: int) -> Sides:
    """Divide triplets by the splits that their data name; else by target, as the seed says, whatever their order.

    Where targets are drawn, a triplet that shares an image with one held out is not trained on. The data's own splits
    are kept; a note says how many triplets share an image with one that judges. Votes that are divided equally teach
    nothing and choose no epoch.

    Raises:
        FinerRankError: too few targets, or a side that is left empty.
    """
    rows = judgements.rows
    notes = []
    splits = {row.split for row in rows} - {""}
    if splits:
        judged_on = "test" if "test" in splits else "val"
        if not splits & {"test", "val"} or not splits & {"train"}:
            named = " and ".join(sorted(splits))
            raise FinerRankError(
                f"{judgements.source}: names only the split {named}; train, and test or val are needed"
            )
        tested = [row for row in rows if row.split == judged_on]
        trained = [row for row in rows if row.split in ("train", "")]
        validated = [row for row in rows if row.split == "val"] if judged_on == "test" else []
        if not validated:
            chosen = _drawn(trained, _n_held_out(trained, held_out), seed, judgements)
            validated = [row for row in trained if row.target in chosen]
            trained = [row for row in trained if row.target not in chosen]
            trained, n_near = _without_images_of(trained, validated)
            if n_near:
                notes.append(f"{n_near} triplets share an image with one that chooses the epoch and are left out")
        n_shared = len(trained) - len(_without_images_of(trained, tested)[0])
        if n_shared:
            notes.append(f"{n_shared} triplets of the split train share an image with one of the split {judged_on}")
        judged_on = f"triplets of the split {judged_on}"
    else:
        n = _n_held_out(rows, held_out)
        chosen = _drawn(rows, n, seed, judgements)
        others = [row for row in rows if row.target not in chosen]
        for_choice = _drawn(others, n, seed, judgements)
        tested = [row for row in rows if row.target in chosen]
        validated = [row for row in others if row.target in for_choice]
        trained = [row for row in others if row.target not in for_choice]
        judged_on = "triplets of targets that were never trained on"
        validated, n_near_test = _without_images_of(validated, tested)
        trained, n_near = _without_images_of(trained, [*tested, *validated])
        if n_near + n_near_test:
            notes.append(f"{n_near + n_near_test} triplets share an image with a held-out one and are left out")
    n_undecided = sum(row.answer == 0.5 for side in (trained, validated) for row in side)
    trained, validated = ([row for row in side if row.answer != 0.5] for side in (trained, validated))
    if n_undecided:
        notes.append(f"{n_undecided} triplets with as many votes for a as for b teach nothing and choose no epoch")
    for what, side in (("to train on", trained), ("to choose the epoch by", validated), ("to be judged by", tested)):
        if not side:
            raise FinerRankError(f"{judgements.source}: no triplet is left {what}; give more, or another --held-out")
    images = tuple(sorted({path for side in (trained, validated, tested) for row in side for path in row.images}))
    place = {path: i for i, path in enumerate(images)}
    of_trained, of_validated, of_tested = (_triplets(side, place) for side in (trained, validated, tested))
    return Sides(images, of_trained, of_validated, of_tested, judged_on, tuple(notes))


def _drawn(rows: Sequence[Judgement], n: int, seed: int, judgements: Judgements) -> set[str]:
    """So many targets. The draw depends on seed and names alone."""
    targets = sorted({row.target for row in rows})
    if len(targets) <= n:
        raise FinerRankError(
            f"{judgements.source}: too few targets to train on some, choose the epoch by others and be judged by a "
            f"third part ({len(targets)} are left for {n}); give {LEAST_TARGETS} or more, or a smaller --held-out"
        )
    return set(sorted(targets, key=lambda name: sha256_of(f"{seed}:{name}".encode()))[:n])


def _n_held_out(rows: Sequence[Judgement], share: float) -> int:
    return max(2, round(share * len({row.target for row in rows})))


def _without_images_of(rows: list[Judgement], others: Iterable[Judgement]) -> tuple[list[Judgement], int]:
    taken = {path for row in others for path in row.images}
    kept = [row for row in rows if taken.isdisjoint(row.images)]
    return kept, len(rows) - len(kept)


def _triplets(rows: Sequence[Judgement], place: dict[Path, int]) -> Triplets:
    # Sorted, so that the order of rows in files decides nothing.
    ordered = sorted(rows, key=lambda row: (row.target, row.images, row.rater, row.answer))
    return Triplets(
        np.array([[place[path] for path in row.images] for row in ordered], dtype=np.intp),
        np.array([row.answer for row in ordered], dtype=np.float64),
        tuple(row.target for row in ordered),
    )
