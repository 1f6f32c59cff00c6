"""Results to be drawn or exported: bundles, or records as `evaluate --out` wrote them, and what to show of them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.aggregates import METRICS
from benchmark.embedders.zoo import SEEN_STATES
from benchmark.records import ALL, PROTOCOL, find_records, read_record
from benchmark.regions import FULL
from galleries.errors import FinerRankError, below, raise_if_any
from leaderboard.board import faults_between
from leaderboard.bundle import MANIFEST, gaps_of
from leaderboard.published import PublishedBundle, PublishedRecord, read_bundles
from leaderboard.schema import Check, anything, count, map_of, nullable, number, object_of, read_json, sha256, text
from leaderboard.standings import Board, Embedder, boards_of

if TYPE_CHECKING:
    import pyarrow as pa

AGAIN = "evaluate again"


class _Unpublished(PublishedRecord):
    """A record as `evaluate --out` wrote it: its table need not hold all that a bundle's holds."""

    @cached_property
    def queries(self) -> "pa.Table":
        return read_record(self.folder).queries


_bounds: Mapping[str, Check] = {"low": nullable(number()), "high": nullable(number())}
_estimate = object_of({"value": nullable(number()), **_bounds})
_mean_average_precision = object_of({"value": number(), **_bounds})
_scores: Mapping[str, Check] = {metric: nullable(_estimate) for metric in METRICS}
_digests: Mapping[str, Check] = {"table_sha256": sha256, "images_sha256": sha256}
_part = object_of(
    {
        "n_queries": count(1),
        "n_identities": count(1),
        "chance": number(),
        "held_out": nullable(number()),
        **_scores,
        "mAP": _mean_average_precision,
    }
)

RECORD = object_of(
    {
        "protocol": text(one_of=(PROTOCOL,)),
        "run": object_of({"name": text(empty=False), **_digests}, others=anything),
        "gallery": object_of({"name": text(), "version": text(), **_digests}, others=anything),
        "embedder": object_of(
            {"spec": text(), "fingerprint": sha256, "gallery_seen": text(one_of=SEEN_STATES)}, others=anything
        ),
        "n_images_left_out": count(),
        "n_photos_left_out": count(),
        "n_queries": count(1),
        "n_identities": count(1),
        "n_gallery_identities": count(1),
        "scores": object_of({**_scores, "mAP": _mean_average_precision}),
        "pairwise_similarity": object_of({"to": text()}, others=nullable(number())),
        "identity_retention": nullable(_estimate),
        "categories": map_of(_part),
        "identities": map_of(_part),
        "gallery_anchors": map_of(object_of({}, _scores)),
    },
    {"prompt_fidelity": object_of({}, {"clip_t": nullable(_estimate), "clip_t_without_identifier": nullable(_estimate)},
                                  anything),
     "copy_rate": nullable(_estimate)},
    anything,
)  # fmt: skip
"""What is shown of a record. One that is not published need not say all that a bundle says."""


def read_results(folders: Sequence[Path]) -> tuple[list[PublishedBundle], list[str]]:
    """Bundles of published results, and of records that are not published; and what is to be said of those left out.

    Args:
        folders: bundles, records, and folders of either.

    Raises:
        FinerRankError: there is none, or one run twice.
        Faults: one cannot be read, or cannot stand beside the others.
    """
    unpublished = [
        folder
        for folder in folders
        if not (folder / MANIFEST).exists() and ((folder / "record.json").exists() or any(folder.glob("*/record.json")))
    ]
    others = [folder for folder in folders if folder not in unpublished]
    bundles = read_bundles(others) if others else []
    read = [_read_record(folder) for folder in (find_records(unpublished) if unpublished else [])]
    shown = [each for each in read if each.summary.get("region", FULL) == FULL]
    shown = [each for each in shown if each.summary.get("positives", ALL) == ALL]
    notes = [
        f"left out: {each.folder}: a board is of full pictures and all positives" for each in read if each not in shown
    ]
    if read and not shown and not bundles:
        raise FinerRankError(f"{read[0].folder}: not of full pictures and all positives, and no other is; {AGAIN}")
    bundles = sorted([*bundles, *_as_bundles(shown)], key=lambda bundle: bundle.name)
    together = [fault for folder, of in faults_between(bundles) for fault in below(folder, [of])]
    raise_if_any("cannot be shown", together)
    return bundles, notes


