"""What the page of a gallery says: its card, its identities, and how hard each is."""

from collections.abc import Mapping
from typing import Any

from leaderboard.site.data import KEY_LENGTH, has_pictures
from leaderboard.standings import Board, Standings

CARD_FIELDS = {
    "description": "description",
    "granularity": "granularity",
    "licence": "licence",
    "source": "source",
    "citation": "citation",
    "thumbnails": "pictures may be shown",
    "leaks": "leak gate",
    "distractors": "distractors",
}
"""Field of `gallery.toml` → how it is called on the page."""
SHOWN_REFERENCES = 2


def gallery_page(board: Board, standings: Mapping[str, Standings]) -> dict[str, Any]:
    """Fields of the template, of the encoder that most records are of."""
    embedder = board.embedders[0]
    ranked = {row.bundle for row in standings[embedder.key].rows}
    records = [(b, r) for b, r in board.records[embedder.fingerprint] if b.name in ranked]
    records = records or list(board.records[embedder.fingerprint])
    bundle, record = records[0]
    queries = record.queries
    n_photos = dict(zip(queries.column("identity").to_pylist(), queries.column("n_relevant").to_pylist(), strict=True))
    pool = dict(zip(queries.column("identity").to_pylist(), queries.column("n_gallery").to_pylist(), strict=True))
    category_of = dict(zip(queries.column("identity").to_pylist(), queries.column("category").to_pylist(), strict=True))
    shown: dict[str, list[str]] = {}
    if has_pictures(bundle):
        for reference in bundle.manifest["references"]:
            shown.setdefault(reference["identity"], []).append(reference["image_sha256"][:KEY_LENGTH])
    identities = []
    for name, part in record.summary["identities"].items():
        own = [r.summary["identities"][name]["mAP"]["value"] for _, r in records if name in r.summary["identities"]]
        identities.append(
            {
                "name": name,
                "category": category_of[name],
                "n_photos": n_photos[name],
                "pool": pool[name],
                "chance": part["chance"],
                "held_out": part["held_out"],
                "models": sum(own) / len(own),
                "pictures": shown.get(name, [])[:SHOWN_REFERENCES],
            }
        )
    identities.sort(key=lambda row: (row["models"], row["name"]))
    anchors = [
        (row.model, *((row.scores[key] or {}).get("value") for key in ("mAP", "AUC")))
        for row in standings[embedder.key].anchors
        if not row.bundle
    ]
    return {
        "card": [(label, bundle.gallery.get(field, "")) for field, label in CARD_FIELDS.items()],
        "digests": [(name, bundle.gallery[f"{name}_sha256"]) for name in ("table", "images")],
        "identities": identities,
        "embedder": embedder,
        "anchors": anchors,
        "n_models": len(records),
        "has_pictures": bool(shown),
    }
