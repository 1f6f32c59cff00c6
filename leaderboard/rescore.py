"""A bundle against the images that it claims to be of: everything is computed again."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmark.distances import Distance
from benchmark.embedders import Embedder
from benchmark.records import Record
from benchmark.store import Root
from galleries.errors import Fault, FinerRankError, below
from galleries.gallery import Gallery
from galleries.images import decode_image
from leaderboard.bundle_check import CheckedBundle, CheckedRecord
from leaderboard.bundle_tables import Columns
from leaderboard.recompute import differences
from leaderboard.record_schema import DISTANCE_COLUMN
from leaderboard.schema import AGAIN
from leaderboard.submission import shown_pictures
from leaderboard.thumbnails import FOLDER, thumbnail_name, thumbnail_of
from personalization_runs.run import Run

IMAGES = "a new evaluation"
MAX_PIXEL_DIFFERENCE = 8
"""Mean over a thumbnail, of 255: versions of the encoder differ by less."""


def embedders_of(bundle: CheckedBundle, given: Sequence[Embedder], device: str, store: Root) -> dict[str, Embedder]:
    """The embedder of each record of a bundle.

    Args:
        given: to be taken where they are the record's: names in a record do not say where weights lie.

    Raises:
        FinerRankError: one cannot be loaded, or is another than the record's.
    """
    return {
        place: _embedder(
            f"{bundle.folder}: {place}",
            record.summary["embedder"]["spec"],
            record.summary["embedder"]["fingerprint"],
            record.summary["embedder"].get("precision", "fp32"),
            record.summary["embedder"].get("compiled", False),
            given,
            device,
            store,
        )
        for place, record in bundle.records.items()
    }


def prompt_judge_of(bundle: CheckedBundle, given: Sequence[Embedder], device: str, store: Root) -> Embedder | None:
    """What a bundle's CLIP-T was made with; None where it has none. Arguments and errors: see `embedders_of`."""
    said = next(iter(bundle.records.values())).summary.get("prompt_fidelity")
    if not said:
        return None
    where = f"{bundle.folder}: prompt_fidelity"
    return _embedder(where, said["embedder"], said["fingerprint"], "fp32", False, given, device, store)


def pairwise_judge_of(bundle: CheckedBundle, given: str, device: str, store: Root) -> Distance | None:
    """What a bundle's pairwise distances were made with; None where it has none.

    Args:
        given: spec to be taken in place of the record's, which does not say where weights lie; "" where there is none.

    Raises:
        FinerRankError: it cannot be loaded, or is another than the record's.
    """
    from benchmark.pairwise_distance import pairwise_judge

    said = next(iter(bundle.records.values())).summary.get(DISTANCE_COLUMN)
    if not said:
        return None
    where = f"{bundle.folder}: {DISTANCE_COLUMN}"
    remedy = "name the distance that was used with --pairwise"
    try:
        judge = pairwise_judge(given or said["metric"], said["size"], device, store)
        found = judge.fingerprint
    except FinerRankError as error:
        raise FinerRankError(f"{where}: {said['metric']}: {error}; or {remedy}") from None
    if found != said["fingerprint"]:
        what = f"{given or said['metric']} is here {found[:12]}…, not {said['fingerprint'][:12]}…"
        raise FinerRankError(f"{where}: {what}; {remedy}")
    return judge


def _embedder(
    where: str,
    spec: str,
    fingerprint: str,
    precision: str,
    is_compiled: bool,
    given: Sequence[Embedder],
    device: str,
    store: Root,
) -> Embedder:
    from benchmark.embedders import load_embedder

    for embedder in given:
        if embedder.fingerprint == fingerprint:
            return embedder
    remedy = "name the encoder that was used with --embedder"
    try:
        embedder = load_embedder(spec, precision=precision, device=device, memo=store, is_compiled=is_compiled)
        found = embedder.fingerprint
    except FinerRankError as error:
        raise FinerRankError(f"{where}: {spec}: {error}; or {remedy}") from None
    if found != fingerprint:
        raise FinerRankError(f"{where}: {spec} is here {found[:12]}…, not {fingerprint[:12]}…; {remedy}")
    return embedder


