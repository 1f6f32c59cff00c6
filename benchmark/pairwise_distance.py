"""How far each generated image is from its own reference, by any distance: a column of a record beside mAP.

Like the pairwise similarity it says little about identity: any animal of the kind can be near.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmark.aggregates import json_or_empty
from benchmark.distances import METHODS, Distance, Resources, load_distance
from benchmark.embedders import published_spec
from benchmark.statistics import estimate_mean
from benchmark.store import Root
from galleries.gallery import Gallery, Photo
from galleries.images import BadImage, decode_image, in_threads, read_image_bytes
from personalization_runs.run import Query, Run

SIZE_PX = 256
"""That pictures are squashed to where neither the user nor the distance says; embedders have their own geometry."""

Partners = Literal["own_reference", "all_references", "gallery_photos"]


def partners(queries: Sequence[Query], gallery: Gallery, usable: Iterable[Path]) -> tuple[Partners, list[list[Photo]]]:
    """The photos that each query is held against, pair by pair: its own reference; where a query has none, all
    references of the identity; where an identity has none, its gallery photos.

    Args:
        usable: files that may be used.
    """
    there = set(usable)
    own = [query.reference for query in queries if query.reference and query.reference.path in there]
    if len(own) == len(queries):
        return "own_reference", [[reference] for reference in own]
    references = {i: [p for p in photos if p.path in there] for i, photos in gallery.references.items()}
    if all(references.get(query.identity) for query in queries):
        return "all_references", [references[query.identity] for query in queries]
    photos: dict[str, list[Photo]] = defaultdict(list)
    for photo in sorted(gallery.split("gallery"), key=lambda photo: (photo.category, photo.file_name)):
        if photo.path in there:
            photos[photo.identity].append(photo)
    return "gallery_photos", [photos[query.identity] for query in queries]


@dataclass(frozen=True)
class PairwiseDistance:
    """Distances of all images of some runs.

    Attributes:
        metric, fingerprint: of the distance.
        size: that pictures were squashed to; None for an embedder's own geometry.
        to: run's folder → what its images were held against.
        of: (image file, identity that it should show) → mean distance to its `partners`.
        packages: whose version decides the distance.
    """

    metric: str
    fingerprint: str
    size: int | None
    to: Mapping[Path, Partners]
    of: Mapping[tuple[Path, str], float]
    packages: tuple[str, ...]

    def column(self, queries: Sequence[Query]) -> list[float]:
        """`pairwise_distance` of a record's `queries.parquet`."""
        return [self.of[query.image.path, query.identity] for query in queries]

    def summary(self, run: Run, values: Sequence[float], identities: Sequence[str]) -> dict[str, Any]:
        """What a record says of it: the mean over queries with an interval over identities, and how it was made."""
        return {
            "metric": self.metric,
            "fingerprint": self.fingerprint,
            "size": self.size,
            **json_or_empty(estimate_mean(values, identities)),
            "to": self.to[run.root],
        }


def pairwise_judge(spec: str, size: int | None, device: str, memo: Root) -> Distance:
    """The distance of that spec; see `load_distance`.

    Args:
        size: to squash pictures to; `SIZE_PX` where None and neither an embedder nor the distance itself decides.
    """
    distance = load_distance(spec, size=size, device=device, memo=memo)
    if distance.size is None and spec.partition("@")[0].partition(":")[0] in METHODS:
        return load_distance(spec, size=SIZE_PX, device=device, memo=memo)
    return distance


def pairwise_distance(
    gallery: Gallery,
    runs: Sequence[Run],
    usable: Iterable[Path],
    judge: Distance,
    resources: Resources,
    skip_broken: bool = False,
) -> PairwiseDistance:
    """Hold each image of the runs against the references of the identity that it should show.

    Args:
        usable: files to measure; with `skip_broken` those of them whose pixels cannot be read are left out.

    Raises:
        Faults: files that cannot be read, unless they are skipped.
    """
    there = set(usable)
    if skip_broken:
        ordered = sorted(there)
        there = {path for path, good in zip(ordered, in_threads(_is_readable, ordered), strict=True) if good}
    to: dict[Path, Partners] = {}
    wanted: dict[tuple[Path, str], list[Path]] = {}
    for run in runs:
        queries = [query for query in run.queries(gallery) if query.image.path in there]
        to[run.root], held_against = partners(queries, gallery, there)
        for query, photos in zip(queries, held_against, strict=True):
            wanted[query.image.path, query.identity] = [photo.path for photo in photos]
    pairs = [(path, photo) for (path, _), photos in wanted.items() for photo in photos]
    place = {pair: i for i, pair in enumerate(dict.fromkeys(pairs))}
    measured = judge.of_pairs(list(place), resources)
    of = {
        (path, identity): math.fsum(measured[place[path, photo]] for photo in photos) / len(photos)
        for (path, identity), photos in wanted.items()
        if photos  # a query without any is refused by the judge
    }
    return PairwiseDistance(published_spec(judge.spec), judge.fingerprint, judge.size, to, of, judge.packages)


def _is_readable(path: Path) -> bool:
    try:
        decode_image(read_image_bytes(path))
    except BadImage:
        return False
    return True
