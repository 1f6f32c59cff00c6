"""Bundles of made models, of any number and size: sound for `leaderboard check`, but nothing was generated."""

import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmark.embedders.base import digest_of
from benchmark.pool import chance_scores
from benchmark.records import ALL, PROTOCOL, Record, write_record
from benchmark.records import FORMAT as RECORD_FORMAT
from benchmark.regions import FULL
from galleries.images import sha256_of
from leaderboard.bundle import FORMAT, MANIFEST, bundle_name, record_folder
from leaderboard.recompute import aggregates_of
from leaderboard.thumbnails import FOLDER, thumbnail_name

if TYPE_CHECKING:
    import pyarrow as pa

N_PHOTOS = 10
"""Of each identity; as many neighbours of a query are kept."""
N_CATEGORIES = 4
PICTURE_PX = 192


@dataclass(frozen=True)
class MadeBoard:
    """How large a board is made.

    Attributes:
        queries: of each model, as many of each identity.
        thumbnails: whether bundles hold pictures: noise, a file for each picture.
    """

    models: int
    embedders: int
    queries: int
    identities: int
    thumbnails: bool = False
    gallery: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.gallery.update(
            name="made", version="1", granularity="instance", licence="CC0-1.0",
            thumbnails="yes" if self.thumbnails else "no",
            table_sha256=_digest("table"), images_sha256=_digest("images"),
        )  # fmt: skip

    def category(self, identity: int) -> int:
        return identity * N_CATEGORIES // self.identities

    @property
    def names(self) -> list[str]:
        return [f"animal {i:04d}" for i in range(self.identities)]