def record_faults(claimed: CheckedRecord, found: Record, tolerance: float) -> Iterator[Fault]:
    """Where a record says something else than a new evaluation of the same images.

    Args:
        tolerance: of every number: devices and versions round differently, and a rank may move.
    """
    summary = {key: value for key, value in found.summary.items() if key != "versions"}
    said = {key: value for key, value in claimed.summary.items() if key != "versions"}
    yield from below("record.json", differences(_plain(summary), said, IMAGES, tolerance, complete=True))
    queries = {name: found.queries.column(name).to_pylist() for name in found.queries.column_names}
    neighbours = {name: found.neighbours.column(name).to_pylist() for name in found.neighbours.column_names}
    ours, theirs = _by_query(queries), _by_query(claimed.queries)
    for key in sorted(ours.keys() | theirs.keys()):
        where = f"queries.parquet: {key[0]}, {key[1]}"
        if key not in ours or key not in theirs:
            yield Fault(where, "missing" if key in ours else "the run has no such query", AGAIN)
            continue
        mine = {column: values[ours[key]] for column, values in queries.items()}
        other = {column: values[theirs[key]] for column, values in claimed.queries.items()}
        yield from below(where, differences(mine, other, IMAGES, tolerance))
    yield from _neighbour_faults(_lists(neighbours, ours), _lists(claimed.neighbours, theirs), tolerance)


def _plain(value: Any) -> Any:
    """As JSON would give it back."""
    import json

    return json.loads(json.dumps(value, default=str))


Query = tuple[str, str]


def _by_query(queries: Columns) -> dict[Query, int]:
    keys = zip(queries["file_name"], queries["identity"], strict=True)
    return {key: row for row, key in enumerate(keys)}


def _lists(neighbours: Columns, rows: Mapping[Query, int]) -> dict[Query, dict[tuple[str, str], float]]:
    """Query → (photo, its SHA-256) → similarity."""
    key_of = {row: key for key, row in rows.items()}
    lists: dict[Query, dict[tuple[str, str], float]] = defaultdict(dict)
    columns = ("query", "file_name", "image_sha256", "similarity")
    for query, name, digest, similarity in zip(*(neighbours[column] for column in columns), strict=True):
        lists[key_of[query]][name, digest] = similarity
    return lists


def _neighbour_faults(
    ours: Mapping[Query, Mapping[tuple[str, str], float]],
    theirs: Mapping[Query, Mapping[tuple[str, str], float]],
    tolerance: float,
) -> Iterator[Fault]:
    """Neighbours of another similarity; a photo that only one side shows must be as similar as the last shown."""
    for key, mine in ours.items():
        said = theirs.get(key, {})
        n_shown = min(len(mine), len(said))
        if not n_shown:
            continue
        last = sorted(mine.values(), reverse=True)[n_shown - 1]
        for photo, similarity in said.items():
            # Where fewer are shown than were found now, the others are among these.
            expected = mine.get(photo, last)
            if abs(similarity - expected) > tolerance:
                what = f"{photo[0]} at {similarity:.6f}, but {IMAGES} gives {expected:.6f}"
                yield Fault(f"neighbours.parquet: {key[0]}, {key[1]}", what, AGAIN)
                break


def thumbnail_faults(bundle: CheckedBundle, records: Sequence[Record], gallery: Gallery, run: Run) -> Iterator[Fault]:
    """Thumbnails and references that show something else than the pictures they are named after."""
    import numpy as np

    if not bundle.manifest["references"] and not (bundle.folder / FOLDER).is_dir():
        return
    references, pictures = shown_pictures(records, gallery, run)
    if references != bundle.manifest["references"]:
        yield Fault("manifest.json: references", "are not those of gallery and run", AGAIN)
    for digest, path in sorted(pictures.items()):
        file = bundle.folder / thumbnail_name(digest)
        if not file.is_file():
            continue  # more neighbours were found now than are shown
        mine = np.asarray(decode_image(thumbnail_of(path, digest))).astype(int)
        other = np.asarray(decode_image(file.read_bytes())).astype(int)
        if mine.shape != other.shape or np.abs(mine - other).mean() > MAX_PIXEL_DIFFERENCE:
            yield Fault(thumbnail_name(digest), f"does not show {path.name}", AGAIN)
