"""Whether a bundle may be published: what can be said without its images. Nothing in it is believed."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.copies import COPY_LIMIT
from galleries.errors import Fault, FinerRankError, below
from leaderboard.bundle import MANIFEST, RECORD_FILES, SCHEMA, bundle_name, gaps_of, incomplete, record_folder
from leaderboard.bundle_tables import ROUNDING, Columns, neighbour_faults, prompt_faults, query_faults, read_columns
from leaderboard.recompute import aggregates_of, differences
from leaderboard.record_schema import (
    CLIP_T_COLUMNS,
    DISTANCE_COLUMN,
    PROMPT_COLUMN,
    RECORD,
    SAME_ENCOUNTER_COLUMN,
    SIMILARITIES,
)
from leaderboard.schema import AGAIN, read_json
from leaderboard.thumbnails import FOLDER, are_allowed, thumbnail_fault, thumbnail_name

MAX_FILES = 1_000_000
MAX_FAULTS = 50
"""Listed of one bundle: strangers decide how many there are."""
UNEVEN = 2
"""Times as many images of one identity as of another that are held for review: easy ones would weigh more."""


@dataclass(frozen=True)
class CheckedRecord:
    """A record of a bundle, sound in itself."""

    summary: Mapping[str, Any]
    queries: Columns
    neighbours: Columns


@dataclass(frozen=True)
class CheckedBundle:
    """What was found in a bundle.

    Attributes:
        manifest: empty where there is none that can be read.
        records: folder → record; of those that can be read as one.
        faults: why it must not be published.
        review: what a person should look at before it is.
    """

    folder: Path
    manifest: Mapping[str, Any] = field(default_factory=dict)
    records: Mapping[str, CheckedRecord] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    review: tuple[str, ...] = ()


def find_bundles(folders: list[Path]) -> list[Path]:
    """Bundles: those given, and every subfolder of those given that are none.

    A subfolder without a manifest counts too: a model must not vanish from the board by a misspelt name.

    Raises:
        FinerRankError: no such folder, or nothing in it.
    """
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise FinerRankError(f"{folder}: no such folder; name bundles, or the folder that holds them")
        if os.path.lexists(folder / MANIFEST):
            found.append(folder)
            continue
        inside = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
        inside = [path for path in inside if path.is_symlink() or path.is_dir()]
        if not inside:
            raise FinerRankError(f"{folder}: holds no bundle; make one: finer-rank leaderboard add")
        found += inside
    return list(dict.fromkeys(found))


def check_bundle(folder: Path, name: str = "") -> CheckedBundle:
    """Look for every fault of a bundle.

    Args:
        name: that its folder will have, where that is another than now.
    """
    files, faults = _files_of(folder)
    if faults:
        return _checked(folder, faults)
    if MANIFEST not in files:
        remedy = f"name a bundle that finer-rank leaderboard add wrote, whole, or remove {folder.name}"
        return _checked(folder, [Fault(MANIFEST, "no such file", remedy)])
    try:
        manifest = read_json(folder / MANIFEST)
    except FinerRankError as error:
        return _checked(folder, [Fault(MANIFEST, str(error), AGAIN)])
    faults = below(MANIFEST, SCHEMA("", manifest))
    if faults:
        return _checked(folder, faults)
    faults += _digest_faults(folder, manifest, files - {MANIFEST})
    expected = bundle_name(manifest["gallery"], manifest["model"])
    if (name or folder.resolve().name) != expected:
        faults.append(Fault("folder", f"is not named {expected}", "name it so: the name is made of gallery and model"))
    records: dict[str, CheckedRecord] = {}
    for place in manifest["records"]:
        if {f"{place}/{file}" for file in RECORD_FILES} <= files:
            record, wrong = _check_record(folder / place, manifest, place)
            faults += below(place, wrong)
            records |= {place: record} if record else {}
    faults += _set_faults(manifest, records)
    if not faults:
        faults += _picture_faults(folder, manifest, records)
    review = [] if faults else [line for place, record in records.items() for line in _doubts(place, record)]
    return CheckedBundle(folder, manifest, records, _cut(faults), tuple(review))


def _checked(folder: Path, faults: list[Fault]) -> CheckedBundle:
    return CheckedBundle(folder, faults=_cut(faults))


def _cut(faults: list[Fault]) -> tuple[Fault, ...]:
    if len(faults) <= MAX_FAULTS:
        return tuple(faults)
    more = Fault("bundle", f"{len(faults) - MAX_FAULTS} more faults", "mend the others first")
    return (*faults[:MAX_FAULTS], more)


def _files_of(folder: Path) -> tuple[set[str], list[Fault]]:
    """Regular files below a folder, without following any link."""
    if folder.is_symlink():
        return set(), [Fault("folder", "is a link", "put the bundle itself there")]
    files: set[str] = set()
    faults = []
    stack = [folder]
    while stack:
        for entry in os.scandir(stack.pop()):
            name = Path(entry.path).relative_to(folder).as_posix()
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                stack.append(Path(entry.path))
            elif stat.S_ISREG(mode):
                files.add(name)
            else:
                kind = "is a link" if stat.S_ISLNK(mode) else "is a device or another special file"
                faults.append(Fault(name, kind, AGAIN))
        if len(files) > MAX_FILES:
            return set(), [Fault("folder", f"holds more than {MAX_FILES:,} files", AGAIN)]
    return files, sorted(faults)


def _digest_faults(folder: Path, manifest: Mapping[str, Any], files: set[str]) -> list[Fault]:
    listed: Mapping[str, str] = manifest["files"]
    faults = [Fault(name, "not in the manifest", "remove it") for name in sorted(files - listed.keys())]
    faults += [Fault(name, "no such file, but the manifest lists it", AGAIN) for name in sorted(listed.keys() - files)]
    for name in sorted(files & listed.keys()):
        if _sha256_of_file(folder / name) != listed[name]:
            faults.append(Fault(name, "is not the file of the manifest: its SHA-256 is another", AGAIN))
    known = {f"{place}/{file}" for place in manifest["records"] for file in RECORD_FILES}
    for name in sorted(known - listed.keys()):
        faults.append(Fault(name, "the manifest does not list it", AGAIN))
    for name in sorted(listed.keys() - known):
        if not name.startswith(f"{FOLDER}/"):
            faults.append(Fault(name, "is no part of a bundle", "remove it"))
    return faults


def _sha256_of_file(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_record(folder: Path, manifest: Mapping[str, Any], place: str) -> tuple[CheckedRecord | None, list[Fault]]:
    """A record and what is wrong with it; None where it cannot be read as one."""
    try:
        summary = read_json(folder / "record.json")
    except FinerRankError as error:
        return None, [Fault("record.json", str(error), AGAIN)]
    faults = below("record.json", RECORD("", summary))
    tables = {}
    for name in ("queries", "neighbours"):
        tables[name], wrong = read_columns(folder / f"{name}.parquet", name)
        faults += below(f"{name}.parquet", wrong)
    if faults:
        return None, faults
    queries, neighbours = tables["queries"], tables["neighbours"]
    faults += below("queries.parquet", [*_optional_columns(queries, summary), *query_faults(queries)])
    if faults:
        return None, faults
    faults += below("neighbours.parquet", neighbour_faults(queries, neighbours))
    again = differences(aggregates_of(queries, summary), summary, "queries.parquet", ROUNDING)
    faults += below("record.json", again)
    faults += below("record.json", _anchor_faults(summary))
    faults += _copy_faults(manifest, summary, queries, neighbours)
    n_asked, n_gallery = len(set(queries["identity"])), summary["n_gallery_identities"]
    if n_gallery < n_asked or (n_gallery > n_asked and not incomplete(manifest)):
        what = f"{n_gallery}, but queries.parquet asks for {n_asked}, and the manifest says nothing of it"
        faults.append(Fault("record.json: n_gallery_identities", what, AGAIN))
    if record_folder(summary["embedder"]) != place:
        what = f"holds a record of {record_folder(summary['embedder'])}"
        faults.append(Fault("folder", what, AGAIN))
    if any(summary["gallery"][key] != value for key, value in manifest["gallery"].items()):
        faults.append(Fault("record.json: gallery", "is not the gallery of the manifest", AGAIN))
    if not summary["run"]["name"] == summary["run"]["model"] == manifest["model"]:
        faults.append(Fault("record.json: run", "is not the model of the manifest", AGAIN))
    gallery = summary["gallery"]
    if (summary["run"]["gallery"], summary["run"]["gallery_version"]) != (gallery["name"], gallery["version"]):
        faults.append(Fault("record.json: run.gallery", "the run is declared for another gallery", AGAIN))
    return CheckedRecord(summary, queries, neighbours), faults


def _optional_columns(queries: Columns, summary: Mapping[str, Any]) -> Iterator[Fault]:
    """Columns that a record has because of what it says of itself."""
    kind = summary["pairwise_similarity"]["to"]
    of_prompts = {*CLIP_T_COLUMNS, PROMPT_COLUMN}
    wanted = {f"similarity_to_{kind}"} | ({SAME_ENCOUNTER_COLUMN} if "with_same_encounter" in summary else set())
    wanted |= of_prompts if "prompt_fidelity" in summary else set()
    wanted |= {DISTANCE_COLUMN} & summary.keys()
    known = {SAME_ENCOUNTER_COLUMN, DISTANCE_COLUMN, *of_prompts, *(f"similarity_to_{name}" for name in SIMILARITIES)}
    there = known & queries.keys()
    for column in sorted(wanted - there):
        yield Fault(column, "no such column, but record.json speaks of it", AGAIN)
    for column in sorted(there - wanted):
        yield Fault(column, "record.json does not speak of it", AGAIN)
    if of_prompts <= there:
        yield from prompt_faults(queries, summary["run"].get("identifier", ""))


def _anchor_faults(summary: Mapping[str, Any]) -> Iterator[Fault]:
    """The held-out anchor is a mean of what the identities' photos score, of all that the gallery has."""
    if summary["n_gallery_identities"] != summary["n_identities"]:
        return
    anchor = (summary["gallery_anchors"].get("held_out") or {}).get("mAP")
    of = [part["held_out"] for part in summary["identities"].values() if part["held_out"] is not None]
    if (anchor is None) != (not of):
        yield Fault("gallery_anchors.held_out", "is there where, and only where, identities have one", AGAIN)
    elif anchor and not min(of) - ROUNDING <= anchor["value"] <= max(of) + ROUNDING:
        what = f"{anchor['value']:.6g}, but those of the identities are from {min(of):.6g} to {max(of):.6g}"
        yield Fault("gallery_anchors.held_out.mAP.value", what, AGAIN)


