"""Copy rate: the share of generated images that repeat a photo. Identity that comes by copying is no success."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from benchmark.aggregates import as_json_estimate
from benchmark.embed import Progress
from benchmark.records import Record
from benchmark.statistics import estimate_mean
from galleries.errors import FinerRankError
from galleries.gallery import Gallery
from galleries.images import BadImage, decode_image, in_threads, read_image_bytes, sha256_of
from galleries.near_duplicates import Grey, near_duplicates, thumbnail
from galleries.overlays import BANDS_PX
from personalization_runs.run import Run

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")

COPY_LIMIT = 0.05
"""Copy rate above which a run is held for review."""

N_NEAREST = 3
"""Photos of each record that an image is compared with: what it was copied from is the nearest to most encoders."""

MAX_PICTURES = 256
"""Kept in memory while pairs are looked at closely: up to 200 MB."""


def with_copies(
    records: Sequence[Record], gallery: Gallery, run: Run, progress: Progress | None = None
) -> list[Record]:
    """The records with the column `is_copy`, and with `copy_rate`, its mean over queries.

    An image is a copy if it has the bytes of a photo of the gallery, or if the leak gate calls it the same picture
    (resized, cropped, mirrored …) as a reference of an identity that it is asked for, or as one of the `N_NEAREST`
    photos in any of the records. No score depends on it.

    Args:
        records: of this run on this gallery, one per embedder.

    Raises:
        FinerRankError: an image cannot be read.
    """
    photos = set(in_threads(lambda photo: _digest(photo.path), gallery.photos))
    queries = records[0].queries.to_pydict()
    digest_of = dict(zip(queries["file_name"], queries["image_sha256"], strict=True))
    same_bytes = {name for name, digest in digest_of.items() if digest in photos}
    path_of = {image.file_name: image.path for image in run.images}
    others = {path_of[name]: of for name, of in _candidates(records, gallery).items() if name not in same_bytes}
    same_picture = _repeats(others, progress)
    is_copy = {name: name in same_bytes or path_of[name] in same_picture for name in digest_of}
    return [_with_column(record, is_copy) for record in records]


def _with_column(record: Record, is_copy: Mapping[str, bool]) -> Record:
    names, identities = (record.queries.column(name).to_pylist() for name in ("file_name", "identity"))
    column = [is_copy[name] for name in names]
    rate = estimate_mean([float(value) for value in column], identities)
    summary = {**record.summary, "copy_rate": as_json_estimate(rate)}
    return replace(record, summary=summary, queries=record.queries.append_column("is_copy", [column]))


def _candidates(records: Sequence[Record], gallery: Gallery) -> dict[str, list[Path]]:
    """Image → the photos, each once, that it is compared with."""
    photos = {photo.file_name: photo.path for photo in gallery.photos}
    found: dict[str, dict[Path, None]] = defaultdict(dict)
    for record in records:
        queries, near = record.queries.to_pydict(), record.neighbours.to_pydict()
        for name, identity in zip(queries["file_name"], queries["identity"], strict=True):
            found[name] |= {photo.path: None for photo in gallery.references.get(identity, ())}
        for query, rank, photo in zip(near["query"], near["rank"], near["file_name"], strict=True):
            if rank <= N_NEAREST:
                found[queries["file_name"][query]][photos[photo]] = None
    return {name: list(of) for name, of in found.items()}


def _repeats(candidates: Mapping[Path, Sequence[Path]], progress: Progress | None) -> set[Path]:
    """The images that are the same picture as one of their candidates."""
    paths = sorted({*candidates, *(photo for of in candidates.values() for photo in of)})
    thumbnails = dict(zip(paths, in_threads(lambda path: thumbnail(_picture(path)), paths), strict=True))
    picture = lru_cache(MAX_PICTURES)(_small_picture)
    step = progress("looking for copies", len(candidates)) if progress else None
    found = set()
    # Image by image: of many pairs at once only the most alike would be looked at.
    for image, photos in candidates.items():
        if _is_one_of(image, photos, thumbnails, picture):
            found.add(image)
        if step:
            step(1)
    return found


def _is_one_of(
    image: Path, photos: Sequence[Path], thumbnails: Mapping[Path, Grey], picture: "Callable[[Path], Image.Image]"
) -> bool:
    both = [image, *photos]
    groups = [([0], range(1, len(both)))]
    pairs = near_duplicates([thumbnails[path] for path in both], groups, groups, lambda i: picture(both[i]))
    return any(pair.is_same_picture for pair in pairs)


def _small_picture(path: Path) -> "Image.Image":
    """As large as it is looked at closely."""
    from PIL import Image

    picture = _picture(path)
    picture.thumbnail((BANDS_PX, BANDS_PX), Image.Resampling.BOX)
    return picture


def _picture(path: Path) -> "Image.Image":
    return _named(path, lambda: decode_image(read_image_bytes(path)))


def _digest(path: Path) -> str:
    return _named(path, lambda: sha256_of(read_image_bytes(path)))


def _named(path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except BadImage as error:
        raise FinerRankError(f"{path}: {error}") from None
