"""A record: one run scored on one gallery by one embedder, as a folder.

record.json         aggregates, and all that is needed to score the run again
queries.parquet     a row per query; every aggregate can be recomputed from it
neighbours.parquet  the nearest gallery photos of each query
places.json         where gallery and run lay on this machine; not part of the result, not to be published
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.regions import FULL
from galleries.errors import FinerRankError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

FORMAT = 1
PROTOCOL = "1"
"""Raised when a change moves scores."""

TABLE_COLUMNS = {
    "queries": (
        "file_name",
        "image_sha256",
        "identity",
        "prompt",
        "reference_file_name",
        "average_precision",
        "auc",
        "rank_1",
        "map_at_r",
    ),
    "neighbours": ("query", "rank", "file_name", "image_sha256", "identity", "is_relevant", "similarity"),
}
"""Columns that readers of a record count on."""

ALL, SAME_VIEWPOINT = "all", "same viewpoint"
"""Which photos of the right identity a query should find: `positives` of a record."""

JUDGED_BY = ("region", "choice of positives", "gallery", "embedder", "protocol")

FILES = ("record.json", "queries.parquet", "neighbours.parquet", "places.json")


@dataclass(frozen=True)
class Record:
    """A scored run, as it stands on disk.

    Attributes:
        summary: the content of `record.json`.
        queries: a row per query.
        neighbours: rows (query, rank, file_name, identity, is_relevant, similarity).
        places: `{"gallery": …, "run": …}`, paths on this machine.
    """

    summary: Mapping[str, Any]
    queries: "pa.Table"
    neighbours: "pa.Table"
    places: Mapping[str, str]

    @property
    def name(self) -> str:
        return str(self.summary["run"]["name"])

    @property
    def embedder(self) -> str:
        return str(self.summary["embedder"]["spec"])

    @property
    def region(self) -> str:
        """Part of each picture that was scored: records of before there were regions are of the full picture."""
        return str(self.summary.get("region", FULL))

    @property
    def positives(self) -> str:
        """`ALL` photos of the right identity, or those of the `SAME_VIEWPOINT` alone."""
        return str(self.summary.get("positives", ALL))

    @property
    def judged_by(self) -> tuple[object, ...]:
        """`JUDGED_BY`, as digests and versions: records that differ here cannot be compared."""
        gallery = self.summary["gallery"]
        region = (self.region, self.summary.get("masks", {}).get("treatment"))
        pictures = (gallery["table_sha256"], gallery["images_sha256"], gallery.get("masks_sha256"))
        return region, self.positives, pictures, self.summary["embedder"]["fingerprint"], self.summary["protocol"]

    def identity_means(self, column: str = "average_precision") -> dict[str, float]:
        """Mean of a query column for each identity; queries for which it is undefined are left out."""
        import math

        values: dict[str, list[float]] = {}
        for identity, value in zip(
            self.queries.column("identity").to_pylist(), self.queries.column(column).to_pylist(), strict=True
        ):
            if value is not None:
                values.setdefault(identity, []).append(value)
        return {identity: math.fsum(v) / len(v) for identity, v in sorted(values.items())}


def write_record(record: Record, folder: Path) -> None:
    """Write a record; one that lies there already is replaced as a whole.

    Raises:
        FinerRankError: the folder holds something else, or cannot be written.
    """
    import pyarrow.parquet as pq

    if folder.exists() and not (folder.is_dir() and {p.name for p in folder.iterdir()} <= set(FILES)):
        raise FinerRankError(f"{folder}: holds something that is not a record; name another --out")
    partial = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    try:
        partial.mkdir(parents=True)
        (partial / "record.json").write_text(_dumps(record.summary), encoding="utf-8")
        pq.write_table(record.queries, partial / "queries.parquet")
        pq.write_table(record.neighbours, partial / "neighbours.parquet")
        (partial / "places.json").write_text(_dumps(record.places), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError as error:
        raise FinerRankError(f"{folder}: cannot be written ({error.strerror}); name another --out") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_other_record(record: Record, folder: Path) -> None:
    """Scoring a run again may replace its record; nothing else may.

    Raises:
        FinerRankError: `folder` holds the record of another gallery or of another run of the same name.
    """
    if not (folder / "record.json").is_file():
        return
    there = read_record(folder).summary
    for what in ("gallery", "run"):
        if any(there[what].get(key) != record.summary[what].get(key) for key in ("name", "table_sha256")):
            raise FinerRankError(f"{folder}: holds the record of another {what}; name another --out")


def read_record(folder: Path) -> Record:
    """Read a record.

    Raises:
        FinerRankError: no record, damaged, or of another format.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "record.json"
    if not path.is_file():
        raise FinerRankError(f"{folder}: no record.json; name a record folder that finer-rank evaluate --out wrote")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        if summary["format"] != FORMAT:
            raise FinerRankError(f"{path}: format {summary['format']}, this program reads {FORMAT}; evaluate again")
        places_path = folder / "places.json"
        places = json.loads(places_path.read_text(encoding="utf-8")) if places_path.is_file() else {}
        tables = {}
        for name, columns in TABLE_COLUMNS.items():
            table = tables[name] = pq.ParquetFile(folder / f"{name}.parquet").read()
            lacking = [column for column in columns if column not in table.column_names]
            if lacking:
                raise KeyError(f"{name}.parquet has no column {lacking[0]}")
        record = Record(summary, tables["queries"], tables["neighbours"], places)
        _ = record.name, record.embedder, record.judged_by, summary["scores"]["mAP"]["value"]
    except (ValueError, KeyError, TypeError, AttributeError, pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FinerRankError(f"{folder}: damaged record ({type(error).__name__}: {reason}); evaluate again") from None
    return record


def find_records(paths: Sequence[Path]) -> list[Path]:
    """Record folders: those given, and those inside given folders."""
    found = []
    for path in paths:
        if (path / "record.json").is_file():
            found.append(path)
            continue
        inside = sorted(p.parent for p in path.glob("*/record.json")) if path.is_dir() else []
        if not inside:
            raise FinerRankError(
                f"{path}: holds no record; name record folders, or the --out folder of finer-rank evaluate"
            )
        found += inside
    return list(dict.fromkeys(found))


def load_records(*paths: Path | str) -> "pd.DataFrame":
    """A row per record: run, gallery, embedder and every aggregate, for analysis in pandas."""
    import pandas as pd

    rows = []
    for folder in find_records([Path(path) for path in paths]):
        record = read_record(folder)
        summary = record.summary
        row: dict[str, Any] = {
            "run": summary["run"]["name"],
            "gallery": summary["gallery"]["name"],
            "embedder": summary["embedder"]["spec"],
            "region": record.region,
            "positives": record.positives,
        }
        for metric, estimate in summary["scores"].items():
            for bound, suffix in (("value", ""), ("low", " low"), ("high", " high")):
                row[f"{metric}{suffix}"] = estimate[bound] if estimate else None
        rows.append(row)
    return pd.DataFrame(rows)


def _dumps(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"