def _set_faults(manifest: Mapping[str, Any], records: Mapping[str, CheckedRecord]) -> Iterator[Fault]:
    """What is wrong with the records of a bundle taken together."""
    if not manifest["records"] or len(set(manifest["records"])) < len(manifest["records"]):
        yield Fault(f"{MANIFEST}: records", "none, or one that stands twice", AGAIN)
    fingerprints = Counter(record.summary["embedder"]["fingerprint"] for record in records.values())
    for fingerprint, n in fingerprints.items():
        if n > 1:
            yield Fault("records", f"{n} are of the embedder {fingerprint[:12]}…", "keep one of them")
    asked = {place: _asked(record.queries) for place, record in records.items()}
    first = next(iter(asked), "")
    for place, record in records.items():
        if asked[place] != asked[first] or record.summary["run"] != records[first].summary["run"]:
            yield Fault(place, f"is of another run than {first}", AGAIN)
        for key in ("prompt_fidelity", DISTANCE_COLUMN):
            if record.summary.get(key) != records[first].summary.get(key):
                yield Fault(f"{place}: {key}", f"is not that of {first}", AGAIN)
        rows = zip(*(record.queries[column] for column in ("category", "identity", "prompt_id")), strict=True)
        gaps = gaps_of(rows, record.summary)
        if gaps != incomplete(manifest):
            said = "; ".join(incomplete(manifest)) or "nothing"
            yield Fault(f"{MANIFEST}: incomplete", f"{said}, but {place} lacks {'; '.join(gaps) or 'nothing'}", AGAIN)


