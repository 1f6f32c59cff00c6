"""Data files of the site: scripts that hand JSON to the page, since a page opened from disk may not fetch.

Numbers are rounded to little more than what a page shows. Labels stand once in a list, and are meant by their place
in it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from galleries.errors import Fault, Faults, FinerRankError
from leaderboard.published import PublishedBundle, PublishedRecord, texts_of
from leaderboard.schema import AGAIN
from leaderboard.standings import CARDS, Board, Estimate, Row, Standings, finite
from leaderboard.thumbnails import are_allowed, thumbnail_name

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK = 500
"""Queries whose neighbours stand in one file."""
KEY_LENGTH = 20
"""Hexadecimal digits of a picture's SHA-256 that name its thumbnail on the site."""
DECIMALS = 4


def script(name: str, value: Any) -> str:
    """A file that gives `value` to the page. JSON is JavaScript, and holds no markup that a script file would heed."""
    return f"finerRank.receive({json.dumps(name)},{_dumps(value)});\n"


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


@dataclass
class Labels:
    """Strings by the place at which they were first seen."""

    values: list[str] = field(default_factory=list)
    place: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, label: str) -> int:
        if label not in self.place:
            self.place[label] = len(self.values)
            self.values.append(label)
        return self.place[label]


def model_key(bundle: PublishedBundle) -> str:
    """A name for files and addresses: what a bundle's own is without the gallery."""
    from leaderboard.bundle import bundle_name

    empty = bundle_name(bundle.manifest["gallery"], "")
    return bundle.name.removeprefix(empty) or bundle.name


