"""Evaluations as JSON for programs and as tables for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.dependence import BackgroundDependence
from benchmark.protocol import Evaluation
from benchmark.records import ALL
from benchmark.regions import FULL
from benchmark.statistics import Estimate

SHOWN = ("mAP", "AUC", "rank_1")
SIMILARITY_NAMES = {
    "own_reference": "similarity to own reference",
    "all_references": "similarity to all references",
    "gallery_photos": "similarity to gallery photos",
}
ANCHOR_NAMES = {
    "chance": "chance",
    "class_only": "class only",
    "copied_reference": "copied reference",
    "held_out": "held-out photos",
}
LIFTED = {
    "with_same_encounter": "mAP with the references' encounters",
    "with_other_viewpoints": "mAP with other viewpoints",
}
"""Scores of a record without one of its restrictions, and how they are shown."""


CLIP_T_NAMES = {"clip_t": "CLIP-T", "clip_t_without_identifier": "CLIP-T without identifier"}


def estimate_as_json(estimate: Estimate | None) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(estimate) if estimate else {"value": None, "low": None, "high": None}


Folders = Mapping[tuple[str, str, str], str]
"""(run, embedder, region) → the folder that its record was written into."""


def evaluations_as_json(
    evaluations: Sequence[Evaluation], folders: Folders, dependences: Sequence[BackgroundDependence] = ()
) -> dict[str, Any]:
    """What `evaluate --json` prints. Without a region in their name, anchors and work are those of the first one."""
    by_region: dict[str, dict[str, Any]] = {}
    for evaluation in evaluations:
        of = by_region.setdefault(evaluation.region, {"anchors_by_embedder": {}, "embedding": {}})
        of["anchors_by_embedder"][evaluation.embedder] = {
            name: {metric: estimate_as_json(e) for metric, e in anchor.items()}
            for name, anchor in evaluation.anchors.items()
            if anchor
        }
        of["embedding"][evaluation.embedder] = {
            "images": evaluation.n_images,
            "distinct_images": evaluation.n_distinct,
            "forward_passes": evaluation.n_forward_passes,
            "left_out": list(evaluation.left_out),
            "notes": list(evaluation.notes),
        }
    records = []
    for evaluation in evaluations:
        for record in evaluation.records:
            summary = record.summary
            records.append(
                {
                    "run": record.name,
                    "embedder": evaluation.embedder,
                    "region": record.region,
                    "positives": record.positives,
                    "gallery_seen": summary["embedder"]["gallery_seen"],
                    "record": folders.get((record.name, evaluation.embedder, evaluation.region)),
                    **{metric: estimate or estimate_as_json(None) for metric, estimate in summary["scores"].items()},
                    **{
                        key: summary[key]
                        for key in (
                            "pairwise_similarity", "identity_retention", "matched_anchors", "n_images",
                            "n_images_left_out",
                            "n_photos_left_out", "n_queries",
                            "n_identities", "n_gallery_identities", "n_tied_queries", "n_copied",
                            "mean_over_identities", "mean_over_categories", "categories", "identities",
                        )
                    },
                    **{
                        key: summary[key]
                        for key in (
                            *LIFTED, "n_queries_of_unknown_viewpoint", "masks", "prompt_fidelity", "pairwise_distance"
                        )
                        if key in summary
                    },
                    **{key: summary["run"][key] for key in ("n_refused",) if key in summary["run"]},
                }
            )  # fmt: skip
    first = by_region[evaluations[0].region]
    dependence_by_embedder = {
        d.embedder: {
            "held_out": estimate_as_json(d.held_out),
            "runs": {name: estimate_as_json(estimate) for name, estimate in d.runs.items()},
        }
        for d in dependences
    }
    return {
        "anchors": first["anchors_by_embedder"][evaluations[0].embedder],
        **first,
        **({"by_region": by_region} if list(by_region) != [FULL] else {}),
        "records": records,
        **({"background_dependence": dependence_by_embedder} if dependences else {}),
    }


def number(estimate: Any) -> str:
    """`0.812 [0.701, 0.893]`"""
    if not estimate or estimate["value"] is None:
        return "–"
    bounds = "" if estimate["low"] is None else f" [{estimate['low']:.3f}, {estimate['high']:.3f}]"
    return f"{estimate['value']:.3f}{bounds}"


def distance_name(summary: Mapping[str, Any]) -> str:
    """`lpips (256 px) to own reference`"""
    distance = summary["pairwise_distance"]
    size = f" ({distance['size']} px)" if distance["size"] else ""
    return f"{distance['metric']}{size} {SIMILARITY_NAMES[distance['to']].removeprefix('similarity ')}"


def p_value(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def print_evaluation(gallery: str, evaluation: Evaluation, by: str) -> None:
    from galleries.console import print_table
    from personalization_runs.run import CLASS_ONLY

    kinds = sorted({record.summary["pairwise_similarity"]["to"] for record in evaluation.records})
    lifted = [key for key in LIFTED if any(key in record.summary for record in evaluation.records)]
    extra = ["retention", *(SIMILARITY_NAMES[kind] for kind in kinds)] if evaluation.records else []
    extra += [LIFTED[key] for key in lifted]
    fidelities = [record.summary.get("prompt_fidelity", {}) for record in evaluation.records]
    clip_t = [key for key in CLIP_T_NAMES if any(number(each.get(key)) != "–" for each in fidelities)]
    extra += [CLIP_T_NAMES[key] for key in clip_t]
    distances = sorted({distance_name(r.summary) for r in evaluation.records if "pairwise_distance" in r.summary})
    extra += distances
    rows = []
    for name, shown in ANCHOR_NAMES.items():
        anchor = evaluation.anchors.get(name)
        if anchor:
            estimates = [estimate_as_json(anchor[m]) for m in SHOWN]
            # Chance is computed, not drawn: it has no interval.
            cells = [number(e | {"low": None} if name == "chance" else e) for e in estimates]
            rows.append([f"({shown})", *cells, *([""] * len(extra))])
    for record in evaluation.records:
        summary = record.summary
        similarity = summary["pairwise_similarity"]
        cells = [number(summary["scores"][m]) for m in SHOWN]
        cells.append(number(summary["identity_retention"]))
        cells += [number(similarity) if similarity["to"] == kind else "" for kind in kinds]
        cells += [number(summary.get(key, {}).get("mAP")) for key in lifted]
        cells += [number(summary["prompt_fidelity"][key]) for key in clip_t]
        cells += [number(summary["pairwise_distance"]) if distance_name(summary) == name else "" for name in distances]
        rows.append([record.name, *cells])
    title = [gallery, evaluation.embedder]
    title += [f"{evaluation.region} only"] if evaluation.region != FULL else []
    title += [f"positives: {evaluation.positives}"] if evaluation.positives != ALL else []
    print_table(", ".join(title), ["run", *SHOWN, *extra], rows)
    if not by:
        return
    key = {"identity": "identities", "category": "categories"}[by]
    class_only: dict[str, Any] = next(
        (r.summary[key] for r in evaluation.records if r.summary["run"].get("method") == CLASS_ONLY), {}
    )
    parts = []
    for record in evaluation.records:
        for name, part in record.summary[key].items():
            anchors = [part["chance"], *([class_only.get(name, {}).get("mAP")] if class_only else []), part["held_out"]]
            values = [anchor["value"] if isinstance(anchor, dict) else anchor for anchor in anchors]
            scores = [number(part[m]) for m in SHOWN]
            cells = [record.name, name, str(part["n_queries"]), *scores]
            parts.append([*cells, *("–" if value is None else f"{value:.3f}" for value in values)])
    anchor_columns = ["chance mAP", *(["class-only mAP"] if class_only else []), "held-out mAP"]
    print_table(", ".join([f"by {by}", *title[2:]]), ["run", by, "queries", *SHOWN, *anchor_columns], parts)


def print_background_dependence(gallery: str, dependence: BackgroundDependence) -> None:
    from galleries.console import print_table

    rows = [["(held-out photos)", number(estimate_as_json(dependence.held_out))]]
    rows += [[name, number(estimate_as_json(estimate))] for name, estimate in dependence.runs.items()]
    print_table(f"{gallery}, {dependence.embedder}", ["run", "background dependence"], rows)