def _asked(queries: Columns) -> set[tuple[Any, ...]]:
    columns = ("file_name", "image_sha256", "identity", "category", "prompt", "reference_file_name", "is_copy")
    return set(zip(*(queries[column] for column in columns), strict=True))


def _picture_faults(folder: Path, manifest: Mapping[str, Any], records: Mapping[str, CheckedRecord]) -> Iterator[Fault]:
    """Thumbnails are those of the pictures that the records show, all of them, or none where the gallery forbids it."""
    there = {name for name in manifest["files"] if name.startswith(f"{FOLDER}/")}
    cards = [record.summary["gallery"].get("thumbnails", "") for record in records.values()]
    if not all(map(are_allowed, cards)):
        if there or manifest["references"]:
            what = f"{len(there)} thumbnails, but the gallery's card does not allow them (thumbnails = {cards[0]!r})"
            yield Fault(FOLDER, what, "remove them")
        return
    shown = {reference["image_sha256"] for reference in manifest["references"]}
    for record in records.values():
        shown |= {*record.queries["image_sha256"], *record.neighbours["image_sha256"]}
    wanted = set(map(thumbnail_name, shown))
    for name in sorted(wanted - there):
        yield Fault(name, "no such thumbnail", AGAIN)
    for name in sorted(there - wanted):
        yield Fault(name, "is of no picture that the records show", "remove it")
    for name in sorted(there & wanted):
        fault = thumbnail_fault(folder / name, name)
        if fault:
            yield fault