class BoardData:
    """The data files of a board.

    Attributes:
        photos: gallery photos that stand among neighbours: file name → (SHA-256, identity).
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        self.identities = sorted({i for b in board.bundles for r in b.records for i in r.summary["identities"]})
        self.photos = _photos(board)
        # Distractors are of identities that nobody is asked for.
        self.identities += sorted({identity for _, identity in self.photos.values()} - set(self.identities))
        self.identity_place = {identity: i for i, identity in enumerate(self.identities)}
        self.photo_place = {name: i for i, name in enumerate(self.photos)}

    def board_file(self) -> dict[str, Any]:
        board = self.board
        key_of = {embedder.fingerprint: embedder.key for embedder in board.embedders}
        return {
            "gallery": {"name": board.gallery, "version": board.version},
            "protocol": board.protocol,
            "metrics": [asdict(card) for card in CARDS],
            "embedders": [
                {"key": e.key, "spec": e.spec, "fingerprint": e.fingerprint, "seen": e.gallery_seen}
                for e in board.embedders
            ],
            "categories": list(board.categories),
            "models": [
                {
                    "key": model_key(bundle),
                    "name": bundle.model,
                    "method": bundle.run.get("method", ""),
                    "base_model": bundle.run.get("base_model", ""),
                    "embedders": [key_of[record.fingerprint] for record in bundle.records],
                }
                for bundle in board.bundles
            ],
        }

    def standings_file(self, standings: Standings) -> dict[str, Any]:
        places = {bundle.name: i for i, bundle in enumerate(self.board.bundles)}

        def entry(row: Row, of_model: bool) -> list[Any]:
            best, worst = row.ranks or (None, None)
            who = places[row.bundle] if of_model else row.model
            fixed = [
                who,
                row.rank,
                best,
                worst,
                row.tied_with_best,
                row.n_queries,
                row.n_identities,
                list(row.flags),
                row.similarity_to,
                row.clip_t_by,
            ]
            return fixed + [_estimate(row.scores.get(card.key)) for card in CARDS]

        return {
            "rows": [entry(row, True) for row in standings.rows],
            "anchors": [entry(row, False) for row in standings.anchors],
            "incomplete": [entry(row, True) for row in standings.incomplete],
            "canTell": standings.can_tell,
        }

    def photos_file(self) -> dict[str, Any]:
        """Gallery photos by place: file name, thumbnail, identity."""
        return {
            "files": list(self.photos),
            "pictures": [digest[:KEY_LENGTH] for digest, _ in self.photos.values()],
            "identities": [self.identity_place[identity] for _, identity in self.photos.values()],
        }

    def identities_file(self) -> dict[str, Any]:
        category_of = self.board.category_of
        categories = {name: i for i, name in enumerate(self.board.categories)}
        return {
            "identities": self.identities,
            "categories": [categories.get(category_of.get(identity, "")) for identity in self.identities],
        }

    def model_file(self, bundle: PublishedBundle) -> dict[str, Any]:
        """What a run declares, and its queries: picture, identity, prompt, reference."""
        queries = bundle.records[0].queries
        prompts, prompt_ids = Labels(), Labels()
        references: dict[str, list[int]] = {}
        reference_place: dict[str, int] = {}
        for i, reference in enumerate(bundle.manifest["references"]):
            references.setdefault(reference["identity"], []).append(i)
            reference_place[reference["file_name"]] = i
        identities = texts_of(queries, "identity")
        named = texts_of(queries, "reference_file_name")
        return {
            "declared": {key: value for key, value in bundle.run.items() if key in DECLARED_SHOWN and value},
            "incomplete": list(bundle.incomplete),
            "hasPictures": has_pictures(bundle),
            "files": texts_of(queries, "file_name"),
            "pictures": [digest[:KEY_LENGTH] for digest in texts_of(queries, "image_sha256")],
            "identities": [self.identity_place[identity] for identity in identities],
            "prompts": [prompts[text] for text in texts_of(queries, "prompt")],
            "promptTexts": prompts.values,
            "promptIds": [prompt_ids[text] for text in texts_of(queries, "prompt_id")],
            "promptIdTexts": prompt_ids.values,
            "seeds": texts_of(queries, "seed"),
            "references": [
                {"file": reference["file_name"], "picture": reference["image_sha256"][:KEY_LENGTH]}
                for reference in bundle.manifest["references"]
            ],
            # Of a query: its own reference, or those of its identity.
            "referencesOf": [
                ([reference_place[name]] if name in reference_place else []) if name else references.get(identity, [])
                for identity, name in zip(identities, named, strict=True)
            ],
            "referenceFiles": named,
        }

    def record_files(self, bundle: PublishedBundle, record: PublishedRecord) -> tuple[dict[str, Any], list[Any]]:
        """Scores of each query, in the order of `model_file`, and chunks of their neighbours."""
        import pyarrow as pa

        queries, neighbours = record.queries, record.neighbours
        order = _order(bundle.records[0].queries, queries, record)
        kind = record.summary["pairwise_similarity"]["to"]
        photo = _places(neighbours.column("file_name"), self.photo_place)
        similarity = _rounded(neighbours.column("similarity").to_numpy())
        is_relevant = neighbours.column("is_relevant").to_numpy(zero_copy_only=False)
        of_query = neighbours.column("query").to_numpy()
        starts = np.searchsorted(of_query, np.arange(queries.num_rows + 1))
        wrong = np.where(is_relevant, -(10**DECIMALS) * 2, similarity)
        has_neighbours = bool((np.diff(starts) > 0).all())
        if not has_neighbours:
            raise FinerRankError(f"{record.folder}: queries without neighbours; {AGAIN}")
        top_wrong = np.maximum.reduceat(wrong, starts[:-1])

        def column(name: str) -> npt.NDArray[Any]:
            values: npt.NDArray[Any] = queries.column(name).to_numpy(zero_copy_only=False)
            return values[order]

        auc = queries.column("auc").cast(pa.float64()).to_numpy(zero_copy_only=False)[order]
        scores: dict[str, Any] = {
            "ap": _rounded(column("average_precision")).tolist(),
            "auc": [None if np.isnan(v) else round(v, DECIMALS) for v in auc.tolist()],
            "firstHit": np.round(column("first_hit_rank"), 2).tolist(),
            "rank1": _rounded(column("rank_1")).tolist(),
            "tied": column("is_tied").astype(int).tolist(),
            "relevant": column("n_relevant").tolist(),
            "gallery": column("n_gallery").tolist(),
            "similarity": _rounded(column(f"similarity_to_{kind}")).tolist(),
            "similarityTo": kind,
            "nearest": photo[starts[:-1]][order].tolist(),
            "topWrong": [None if v < -(10**DECIMALS) - 100 else v for v in top_wrong[order].tolist()],
            # In full, for tests of differences.
            "means": [[self.identity_place[name], mean] for name, mean in sorted(record.identity_means().items())],
        }
        if "is_copy" in queries.column_names:
            scores["copy"] = column("is_copy").astype(int).tolist()
        photos, similarities = (_in_lists(values, starts, order) for values in (photo, similarity))
        chunks = [
            {"photos": photos[start : start + CHUNK], "similarities": similarities[start : start + CHUNK]}
            for start in range(0, len(photos), CHUNK)
        ]
        return scores, chunks


DECLARED_SHOWN = (
    "model", "authors", "url", "contact", "method", "base_model", "training_data", "licence", "identifier", "parameters"
)  # fmt: skip


def has_pictures(bundle: PublishedBundle) -> bool:
    """Whether its pictures are there, and its gallery's licence allows to show them."""
    if not are_allowed(str(bundle.gallery.get("thumbnails", ""))):
        return False
    first = bundle.records[0].queries.column("image_sha256")[0].as_py()
    return thumbnail_name(first) in bundle.manifest["files"]


