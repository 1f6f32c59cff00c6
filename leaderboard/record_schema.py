"""What `record.json` and the tables of a record hold, field by field: the contract of a bundle."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from benchmark.aggregates import METRICS
from benchmark.embedders.zoo import SEEN_STATES
from benchmark.records import ALL, FORMAT, PROTOCOL
from benchmark.regions import FULL
from galleries.errors import Fault
from galleries.gallery import GRANULARITIES, GalleryCard
from leaderboard.schema import Check, anything, count, map_of, nullable, number, object_of, sha256, text
from personalization_runs.run import RunCard

SIMILARITIES = ("own_reference", "all_references", "gallery_photos")
MAX_RANK = 1e9

CLIP_T_COLUMNS = ("clip_t", "clip_t_without_identifier")
"""Of the queries of a record with `prompt_fidelity`, and the aggregates that are their means."""
PROMPT_COLUMN = "prompt_without_identifier"
"""Stands beside them."""

DISTANCE_COLUMN = "pairwise_distance"
"""Of the queries of a record with an aggregate of that name."""
DISTANCE_RANGE = (-201.0, 1e6)
"""-PSNR lies lowest; LPIPS has no bound of its own."""

DECLARED = (
    "model", "method", "base_model", "training_data", "licence", "authors", "contact", "gallery", "gallery_version",
)  # fmt: skip
"""Fields of `run.toml` that a submission fills in."""


def metric_range(metric: str) -> tuple[float, float]:
    return (1, MAX_RANK) if metric == "first_hit_rank" else (0, 1)


def _estimate(low: float, high: float) -> Check:
    bound = nullable(number(low, high))
    in_words = object_of({"value": number(low, high), "low": bound, "high": bound})

    def fits(each: Any) -> bool:
        return type(each) in (float, int) and low <= each <= high

    def check(where: str, value: Any) -> Iterator[Fault]:
        # Most of a record are estimates, and they are sound: only the others are looked at field by field.
        if isinstance(value, dict) and value.keys() == {"value", "low", "high"} and fits(value["value"]):
            lower, upper = value["low"], value["high"]
            if (lower is None or fits(lower)) and (upper is None or fits(upper)):
                return iter(())
        return in_words(where, value)

    return check


def _scores() -> dict[str, Check]:
    return {metric: nullable(_estimate(*metric_range(metric))) for metric in METRICS}


def _card(card: type[Any]) -> dict[str, Check]:
    return {field.name: anything if field.name == "parameters" else text() for field in fields(card)}


_share = number(0, 1)
_part = object_of(
    {
        "n_queries": count(1),
        "n_identities": count(1),
        "chance": _share,
        "held_out": nullable(_share),
        **_scores(),
    }
)
_digests: dict[str, Check] = {"table_sha256": sha256, "images_sha256": sha256}

RECORD = object_of(
    {
        "format": count(FORMAT, FORMAT),
        "protocol": text(one_of=(PROTOCOL,)),
        "region": text(one_of=(FULL,)),
        "positives": text(one_of=(ALL,)),
        "run": object_of(
            {"name": text(200, empty=False), **{name: text(2000, empty=False) for name in DECLARED}, **_digests},
            {**_card(RunCard), "n_refused": count(1)},
        ),
        "gallery": object_of(
            {**{name: text(200, empty=False) for name in ("name", "version")},
             "granularity": text(one_of=GRANULARITIES), **_digests},
            _card(GalleryCard),
        ),
        "embedder": object_of(
            {
                "spec": text(2000, empty=False),
                "fingerprint": sha256,
                "gallery_seen": text(one_of=SEEN_STATES),
            },
            others=anything,
        ),
        "n_images": count(1),
        # A board compares whole runs on whole galleries.
        "n_images_left_out": count(0, 0),
        "n_photos_left_out": count(0, 0),
        "n_queries": count(1),
        "n_identities": count(1),
        "n_gallery_identities": count(1),
        "n_tied_queries": count(),
        "n_copied": count(),
        "copy_rate": _estimate(0, 1),
        "scores": object_of(_scores()),
        "pairwise_similarity": object_of(
            {"value": number(-1.001, 1.001), "low": nullable(number(-1.001, 1.001)),
             "high": nullable(number(-1.001, 1.001)), "to": text(one_of=SIMILARITIES)}
        ),
        "identity_retention": nullable(_estimate(-1e6, 1e6)),
        "matched_anchors": object_of({"chance": _share, "held_out": nullable(_share)}),
        "mean_over_identities": object_of(_scores()),
        "mean_over_categories": object_of(_scores()),
        "categories": map_of(_part),
        "identities": map_of(_part),
        "gallery_anchors": object_of(
            {
                "chance": object_of(_scores()),
                **{name: object_of({}, _scores()) for name in ("held_out", "copied_reference")},
            }
        ),
        "versions": map_of(text(200)),
    },
    {
        "with_same_encounter": object_of(_scores()),
        "prompt_fidelity": object_of(
            {
                "embedder": text(2000, empty=False),
                "fingerprint": sha256,
                "n_queries": count(1),
                "identifier": text(2000),
                **dict.fromkeys(CLIP_T_COLUMNS, nullable(_estimate(-1.001, 1.001))),
            }
        ),
        DISTANCE_COLUMN: object_of(
            {
                "metric": text(2000, empty=False),
                "fingerprint": sha256,
                "size": nullable(count(8, 4096)),
                "value": number(*DISTANCE_RANGE),
                "low": nullable(number(*DISTANCE_RANGE)),
                "high": nullable(number(*DISTANCE_RANGE)),
                "to": text(one_of=SIMILARITIES),
            }
        ),
    },
)  # fmt: skip

TEXT_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "queries": (
        "file_name", "image_sha256", "category", "identity", "prompt", "prompt_id", "reference_file_name", "seed"
    ),
    "neighbours": ("file_name", "image_sha256", "identity"),
}  # fmt: skip
COUNT_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "queries": ("n_relevant", "n_gallery"),
    "neighbours": ("query", "rank"),
}
FLAG_COLUMNS: Mapping[str, tuple[str, ...]] = {"queries": ("is_tied", "is_copy"), "neighbours": ("is_relevant",)}
NUMBER_COLUMNS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "queries": {
        "average_precision": (0, 1),
        "auc": (0, 1),
        "rank_1": (0, 1),
        "cmc_5": (0, 1),
        "cmc_10": (0, 1),
        "map_at_r": (0, 1),
        "inverse_negative_penalty": (0, 1),
        "first_hit_rank": (1, MAX_RANK),
        "chance_average_precision": (0, 1),
    },
    "neighbours": {"similarity": (-1.001, 1.001)},
}
"""Column → its range. Cosines of float32 rows may leave [-1, 1] by their rounding."""
SAME_ENCOUNTER_COLUMN = "average_precision_with_same_encounter"
MAY_BE_NULL = ("auc", *CLIP_T_COLUMNS)