def _copy_faults(
    manifest: Mapping[str, Any], summary: Mapping[str, Any], queries: Columns, neighbours: Columns
) -> Iterator[Fault]:
    """Images that are one of the photos shown, byte for byte, are counted, and are copies."""
    photos = {*neighbours["image_sha256"], *(reference["image_sha256"] for reference in manifest["references"])}
    names = list(zip(queries["file_name"], queries["image_sha256"], queries["is_copy"], strict=True))
    same = {name for name, digest, _ in names if digest in photos}
    copies = {name for name, _, is_copy in names if is_copy}
    if summary["n_copied"] < len(same):
        what = f"{summary['n_copied']}, but {len(same)} images are, byte for byte, among the photos shown"
        yield Fault("record.json: n_copied", what, AGAIN)
    if summary["n_copied"] > len(copies) or same - copies:
        n = max(summary["n_copied"], len(same))
        what = f"true for {len(copies)} images, but {n} are photos of the gallery, byte for byte"
        yield Fault("queries.parquet: is_copy", what, AGAIN)


def _doubts(place: str, record: CheckedRecord) -> Iterator[str]:
    """What a person should look at before a sound record is published."""
    summary, queries = record.summary, record.queries
    value = summary["scores"]["mAP"]["value"]
    anchors = summary["gallery_anchors"]
    for name in ("copied_reference", "held_out"):
        ceiling = (anchors.get(name) or {}).get("mAP")
        if ceiling:
            if value > ceiling["value"]:
                yield f"{place}: mAP {value:.3f} is above the anchor {name} ({ceiling['value']:.3f})"
            break
    digests = Counter(dict(zip(queries["file_name"], queries["image_sha256"], strict=True)).values())
    n_twins = sum(n for n in digests.values() if n > 1)
    if n_twins:
        yield f"{place}: {n_twins} of {digests.total()} query images are identical to another one"
    similarity = record.neighbours["similarity"]
    if len(similarity) > 1 and max(similarity) - min(similarity) < ROUNDING:
        yield f"{place}: every similarity is {similarity[0]:.6g}: the images are not told apart"
    if summary["n_tied_queries"]:
        yield f"{place}: {summary['n_tied_queries']} of {summary['n_queries']} queries have ties"
    if summary["n_copied"]:
        yield f"{place}: {summary['n_copied']} images are photos of the gallery, byte for byte"
    copies = summary["copy_rate"]["value"]
    if copies > COPY_LIMIT:
        yield f"{place}: copy rate {copies:.3f}: near-duplicates of the identity's references or of nearest photos"
    kind = summary["pairwise_similarity"]["to"]
    n_alike = sum(value > 0.999 for value in queries[f"similarity_to_{kind}"])
    if n_alike:
        yield f"{place}: {n_alike} queries have a similarity above 0.999 to their reference"
    per_identity = Counter(queries["identity"])
    fewest, most = min(per_identity.values()), max(per_identity.values())
    if most > UNEVEN * fewest:
        yield f"{place}: from {fewest} to {most} images per identity; those with more weigh more"