def thumbnails_of(bundle: PublishedBundle) -> dict[str, str]:
    """Thumbnail's file below the bundle → its name on the site."""
    if not has_pictures(bundle):
        return {}
    names = [name for name in bundle.manifest["files"] if name.startswith("thumbnails/")]
    return {name: f"{Path(name).stem[:KEY_LENGTH]}.webp" for name in names}


def _estimate(estimate: Estimate | None) -> list[float | None] | None:
    if not estimate or estimate["value"] is None:
        return None
    # With more digits than are shown: what is rounded twice may be rounded to another number.
    return [finite(estimate[key], DECIMALS + 2) for key in ("value", "low", "high")]


def _in_lists(
    values: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], order: npt.NDArray[np.int64]
) -> list[list[int]]:
    """The values of each query, in the order of queries."""
    lengths = np.diff(starts)
    if (lengths == lengths[0]).all():
        return values.reshape(-1, lengths[0])[order].tolist()  # type: ignore[no-any-return]
    return [values[starts[i] : starts[i + 1]].tolist() for i in order.tolist()]


def _rounded(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Ten-thousandths: whole numbers are shorter, and quicker to write."""
    rounded: npt.NDArray[np.int64] = np.rint(values * 10**DECIMALS).astype(np.int64)
    return rounded


def _places(names: "pa.ChunkedArray", place: Mapping[str, int]) -> npt.NDArray[np.int64]:
    """Where the names of a dictionary-encoded column stand in a list."""
    parts = []
    for chunk in names.chunks:
        own = np.array([place[name] for name in chunk.dictionary.to_pylist()], dtype=np.int64)
        parts.append(own[chunk.indices.to_numpy(zero_copy_only=False)])
    return np.concatenate(parts)


def _photos(board: Board) -> dict[str, tuple[str, str]]:
    """File name → (SHA-256, identity), in the order of the names.

    Raises:
        Faults: bundles of one gallery contradict each other.
    """
    found: dict[str, tuple[str, str, str]] = {}
    for bundle in board.bundles:
        for record in bundle.records:
            for name, digest, identity in _distinct_photos(record.neighbours):
                other = found.setdefault(name, (digest, identity, bundle.name))
                if other[:2] != (digest, identity):
                    what = f"{name} is another photo or identity than in {other[2]}"
                    raise Faults(str(bundle.folder), [Fault("neighbours.parquet", what, "check both bundles' sources")])
    return {name: found[name][:2] for name in sorted(found)}


def _distinct_photos(neighbours: "pa.Table") -> set[tuple[str, str, str]]:
    """(file name, SHA-256, identity) of each photo among the neighbours."""
    names = ("file_name", "image_sha256", "identity")
    columns = [neighbours.column(name).unify_dictionaries().combine_chunks() for name in names]
    columns = [column.chunk(0) if hasattr(column, "chunk") else column for column in columns]
    codes = np.stack([column.indices.to_numpy().astype(np.int64) for column in columns])
    sizes = [len(column.dictionary) for column in columns]
    distinct = np.unique((codes[0] * sizes[1] + codes[1]) * sizes[2] + codes[2])
    rest, identity = np.divmod(distinct, sizes[2])
    file, digest = np.divmod(rest, sizes[1])
    labels = [column.dictionary.to_numpy(zero_copy_only=False) for column in columns]
    return set(zip(*(of[at] for of, at in zip(labels, (file, digest, identity), strict=True)), strict=True))


def _order(first: "pa.Table", queries: "pa.Table", record: PublishedRecord) -> npt.NDArray[np.int64]:
    """The rows of `queries` in the order of `first`.

    Raises:
        FinerRankError: they are of other queries.
    """
    key = ["file_name", "identity"]
    if first is queries or _plain(first, key).equals(_plain(queries, key)):
        return np.arange(queries.num_rows)
    wanted, own = (list(zip(*(t.column(c).to_pylist() for c in key), strict=True)) for t in (first, queries))
    place = {query: i for i, query in enumerate(own)}
    if sorted(wanted) != sorted(own) or len(place) < len(own):
        raise FinerRankError(f"{record.folder}: is of other queries than the bundle's other records; {AGAIN}")
    return np.array([place[query] for query in wanted])


def _plain(table: "pa.Table", columns: list[str]) -> "pa.Table":
    """Columns without their dictionaries, which may be in different orders."""
    import pyarrow as pa

    return pa.table({name: table.column(name).cast(pa.string()) for name in columns})
