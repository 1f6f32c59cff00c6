"""Bundles read to be shown: by the site, the figures and the exports.

Read fast and closely enough that nothing false can be drawn: digests, fields, types and ranges. That every aggregate
follows from its rows is what `bundle_check` looks at before a bundle is published.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from galleries.errors import Fault, FinerRankError, below, raise_if_any
from leaderboard.board import faults_between
from leaderboard.bundle import MANIFEST, RECORD_FILES, SCHEMA, bundle_name, incomplete
from leaderboard.bundle_check import find_bundles
from leaderboard.bundle_tables import read_table
from leaderboard.record_schema import NUMBER_COLUMNS, RECORD, SAME_ENCOUNTER_COLUMN
from leaderboard.schema import AGAIN, read_json

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class PublishedRecord:
    """What one embedder says of a bundle's run.

    Attributes:
        place: its folder below the bundle.
        summary: the content of `record.json`.
    """

    folder: Path
    place: str
    summary: Mapping[str, Any]

    @cached_property
    def queries(self) -> "pa.Table":
        """A row per query.

        Raises:
            Faults: not readable as such a table.
        """
        return _table(self.folder, "queries")

    @cached_property
    def neighbours(self) -> "pa.Table":
        """Rows (query, rank, file_name, image_sha256, identity, is_relevant, similarity), in order of the first two.

        Raises:
            Faults: not readable as such a table.
        """
        table = _table(self.folder, "neighbours")
        query, rank = (table.column(name).to_numpy() for name in ("query", "rank"))
        starts = np.concatenate([[True], query[1:] != query[:-1]])
        places = np.arange(len(query))
        expected = places - np.maximum.accumulate(np.where(starts, places, 0)) + 1
        if (np.diff(query) < 0).any() or not 0 <= query.min() <= query.max() < self.queries.num_rows:
            raise_if_any(str(self.folder), [Fault("neighbours.parquet: query", "not in the order of queries", AGAIN)])
        if (rank != expected).any():
            raise_if_any(str(self.folder), [Fault("neighbours.parquet: rank", "is not 1, 2, 3 …", AGAIN)])
        return table

    def forget_tables(self) -> None:
        """Give their memory back; they are read again when they are needed."""
        self.__dict__.pop("queries", None)
        self.__dict__.pop("neighbours", None)

    @property
    def fingerprint(self) -> str:
        return str(self.summary["embedder"]["fingerprint"])

    @property
    def spec(self) -> str:
        return str(self.summary["embedder"]["spec"])

    def identity_means(self) -> dict[str, float]:
        """mAP of each identity that the run was asked for."""
        return {name: part["mAP"]["value"] for name, part in self.summary["identities"].items()}


@dataclass(frozen=True)
class PublishedBundle:
    """A model on a gallery.

    Attributes:
        incomplete: what its run lacks; empty where it may be ranked.
    """

    folder: Path
    manifest: Mapping[str, Any]
    records: tuple[PublishedRecord, ...]
    incomplete: tuple[str, ...]

    @cached_property
    def name(self) -> str:
        return bundle_name(self.manifest["gallery"], self.model)

    @property
    def model(self) -> str:
        return str(self.manifest["model"])

    @property
    def run(self) -> Mapping[str, Any]:
        """What `run.toml` declares."""
        return self.records[0].summary["run"]  # type: ignore[no-any-return]

    @property
    def gallery(self) -> Mapping[str, Any]:
        """What `gallery.toml` says, with the digests of rows and photos."""
        return self.records[0].summary["gallery"]  # type: ignore[no-any-return]


def read_bundles(folders: Sequence[Path]) -> list[PublishedBundle]:
    """Bundles, or those in folders, in the order of their names.

    Raises:
        FinerRankError: there is none.
        Faults: one cannot be read, is not what its manifest says, or cannot stand beside the others.
    """
    bundles = [_read_bundle(folder) for folder in find_bundles(list(folders))]
    bundles.sort(key=lambda bundle: bundle.name)
    together = [fault for folder, of in faults_between(bundles) for fault in below(folder, [of])]
    raise_if_any("cannot be shown", together)
    return bundles


def _read_bundle(folder: Path) -> PublishedBundle:
    if not (folder / MANIFEST).is_file():
        raise FinerRankError(f"{folder}: no {MANIFEST}; name bundles that finer-rank leaderboard add wrote, whole")
    try:
        manifest = read_json(folder / MANIFEST)
    except FinerRankError as error:
        raise FinerRankError(f"{folder / MANIFEST}: {error}; {AGAIN}") from None
    raise_if_any(str(folder / MANIFEST), SCHEMA("", manifest))
    expected = bundle_name(manifest["gallery"], manifest["model"])
    if folder.resolve().name != expected:
        raise FinerRankError(f"{folder}: is not named {expected}; name it so: the name is made of gallery and model")
    records = tuple(_read_record(folder, manifest, place) for place in sorted(set(manifest["records"])))
    if not records:
        raise FinerRankError(f"{folder}: holds no record; {AGAIN}")
    return PublishedBundle(folder, manifest, records, tuple(incomplete(manifest)))


def _read_record(folder: Path, manifest: Mapping[str, Any], place: str) -> PublishedRecord:
    for name in RECORD_FILES:
        path = folder / place / name
        if path.is_symlink() or not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
            raise FinerRankError(f"{path}: no such file; {AGAIN}")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if manifest["files"].get(f"{place}/{name}") != digest:
            raise FinerRankError(f"{path}: is not the file of the manifest: its SHA-256 is another; {AGAIN}")
    path = folder / place / "record.json"
    try:
        summary = read_json(path)
    except FinerRankError as error:
        raise FinerRankError(f"{path}: {error}; {AGAIN}") from None
    raise_if_any(str(path), RECORD("", summary))
    if any(summary["gallery"][key] != value for key, value in manifest["gallery"].items()):
        raise FinerRankError(f"{path}: is not of the gallery of the manifest; {AGAIN}")
    if summary["run"]["name"] != manifest["model"]:
        raise FinerRankError(f"{path}: is not of the model of the manifest; {AGAIN}")
    return PublishedRecord(folder / place, place, summary)


def texts_of(table: "pa.Table", column: str) -> list[str]:
    """A column of text as a list; straight from its dictionary would take thirty times as long."""
    import pyarrow as pa

    values: list[str] = table.column(column).cast(pa.string()).to_pylist()
    return values


def _table(folder: Path, name: str) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.compute as pc

    path = folder / f"{name}.parquet"
    try:
        table, faults = read_table(path, name)
        raise_if_any(str(path), faults)
        assert table is not None
        for column in table.column_names:
            low, high = NUMBER_COLUMNS[name].get(column, (None, None))
            if column.startswith("similarity_to_"):
                low, high = NUMBER_COLUMNS["neighbours"]["similarity"]
            elif column == SAME_ENCOUNTER_COLUMN:
                low, high = 0, 1
            if low is None or table.column(column).null_count == table.num_rows:
                continue
            found = pc.min_max(table.column(column)).as_py()
            if not low <= found["min"] <= found["max"] <= high or pc.any(pc.is_nan(table.column(column))).as_py():
                raise FinerRankError(f"{path}: {column}: not all in [{low:g}, {high:g}]; {AGAIN}")
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FinerRankError(f"{path}: not readable as Parquet ({reason}); {AGAIN}") from None
    return table