def write_made_board(board: MadeBoard, out: Path) -> None:
    """Write the bundles of a made board into an empty folder; the same board gives the same bytes."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for _ in pool.map(partial(_write_bundle, board, out), range(board.models)):
            pass


def _write_bundle(board: MadeBoard, out: Path, model: int) -> None:
    pictures = [_picture(i) for i in range(8)] if board.thumbnails else []
    name = f"model {model:03d}"
    folder = out / bundle_name(board.gallery, name)
    places, shown = [], set()
    for embedder in range(board.embedders):
        record = _record(board, model, embedder)
        place = record_folder(record.summary["embedder"])
        write_record(record, folder / place)
        (folder / place / "places.json").unlink()
        places.append(place)
        for table in (record.queries, record.neighbours) if pictures else ():
            shown |= set(table.column("image_sha256").to_pylist())
    references = []
    for i, identity in enumerate(board.names if pictures else ()):
        references.append({"file_name": _reference(i), "identity": identity, "image_sha256": _digest(_reference(i))})
    shown |= {reference["image_sha256"] for reference in references}
    if shown:
        (folder / FOLDER).mkdir()
    for i, digest in enumerate(sorted(shown)):
        (folder / thumbnail_name(digest)).write_bytes(pictures[i % len(pictures)])
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    manifest = {
        "format": FORMAT,
        "protocol": PROTOCOL,
        "model": name,
        "gallery": {key: board.gallery[key] for key in ("name", "version", "table_sha256", "images_sha256")},
        "incomplete": [],
        "records": sorted(places),
        "references": references,
        "files": {path.relative_to(folder).as_posix(): sha256_of(path.read_bytes()) for path in files},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def _record(board: MadeBoard, model: int, embedder: int) -> Record:
    rng = np.random.default_rng((model, embedder))
    scores, neighbours = _scores(board, rng, skill=2.5 * (model + 1) / board.models)
    queries = {**_asked(board, model), **scores}
    queries["similarity_to_own_reference"] = rng.uniform(0.3, 0.9, board.queries).tolist()
    description = {"family": "made", "weights_sha256": _digest(f"encoder {embedder}")}
    declared = ("method", "base_model", "training_data", "licence", "authors", "contact")
    name = f"model {model:03d}"
    summary: dict[str, Any] = {
        "format": RECORD_FORMAT, "protocol": PROTOCOL, "region": FULL, "positives": ALL,
        "run": {
            "name": name, "model": name, **dict.fromkeys(declared, "made"),
            "gallery": board.gallery["name"], "gallery_version": board.gallery["version"],
            "table_sha256": _digest(f"table of {name}"), "images_sha256": _digest(f"images of {name}"),
        },
        "gallery": board.gallery,
        "embedder": {
            "spec": f"made:encoder-{embedder}", "fingerprint": digest_of(description), **description,
            "gallery_seen": "unseen",
        },
        "n_images_left_out": 0, "n_photos_left_out": 0, "n_gallery_identities": board.identities, "n_copied": 0,
        "identities": {identity: {"held_out": 0.9} for identity in board.names},
        "pairwise_similarity": {"to": "own_reference"},
        "versions": {},
    }  # fmt: skip
    found = aggregates_of(queries, summary)
    ceiling = {"mAP": {"value": 0.9, "low": None, "high": None}}
    anchors = {**found.pop("gallery_anchors"), "held_out": ceiling, "copied_reference": ceiling}
    found.pop("embedder")
    return Record({**summary, **found, "gallery_anchors": anchors}, _table(queries), _table(neighbours), {})


def _asked(board: MadeBoard, model: int) -> dict[str, list[Any]]:
    """What the queries of a model are, as many of each identity, with prompts in turn."""
    each = board.queries // board.identities
    rows = [(identity, number) for identity in range(board.identities) for number in range(each)]
    names = board.names
    files = [f"images/{identity:04d}/{number:03d}.png" for identity, number in rows]
    return {
        "file_name": files,
        "image_sha256": [_digest(f"{model} {file}") for file in files],
        "category": [f"species {board.category(identity)}" for identity, _ in rows],
        "identity": [names[identity] for identity, _ in rows],
        "prompt": [f"a photo of the animal in place {number}" for _, number in rows],
        "prompt_id": [str(number) for _, number in rows],
        "reference_file_name": [_reference(identity) for identity, _ in rows],
        "seed": [str(number) for _, number in rows],
        "is_copy": [False] * len(rows),
    }


def _scores(
    board: MadeBoard, rng: np.random.Generator, skill: float
) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Scores and neighbours of all queries: photos of the right identity are more similar, the more `skill`."""
    scores: dict[str, list[Any]] = {}
    neighbours: dict[str, list[Any]] = {}
    each = board.queries // board.identities
    for category in range(N_CATEGORIES):
        members = [i for i in range(board.identities) if board.category(i) == category]
        identities = np.repeat(members, N_PHOTOS)
        asked = np.repeat(members, each)
        is_relevant = asked[:, None] == identities
        order = np.argsort(-(rng.standard_normal(is_relevant.shape) + skill * is_relevant), axis=1)
        ranked = np.take_along_axis(is_relevant, order, axis=1)
        for column, values in _scores_of_ranks(ranked).items():
            scores.setdefault(column, []).extend(values.tolist())
        photos = members[0] * N_PHOTOS + order[:, :N_PHOTOS].ravel()
        first = len(neighbours.get("query", ())) // N_PHOTOS
        files = [f"photos/{photo // N_PHOTOS:04d}/{photo % N_PHOTOS}.jpg" for photo in photos.tolist()]
        names = board.names
        nearest: Mapping[str, Sequence[Any]] = {
            "query": (first + np.repeat(np.arange(len(asked)), N_PHOTOS)).tolist(),
            "rank": list(range(1, N_PHOTOS + 1)) * len(asked),
            "file_name": files,
            "image_sha256": [_digest(file) for file in files],
            "identity": [names[photo // N_PHOTOS] for photo in photos.tolist()],
            "is_relevant": ranked[:, :N_PHOTOS].ravel().tolist(),
            "similarity": (-np.sort(-rng.uniform(0.2, 0.9, (len(asked), N_PHOTOS)), axis=1)).ravel().tolist(),
        }
        for column, of in nearest.items():
            neighbours.setdefault(column, []).extend(of)
    return scores, neighbours


def _scores_of_ranks(ranked: npt.NDArray[np.bool_]) -> dict[str, npt.NDArray[Any]]:
    """What `benchmark.scores` gives where nothing ties, for all queries of a category at once."""
    n, n_gallery = ranked.shape
    ranks = np.nonzero(ranked)[1].reshape(n, N_PHOTOS) + 1
    hits = np.arange(1, N_PHOTOS + 1)
    precision = hits / ranks
    n_irrelevant = n_gallery - N_PHOTOS
    first = ranks[:, 0]
    return {
        "average_precision": precision.mean(axis=1),
        "auc": 1 - (ranks - hits).sum(axis=1) / (N_PHOTOS * n_irrelevant),
        "rank_1": (first == 1).astype(float),
        "cmc_5": (first <= 5).astype(float),
        "cmc_10": (first <= 10).astype(float),
        "map_at_r": np.where(ranks <= N_PHOTOS, precision, 0).sum(axis=1) / N_PHOTOS,
        "inverse_negative_penalty": N_PHOTOS / ranks[:, -1],
        "first_hit_rank": first.astype(float),
        "n_relevant": np.full(n, N_PHOTOS),
        "n_gallery": np.full(n, n_gallery),
        "is_tied": np.zeros(n, bool),
        "chance_average_precision": np.full(n, chance_scores(N_PHOTOS, n_gallery).average_precision),
    }


def _table(columns: Mapping[str, Sequence[Any]]) -> "pa.Table":
    import pyarrow as pa

    return pa.table(dict(columns))


def _reference(identity: int) -> str:
    return f"references/{identity:04d}.jpg"


def _digest(label: str) -> str:
    return sha256_of(label.encode())


def _picture(seed: int) -> bytes:
    """A thumbnail about as large as that of a photo."""
    from PIL import Image

    noise = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((PICTURE_PX, PICTURE_PX)).save(buffer, "WEBP", quality=80)
    return buffer.getvalue()
