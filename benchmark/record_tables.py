"""The tables of a record, and digests of what was scored."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.aggregates import Answer
from benchmark.embed import ImageFile
from benchmark.scores import CMC_DEPTHS
from galleries.gallery import Photo
from galleries.image_set import ImageRow
from galleries.images import sha256_of
from personalization_runs.run import Query

if TYPE_CHECKING:
    import pyarrow as pa

Files = Mapping[Path, ImageFile]
"""The usable images of gallery and runs, by path."""


def query_columns(queries: Sequence[Query], answers: Sequence[Answer], files: Files) -> dict[str, list[Any]]:
    scores = [answer.scores for answer in answers]
    return {
        "file_name": [query.image.file_name for query in queries],
        "image_sha256": [files[query.image.path].digest for query in queries],
        "category": [query.category for query in queries],
        "identity": [query.identity for query in queries],
        "prompt": [query.image.prompt for query in queries],
        "prompt_id": [query.image.prompt_id for query in queries],
        "reference_file_name": [query.reference.file_name if query.reference else "" for query in queries],
        "seed": [query.image.seed for query in queries],
        "average_precision": [s.average_precision for s in scores],
        "auc": [None if math.isnan(s.auc) else s.auc for s in scores],
        "rank_1": [s.rank_1 for s in scores],
        **{f"cmc_{k}": [s.cmc[k] for s in scores] for k in CMC_DEPTHS},
        "map_at_r": [s.map_at_r for s in scores],
        "inverse_negative_penalty": [s.inverse_negative_penalty for s in scores],
        "first_hit_rank": [s.first_hit_rank for s in scores],
        "n_relevant": [s.n_relevant for s in scores],
        "n_gallery": [s.n_gallery for s in scores],
        "is_tied": [s.is_tied for s in scores],
        "chance_average_precision": [answer.chance for answer in answers],
    }


def neighbour_columns(
    nearest: Sequence[Sequence[tuple[Photo, float]]], queries: Sequence[Query], files: Files
) -> dict[str, list[Any]]:
    """Args: nearest: of each query, its nearest photos with their similarity."""
    flat = [
        (q, rank, photo, similarity)
        for q, of in enumerate(nearest)
        for rank, (photo, similarity) in enumerate(of, start=1)
    ]
    return {
        "query": [q for q, *_ in flat],
        "rank": [rank for _, rank, *_ in flat],
        "file_name": [photo.file_name for *_, photo, _ in flat],
        "image_sha256": [files[photo.path].digest for *_, photo, _ in flat],
        "identity": [photo.identity for *_, photo, _ in flat],
        "is_relevant": [photo.identity == queries[q].identity for q, _, photo, _ in flat],
        "similarity": [similarity for *_, similarity in flat],
    }


def as_table(columns: Mapping[str, Sequence[Any]]) -> "pa.Table":
    import pyarrow as pa

    return pa.table({name: _as_array(list(values)) for name, values in columns.items()})


def _as_array(values: Sequence[Any]) -> "pa.Array":
    """What `pyarrow.array` makes of values, None for an unknown one, without its import of pandas: half a second."""
    import numpy as np
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pa.nulls(len(values))
    blank: Any = "" if kinds == {str} else 0
    filled = [blank if value is None else value for value in values]
    if kinds == {str}:
        texts = [text.encode() for text in filled]
        ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
        of, parts = pa.string(), [ends, b"".join(texts)]
    elif kinds == {bool}:
        of, parts = pa.bool_(), [np.packbits(filled, bitorder="little")]
    elif kinds == {int}:
        of, parts = pa.int64(), [np.array(filled, dtype=np.int64)]
    elif kinds == {float}:
        of, parts = pa.float64(), [np.array(filled, dtype=np.float64)]
    else:
        return pa.array(values)
    known = np.packbits([value is not None for value in values], bitorder="little")
    return pa.Array.from_buffers(of, len(values), [pa.py_buffer(part) for part in (known, *parts)])


def images_digest(rows: Sequence[ImageRow], files: Files) -> str:
    """SHA-256 over the names and contents of a set's usable images."""
    return _digest((row.file_name, files[row.path].digest) for row in rows if row.path in files)


def masks_digest(rows: Sequence[ImageRow], files: Files) -> str:
    """SHA-256 over the names of a set's usable images and the contents of their masks."""
    used = ((row.file_name, files[row.path].treatment) for row in rows if row.path in files)
    return _digest((name, treatment.mask.digest) for name, treatment in used if treatment)


def _digest(pairs: Iterable[tuple[str, str]]) -> str:
    return sha256_of("\n".join(sorted(f"{name}\0{digest}" for name, digest in pairs)).encode())
