"""The aggregates of a record, computed again from its queries."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmark.aggregates import (
    METRICS,
    Answer,
    aggregate,
    as_json,
    as_json_estimate,
    by,
    json_or_empty,
    matched_anchors,
    retention,
)
from benchmark.embedders.base import digest_of
from benchmark.pool import chance_scores
from benchmark.scores import QueryScores
from benchmark.statistics import Estimate, estimate_mean, estimate_mean_of_categories, estimate_mean_of_identities
from galleries.errors import Fault
from leaderboard.bundle_tables import Columns, scores_of
from leaderboard.record_schema import CLIP_T_COLUMNS, DISTANCE_COLUMN, SAME_ENCOUNTER_COLUMN
from leaderboard.schema import AGAIN, below


def aggregates_of(queries: Columns, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What `record.json` must say, given its queries.

    What the held-out photos of each identity score is taken from the record: only the images can tell. So are the
    anchors of the gallery but chance.
    """
    rows = range(len(queries["file_name"]))
    identities, categories = list(queries["identity"]), list(queries["category"])
    answers = [
        Answer(identities[row], categories[row], scores_of(queries, row), queries["chance_average_precision"][row])
        for row in rows
    ]
    category_of = dict(zip(identities, categories, strict=True))
    held_out = [
        Answer(identity, category_of[identity], _held_out_scores(part["held_out"]), 0.0)
        for identity, part in summary["identities"].items()
        if identity in category_of and part["held_out"] is not None
    ]
    kind = summary["pairwise_similarity"]["to"]
    similarity = [float(value) for value in queries[f"similarity_to_{kind}"]]
    values = {metric: [score(answer.scores) for answer in answers] for metric, score in METRICS.items()}
    found: dict[str, Any] = {
        "n_images": len(set(queries["file_name"])),
        "n_queries": len(answers),
        "n_identities": len(category_of),
        "n_tied_queries": sum(answer.scores.is_tied for answer in answers),
        "copy_rate": as_json_estimate(estimate_mean([float(value) for value in queries["is_copy"]], identities)),
        "scores": as_json(aggregate(answers)),
        "pairwise_similarity": {**json_or_empty(estimate_mean(similarity, identities)), "to": kind},
        "identity_retention": as_json_estimate(retention(answers, held_out)),
        "matched_anchors": matched_anchors(answers, held_out),
        "mean_over_identities": {
            metric: as_json_estimate(estimate_mean_of_identities(own, identities)) for metric, own in values.items()
        },
        "mean_over_categories": {
            metric: as_json_estimate(estimate_mean_of_categories(own, identities, categories))
            for metric, own in values.items()
        },
        "categories": by(answers, held_out, lambda answer: answer.category),
        "identities": by(answers, held_out, lambda answer: answer.identity),
    }
    if "with_same_encounter" in summary:
        lifted = [float(value) for value in queries[SAME_ENCOUNTER_COLUMN]]
        found["with_same_encounter"] = {"mAP": as_json_estimate(estimate_mean(lifted, identities))}
    elif summary["n_gallery_identities"] == len(category_of):
        found["gallery_anchors"] = {"chance": _chance(queries)}
    if "prompt_fidelity" in summary:
        found["prompt_fidelity"] = {
            "n_queries": sum(value is not None for value in queries[CLIP_T_COLUMNS[0]]),
            "identifier": summary["run"].get("identifier", ""),
            **{column: as_json_estimate(_mean_of_known(queries[column], identities)) for column in CLIP_T_COLUMNS},
        }
    if DISTANCE_COLUMN in summary:
        distances = [float(value) for value in queries[DISTANCE_COLUMN]]
        found[DISTANCE_COLUMN] = {**json_or_empty(estimate_mean(distances, identities)), "to": kind}
    description = {k: v for k, v in summary["embedder"].items() if k not in ("spec", "fingerprint", "gallery_seen")}
    found["embedder"] = {"fingerprint": digest_of(description)}
    return found


def _mean_of_known(values: Sequence[float | None], identities: Sequence[str]) -> Estimate | None:
    return estimate_mean([math.nan if value is None else value for value in values], identities)


def _held_out_scores(average_precision: float) -> QueryScores:
    """Of which retention and anchors read the average precision alone."""
    return replace(chance_scores(1, 1), average_precision=average_precision)


def _chance(queries: Columns) -> dict[str, Any]:
    """The anchor: one question for each identity, answered in random order, where no encounter is left out and every
    identity has queries."""
    shapes = dict(zip(queries["identity"], zip(queries["n_relevant"], queries["n_gallery"], strict=True), strict=True))
    scores = [chance_scores(n_relevant, n_gallery) for n_relevant, n_gallery in shapes.values()]
    means = {}
    for metric, score in METRICS.items():
        values = [score(s) for s in scores if not math.isnan(score(s))]
        mean = math.fsum(values) / len(values) if values else None
        means[metric] = None if mean is None else Estimate(mean, mean, mean)
    return as_json(means)


def differences(
    expected: Any, claimed: Any, source: str, tolerance: float, where: str = "", complete: bool = False
) -> Iterator[Fault]:
    """Where a record says something else than what was computed again.

    Args:
        expected: may lack fields of `claimed`, which are not compared then, unless it is `complete`.
        source: what it was computed from.
        tolerance: of numbers, relative to the larger of 1 and the number.
    """
    if isinstance(expected, Mapping) and isinstance(claimed, Mapping):
        for key, value in expected.items():
            if key in claimed:
                yield from differences(value, claimed[key], source, tolerance, below(where, key), complete)
            else:
                yield Fault(below(where, key), f"missing, but {source} has it", AGAIN)
        if complete or where in ("categories", "identities"):
            for key in sorted(claimed.keys() - expected.keys()):
                yield Fault(below(where, key), f"not in {source}", AGAIN)
    elif not _are_equal(expected, claimed, tolerance):
        yield Fault(where, f"{_shown(claimed)}, but {source} gives {_shown(expected)}", AGAIN)


def _are_equal(expected: Any, claimed: Any, tolerance: float) -> bool:
    numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in (expected, claimed)]
    if all(numbers):
        return bool(abs(expected - claimed) <= tolerance * max(1, abs(expected)))
    return bool(expected == claimed)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.10g}"
    return "nothing" if value is None else f"{value!r:.100}"
