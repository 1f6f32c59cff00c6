"""What an index says of itself: of which photos and encoder it is, how it was made, and the digests of its files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from benchmark.embedders import Embedder
from benchmark.index_settings import Kind
from galleries.downloads import first_line
from galleries.errors import FinerRankError

FORMAT = 1
CARD, PHOTOS, FLAT, APPROXIMATE = "index.json", "photos.parquet", "flat.faiss", "approximate.faiss"
BUILD = "build it again: finer-rank index build"


@dataclass(frozen=True)
class IndexCard:
    """What `index.json` says.

    Attributes:
        gallery: its `name`, `version`, and the digest of its table, `table_sha256`.
        embedder: see `how_embedded`.
        kind: `flat`, `ivf` or `hnsw`.
        parameters: of FAISS: `lists`, or `links` and `construction`; `half`, whether its rows are float16.
        effort: of a search unless another is given: lists looked at (ivf), candidates kept (hnsw); 0 of a flat index.
        recall: for each effort tried when it was built the share, in [0, 1], of the 10 photos nearest to a photo that
            were found, a photo as near as the tenth counting as well; none of a flat index, which finds all.
        n_photos, dimension: of the embeddings.
        faiss: version that wrote it.
        files: name → SHA-256.
    """

    gallery: Mapping[str, Any]
    embedder: Mapping[str, Any]
    kind: str
    parameters: Mapping[str, Any]
    effort: int
    recall: Sequence[Mapping[str, Any]]
    n_photos: int
    dimension: int
    faiss: str
    files: Mapping[str, Any]
    format: int = FORMAT


def how_embedded(embedder: Embedder) -> dict[str, Any]:
    """All that it takes to load the same embedder again, and its fingerprint."""
    one = embedder.members[0].embedder if embedder.members else embedder  # an ensemble hands its options to all
    return {
        "spec": embedder.spec,
        "fingerprint": embedder.fingerprint,
        "precision": one.precision,
        "is_compiled": one.is_compiled,
        "resize": one.request.resize,
        "size": one.request.size,
        "interpolation": one.request.interpolation,
    }


def read_card(root: Path) -> IndexCard:
    """The card of an index folder.

    Raises:
        FinerRankError: none, a damaged one, or of another format.
    """
    path = root / CARD
    if not path.is_file():
        raise FinerRankError(f"{root}: no {CARD}; name a folder that finer-rank index build wrote")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise FinerRankError(f"{path}: format {values['format']}, this program reads {FORMAT}; {BUILD}")
        card = IndexCard(**values)
        expected = {PHOTOS, FLAT} | ({APPROXIMATE} if card.kind != "flat" else set())
        is_sound = (
            card.kind in get_args(Kind)
            and set(card.files) == expected
            and all(isinstance(v, int) for v in (card.effort, card.n_photos, card.dimension))
            and (card.kind == "flat" or card.effort > 0)
            and all(isinstance(e["effort"], int) and 0 <= e["recall"] <= 1 for e in card.recall)
            and all(isinstance(card.gallery[key], str) for key in ("name", "version", "table_sha256"))
            and all(isinstance(card.embedder[key], str) for key in ("spec", "fingerprint", "precision"))
            and card.embedder.keys() >= {"is_compiled", "resize", "interpolation"}
            and isinstance(card.embedder["size"], int | None)
        )
        if not is_sound:
            raise ValueError("a field is missing, or of another kind")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise FinerRankError(f"{path}: damaged ({reason}); {BUILD}") from None
    return card
