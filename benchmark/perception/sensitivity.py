"""How much a distance reacts to each aspect of a picture, at equal change of its pixels (after DreamSim, Fig. 6).

The number: the distance between a photo and itself with one aspect changed, as a share of the distance between
unrelated photos. All changes of a level move the pixel values equally far (see `benchmark.perception.changes`), so that
of two aspects the one with the larger share is what the distance reads more into. It is relative to pixels, not to what
people notice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmark.distances import Distance
from benchmark.distances.base import Floats
from benchmark.distances.embeddings import EmbeddingDistance, cosine_distances
from benchmark.perception.changes import ASPECTS, Subject, changed
from benchmark.perception.photos import TriedPhoto, draw_of
from benchmark.statistics import Estimate, estimate_ratio
from galleries.console import Progress
from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.images import BadImage, in_threads

Pixels = npt.NDArray[np.uint8]

SIDE_PX = 192
"""Of the pictures that are changed and compared: the centre of each photo, scaled."""
N_PARTNERS = 4
"""Unrelated photos that each photo is compared with."""
AT_ONCE = 32


@dataclass(frozen=True)
class Reaction:
    """What a change of one aspect does to a distance.

    Attributes:
        level: root mean square change of the pixel values, which lie in [0, 1].
        sensitivity: mean distance that the change makes / mean distance of unrelated photos, with its interval over
            identities; None where no photo could be changed so much.
        n_photos: photos that could.
        strength: of the change, mean over photos, in the aspect's unit.
    """

    aspect: str
    level: float
    sensitivity: Estimate | None
    n_photos: int
    strength: float | None


@dataclass(frozen=True)
class Sensitivity:
    """Of one distance.

    Attributes:
        unrelated: mean distance between photos of different identities.
    """

    metric: str
    fingerprint: str
    unrelated: float
    reactions: tuple[Reaction, ...]


def possible_aspects(photos: Sequence[TriedPhoto], asked: Sequence[str] = ()) -> tuple[str, ...]:
    """The aspects that can be changed of these photos: all that were asked for; else all, without those that need masks
    where no photo has one.

    Raises:
        FinerRankError: an unknown aspect, or one that needs masks where there are none.
    """
    has_masks = any(photo.mask for photo in photos)
    for aspect in asked:
        if aspect not in ASPECTS:
            raise FinerRankError(f"--aspect {aspect}: unknown; write {', '.join(ASPECTS)}")
        if ASPECTS[aspect].needs_mask and not has_masks:
            raise FinerRankError(
                f"--aspect {aspect}: no photo has a mask; make them with finer-rank gallery mask, or leave it out"
            )
    chosen = dict.fromkeys(asked) or ASPECTS
    return tuple(aspect for aspect in ASPECTS if aspect in chosen and (has_masks or not ASPECTS[aspect].needs_mask))


def measure_sensitivity(
    photos: Sequence[TriedPhoto],
    distances: Sequence[Distance],
    aspects: Sequence[str],
    levels: Sequence[float],
    *,
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> list[Sensitivity]:
    """Change photos aspect by aspect and measure what each distance makes of it.

    Args:
        photos: of two identities or more.
        levels: root mean square changes, in (0, 1).
        seed: of directions, fields and partners. These depend on it and on the photo's content alone.

    Raises:
        Faults: photos that cannot be used; all of them.
        FinerRankError: all photos are of one identity, or a distance that holds all photos for the same, or is below 0.
    """
    if len({photo.identity for photo in photos}) < 2:
        raise FinerRankError(f"{len(photos)} photos, all of one identity: nothing is unrelated; give photos of others")
    pictures, masks = _opened(photos)
    partners = _partners(photos, seed)
    own = np.repeat(np.arange(len(photos)), [len(each) for each in partners])
    looks = [_look(distance, pictures, batch_size) for distance in distances]
    unrelated = []
    for distance, look in zip(distances, looks, strict=True):
        found = look(own, [pictures[j] for each in partners for j in each])
        if (found < 0).any():
            raise FinerRankError(
                f"{distance.spec}: its distances do not count from 0, so that none is a share of another (psnr is in "
                "decibels); leave it out"
            )
        means = np.bincount(own, found) / np.bincount(own)
        if means.mean() <= 0:
            raise FinerRankError(
                f"{distance.spec}: holds all of {len(photos)} photos for the same; look at its weights"
            )
        unrelated.append(means)
    kinds = [(aspect, level) for aspect in aspects for level in levels]
    strengths: dict[tuple[str, float], dict[int, float]] = {kind: {} for kind in kinds}
    reacted: list[dict[tuple[str, float], dict[int, float]]] = [{kind: {} for kind in kinds} for _ in distances]
    step = progress("changing photos", len(photos)) if progress else None

    def all_changes(i: int) -> list[tuple[Pixels, float] | None]:
        subject = Subject(
            _floats(pictures[i]), masks[i], _floats(pictures[partners[i][0]]), draw_of(seed, photos[i].digest)
        )
        return [
            None if ASPECTS[aspect].needs_mask and masks[i] is None else changed(subject, aspect, level)
            for aspect, level in kinds
        ]

    for start in range(0, len(photos), AT_ONCE):
        block = range(start, min(start + AT_ONCE, len(photos)))
        done = [
            (i, kind, *result)
            for i, results in zip(block, in_threads(all_changes, block), strict=True)
            for kind, result in zip(kinds, results, strict=True)
            if result is not None
        ]
        for i, kind, _, strength in done:
            strengths[kind][i] = strength
        for look, into in zip(looks, reacted, strict=True):
            found = look(np.array([i for i, *_ in done], dtype=np.intp), [picture for _, _, picture, _ in done])
            for (i, kind, *_), value in zip(done, found.tolist(), strict=True):
                into[kind][i] = value
        if step:
            step(len(block))
    return [
        Sensitivity(
            distance.spec,
            distance.fingerprint,
            float(means.mean()),
            tuple(_reaction(*kind, into[kind], strengths[kind], means, photos) for kind in kinds),
        )
        for distance, means, into in zip(distances, unrelated, reacted, strict=True)
    ]


def _reaction(
    aspect: str,
    level: float,
    reacted: dict[int, float],
    strengths: dict[int, float],
    unrelated: Floats,
    photos: Sequence[TriedPhoto],
) -> Reaction:
    identities = [photos[i].identity for i in reacted]
    sensitivity = estimate_ratio(list(reacted.values()), [float(unrelated[i]) for i in reacted], identities)
    strength = float(np.mean(list(strengths.values()))) if strengths else None
    return Reaction(aspect, level, sensitivity, len(reacted), strength)


def _look(distance: Distance, pictures: Sequence[Pixels], batch_size: int) -> Callable[..., Floats]:
    """From places in `pictures` and as many other pictures to their distances; each of `pictures` is embedded once."""
    if isinstance(distance, EmbeddingDistance):
        embedder = distance.embedder
        rows = embedder.embed(np.stack(pictures).transpose(0, 3, 1, 2), batch_size)

        def by_rows(places: npt.NDArray[np.intp], others: Sequence[Pixels]) -> Floats:
            if not others:
                return np.zeros(0)
            found = embedder.embed(np.stack(others).transpose(0, 3, 1, 2), batch_size)
            return cosine_distances(rows, found, places, np.arange(len(others)))

        return by_rows

    def by_pixels(places: npt.NDArray[np.intp], others: Sequence[Pixels]) -> Floats:
        if not others:
            return np.zeros(0)
        first, second = np.stack([pictures[i] for i in places]), np.stack(others)
        return distance.between(first.transpose(0, 3, 1, 2), second.transpose(0, 3, 1, 2), batch_size)

    return by_pixels


def _opened(photos: Sequence[TriedPhoto]) -> tuple[list[Pixels], list[npt.NDArray[np.bool_] | None]]:
    """The centre square of each photo, `[SIDE_PX, SIDE_PX, 3]`, and of its mask."""
    from PIL import Image, ImageOps

    size = (SIDE_PX, SIDE_PX)

    def opened(photo: TriedPhoto) -> tuple[Pixels, npt.NDArray[np.bool_] | None] | Fault:
        try:
            picture, mask = photo.open()
        except BadImage as error:
            return Fault(photo.name, error.what, error.remedy)
        square = np.asarray(ImageOps.fit(picture, size, Image.Resampling.BICUBIC))
        return square, None if mask is None else np.asarray(ImageOps.fit(mask, size, Image.Resampling.BOX)) >= 128

    found = list(in_threads(opened, photos))
    raise_if_any("photos", [each for each in found if isinstance(each, Fault)])
    usable = [each for each in found if not isinstance(each, Fault)]
    return [picture for picture, _ in usable], [mask for _, mask in usable]


def _partners(photos: Sequence[TriedPhoto], seed: int) -> list[list[int]]:
    """Of each photo some of other identities."""
    return [
        sorted(
            (j for j, other in enumerate(photos) if other.identity != photo.identity),
            key=lambda j: draw_of(seed, photo.digest + photos[j].digest),
        )[:N_PARTNERS]
        for photo in photos
    ]


def _floats(picture: Pixels) -> npt.NDArray[np.float32]:
    return picture.astype(np.float32) / np.float32(255)