def _read_record(folder: Path) -> PublishedRecord:
    path = folder / "record.json"
    try:
        summary = read_json(path)
    except FinerRankError as error:
        raise FinerRankError(f"{path}: {error}; {AGAIN}") from None
    raise_if_any(str(path), [replace(fault, remedy=AGAIN) for fault in RECORD("", summary)])
    return _Unpublished(folder, folder.name, summary)


def _as_bundles(records: Sequence[PublishedRecord]) -> list[PublishedBundle]:
    """A bundle per gallery and run."""
    found: dict[tuple[str, ...], dict[str, PublishedRecord]] = defaultdict(dict)
    for record in records:
        gallery, run = record.summary["gallery"], record.summary["run"]
        own = found[gallery["name"], gallery["version"], *(gallery[key] for key in _digests), run["name"]]
        first = next(iter(own.values()), record)
        if any(first.summary["run"][key] != run[key] for key in _digests):
            what = f"another run named {run['name']!r} than {first.folder}"
            raise FinerRankError(f"{record.folder}: {what}; rename one of them and evaluate it again")
        other = own.setdefault(record.fingerprint, record)
        if other is not record:
            what = f"{record.folder} and {other.folder}: of one run under one encoder"
            raise FinerRankError(f"{what}; name each run once")
    return [_as_bundle(tuple(own.values())) for own in found.values()]


def _as_bundle(records: tuple[PublishedRecord, ...]) -> PublishedBundle:
    summary = records[0].summary
    manifest: dict[str, Any] = {
        "model": summary["run"]["name"],
        "protocol": summary["protocol"],
        "gallery": {key: summary["gallery"][key] for key in ("name", "version", *_digests)},
    }
    left_out = {"images": summary["n_images_left_out"], "photos": summary["n_photos_left_out"]}
    lacks = [f"{n} {what} left out" for what, n in left_out.items() if n]
    asked = records[0].queries.select(["category", "identity", "prompt_id"]).to_pylist()
    lacks += gaps_of((tuple(row.values()) for row in asked), summary)
    return PublishedBundle(records[0].folder, manifest, records, tuple(lacks))


def choose_boards(bundles: Sequence[PublishedBundle], gallery: str, category: str) -> list[Board]:
    """The boards of a gallery, named as `NAME` or `NAME VERSION`, that have a category; "" is any.

    Raises:
        FinerRankError: no such gallery or category.
    """
    boards = boards_of(bundles)
    chosen = [board for board in boards if gallery in ("", board.gallery, label_of(board))]
    if not chosen:
        raise FinerRankError(f"--gallery {gallery}: no result is of it; choose {_list(map(label_of, boards))}")
    having = [board for board in chosen if not category or category in board.categories]
    if not having:
        categories = sorted({name for board in chosen for name in board.categories})
        raise FinerRankError(f"--category {category}: no result has it; choose {_list(categories)}")
    return having


def choose_board(bundles: Sequence[PublishedBundle], gallery: str, category: str) -> Board:
    """The one board of a gallery.

    Raises:
        FinerRankError: there is none, or several.
    """
    boards = choose_boards(bundles, gallery, category)
    if len(boards) > 1:
        raise FinerRankError(
            f"--gallery: the results are of {len(boards)} galleries, whose scores cannot be compared; choose "
            f"{_list(map(label_of, boards))}"
        )
    return boards[0]


def choose_embedders(boards: Sequence[Board], embedder: str) -> list[tuple[Board, Embedder]]:
    """Each board with its embedders of a spec, or of the start of a fingerprint; "" is all of them.

    Raises:
        FinerRankError: there is none.
    """
    every = [(board, each) for board in boards for each in board.embedders]
    chosen = [
        (board, each)
        for board, each in every
        if embedder in ("", each.spec, *each.names) or (len(embedder) > 5 and each.fingerprint.startswith(embedder))
    ]
    if not chosen:
        specs = sorted({each.spec for _, each in every})
        raise FinerRankError(f"--embedder {embedder}: no result is of it; choose {_list(specs)}")
    return chosen


def label_of(board: Board) -> str:
    return f"{board.gallery} {board.version}"


def _list(names: Any) -> str:
    return ", ".join(repr(name) for name in dict.fromkeys(names))
