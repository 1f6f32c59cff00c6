"""The order of models on a gallery under an embedder, and what a change of the bundles does to it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from galleries.errors import Fault, FinerRankError
from leaderboard.bundle import MANIFEST, SCHEMA, folded, incomplete
from leaderboard.bundle_check import CheckedBundle, find_bundles
from leaderboard.record_schema import RECORD
from leaderboard.schema import read_json
from personalization_runs.run import CLASS_ONLY

ANCHOR_TOLERANCE = 0.005
"""Between the anchors of two bundles: devices round differently."""


class HasManifest(Protocol):
    """A bundle of which no more than the manifest needs to be known."""

    @property
    def folder(self) -> Path: ...

    @property
    def manifest(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, order=True)
class BoardName:
    """What a board ranks models on: records of different ones are never compared."""

    gallery: str
    version: str
    embedder: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.gallery} {self.version}, {self.embedder} ({self.fingerprint[:8]})"


@dataclass(frozen=True)
class Entry:
    """What a bundle brings to the boards.

    Attributes:
        incomplete: what its run lacks: it is on no board then.
        records: the `record.json` of each.
    """

    incomplete: Sequence[str]
    records: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Row:
    """A model on a board. `rank` counts the models with a higher mAP."""

    rank: int
    model: str
    bundle: str
    mean_average_precision: float
    low: float | None
    high: float | None


Boards = Mapping[BoardName, Sequence[Row]]


def boards_of(bundles: Mapping[str, Entry]) -> Boards:
    """The boards that complete bundles make, each in order of mAP. Class-only runs are anchors, and not ranked."""
    ranked = {
        bundle: entry.records
        for bundle, entry in bundles.items()
        if not entry.incomplete and not any(is_class_only(summary) for summary in entry.records)
    }
    # An embedder is its fingerprint; of the names that it goes by, the first in the alphabet is shown.
    specs: dict[str, str] = {}
    for embedder in (summary["embedder"] for of in ranked.values() for summary in of):
        fingerprint = embedder["fingerprint"]
        specs[fingerprint] = min(embedder["spec"], specs.get(fingerprint, embedder["spec"]))
    entries: dict[BoardName, list[tuple[str, str, Mapping[str, Any]]]] = defaultdict(list)
    for bundle, of in ranked.items():
        for summary in of:
            gallery, fingerprint = summary["gallery"], summary["embedder"]["fingerprint"]
            name = BoardName(gallery["name"], gallery["version"], specs[fingerprint], fingerprint)
            entries[name].append((summary["run"]["name"], bundle, summary["scores"]["mAP"]))
    boards = {}
    for name, own in sorted(entries.items()):
        own.sort(key=lambda entry: (-entry[2]["value"], entry[0]))
        boards[name] = [
            Row(1 + sum(e["value"] > estimate["value"] for *_, e in own), model, bundle, *estimate.values())
            for model, bundle, estimate in own
        ]
    return boards


def is_class_only(summary: Mapping[str, Any]) -> bool:
    """Whether a record is of an untuned generator."""
    return bool(summary["run"].get("method") == CLASS_ONLY)


def entries_of(bundles: Sequence[CheckedBundle]) -> dict[str, Entry]:
    return {
        bundle.folder.resolve().name: Entry(
            incomplete(bundle.manifest), [record.summary for record in bundle.records.values()]
        )
        for bundle in bundles
    }


def read_entries(folders: Sequence[Path]) -> dict[str, Entry]:
    """What bundles that were checked before bring to the boards.

    Raises:
        FinerRankError: one cannot be read.
    """
    found: dict[str, Entry] = {}
    for folder in folders:
        path = folder / MANIFEST
        try:
            manifest = read_json(path)
            wrong = [*SCHEMA("", manifest)]
            of = [] if wrong else [read_json(path := folder / place / "record.json") for place in manifest["records"]]
            wrong += [fault for summary in of for fault in RECORD("", summary)]
        except FinerRankError as error:
            raise FinerRankError(f"{path}: {error}; name bundles of this format, or leave --before out") from None
        if wrong:
            raise FinerRankError(f"{path}: {wrong[0]}; name bundles of this format, or leave --before out")
        found[folder.resolve().name] = Entry(incomplete(manifest), of)
    return found


def embedders_on_board(folder: Path, gallery: str, version: str) -> dict[str, str]:
    """Fingerprint → spec of the encoders by which the bundles of a gallery version in a folder were scored.

    Raises:
        FinerRankError: there is none, or a bundle cannot be read.
    """
    entries = read_entries(find_bundles([folder])) if folder.is_dir() and any(folder.iterdir()) else {}
    found = {
        summary["embedder"]["fingerprint"]: str(summary["embedder"]["spec"])
        for entry in entries.values()
        for summary in entry.records
        if (summary["gallery"]["name"], summary["gallery"]["version"]) == (gallery, version)
    }
    if not found:
        raise FinerRankError(f"{folder}: no bundle on {gallery} {version} says which encoders; name them: --embedder")
    return dict(sorted(found.items(), key=lambda item: item[1]))


def faults_between(bundles: Sequence[HasManifest]) -> Iterator[tuple[Path, Fault]]:
    """Bundles that cannot stand on one board: two of one model, or of galleries that only share a name."""
    models: dict[tuple[str, ...], HasManifest] = {}
    galleries: dict[tuple[str, str], HasManifest] = {}
    for bundle in bundles:
        gallery, model = bundle.manifest["gallery"], bundle.manifest["model"]
        key = folded(gallery["name"]), folded(gallery["version"])
        other = models.setdefault((*key, folded(model)), bundle)
        if other is not bundle:
            what = f"{model!r} has a bundle on {gallery['name']} {gallery['version']} already: {other.folder}"
            yield bundle.folder, Fault("model", what, "name the model otherwise, or remove one of the two")
        first = galleries.setdefault(key, bundle)
        if first.manifest["gallery"] != gallery:
            what = f"{gallery['name']} {gallery['version']} with other photos or rows than in {first.folder}"
            yield bundle.folder, Fault("gallery", what, "score on the board's own gallery: finer-rank gallery check")


def doubts_between(bundles: Sequence[CheckedBundle]) -> Iterator[tuple[Path, str]]:
    """What a person should look at: one run under two names, one embedder's name for two, anchors that disagree."""
    runs: dict[str, CheckedBundle] = {}
    fingerprints: dict[str, tuple[CheckedBundle, str]] = {}
    anchors: dict[tuple[str, ...], tuple[CheckedBundle, Mapping[str, Any]]] = {}
    for bundle in bundles:
        for place, record in bundle.records.items():
            summary = record.summary
            same = runs.setdefault(summary["run"]["images_sha256"] + summary["gallery"]["table_sha256"], bundle)
            if same is not bundle and place == next(iter(bundle.records)):
                yield bundle.folder, f"its images are those of {same.folder.resolve().name}"
            embedder = summary["embedder"]
            another, fingerprint = fingerprints.setdefault(embedder["spec"], (bundle, embedder["fingerprint"]))
            if fingerprint != embedder["fingerprint"]:
                yield (
                    bundle.folder,
                    f"{place}: {embedder['spec']} is another encoder than in {another.folder.resolve().name}",
                )
            key = summary["gallery"]["images_sha256"], summary["embedder"]["fingerprint"]
            other, known = anchors.setdefault(key, (bundle, summary["gallery_anchors"]))
            for name in ("held_out", "copied_reference"):
                ours, theirs = ((of.get(name) or {}).get("mAP") for of in (summary["gallery_anchors"], known))
                if (ours is None) != (theirs is None) or (
                    ours and theirs and abs(ours["value"] - theirs["value"]) > ANCHOR_TOLERANCE
                ):
                    yield bundle.folder, f"{place}: the anchor {name} is not that of {other.folder.resolve().name}"


@dataclass(frozen=True)
class Changes:
    """What differs between two sets of bundles.

    Attributes:
        moves: board → a line per new model and per model whose rank is another.
    """

    new: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    moves: Mapping[BoardName, Sequence[str]]


def changes_between(before: Mapping[str, Entry], now: Mapping[str, Entry]) -> Changes:
    old_boards = boards_of(before)
    moves: dict[BoardName, list[str]] = {}
    for name, rows in boards_of(now).items():
        ranks = {row.bundle: row.rank for row in old_boards.get(name, ())}
        lines = []
        for row in rows:
            if row.bundle not in ranks:
                lines.append(f"{row.model} is new: rank {row.rank} of {len(rows)}")
            elif ranks[row.bundle] != row.rank:
                lines.append(f"{row.model}: rank {ranks[row.bundle]} → {row.rank}")
        if lines:
            moves[name] = lines
    return Changes(
        new=tuple(sorted(now.keys() - before.keys())),
        changed=tuple(sorted(name for name in now.keys() & before.keys() if now[name] != before[name])),
        removed=tuple(sorted(before.keys() - now.keys())),
        moves=moves,
    )
