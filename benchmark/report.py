"""Evaluations as JSON for programs and as tables for people."""

from typing import Any

from benchmark.protocol import Evaluation
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


def estimate_as_json(estimate: Estimate | None) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(estimate) if estimate else {"value": None, "low": None, "high": None}


def evaluations_as_json(evaluations: list[Evaluation], folders: dict[tuple[str, str], str]) -> dict[str, Any]:
    anchors = {
        evaluation.embedder: {
            name: {metric: estimate_as_json(e) for metric, e in anchor.items()}
            for name, anchor in evaluation.anchors.items()
            if anchor
        }
        for evaluation in evaluations
    }
    records = []
    for evaluation in evaluations:
        for record in evaluation.records:
            summary = record.summary
            records.append(
                {
                    "run": record.name,
                    "embedder": evaluation.embedder,
                    "record": folders.get((record.name, evaluation.embedder)),
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
                    **({"with_same_encounter": s} if (s := summary.get("with_same_encounter")) else {}),
                }
            )  # fmt: skip
    work = {
        e.embedder: {
            "images": e.n_images,
            "distinct_images": e.n_distinct,
            "forward_passes": e.n_forward_passes,
            "left_out": list(e.left_out),
            "notes": list(e.notes),
        }
        for e in evaluations
    }
    return {
        "anchors": anchors[evaluations[0].embedder],
        "anchors_by_embedder": anchors,
        "records": records,
        "embedding": work,
    }


def number(estimate: Any) -> str:
    """`0.812 [0.701, 0.893]`"""
    if not estimate or estimate["value"] is None:
        return "–"
    bounds = "" if estimate["low"] is None else f" [{estimate['low']:.3f}, {estimate['high']:.3f}]"
    return f"{estimate['value']:.3f}{bounds}"


def p_value(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def print_evaluation(gallery: str, evaluation: Evaluation, by: str) -> None:
    from galleries.console import print_table
    from personalization_runs.run import CLASS_ONLY

    kinds = sorted({record.summary["pairwise_similarity"]["to"] for record in evaluation.records})
    has_encounters = any("with_same_encounter" in record.summary for record in evaluation.records)
    extra = ["retention", *(SIMILARITY_NAMES[kind] for kind in kinds)] if evaluation.records else []
    extra += ["mAP with the references' encounters"] if has_encounters else []
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
        cells += [number(summary.get("with_same_encounter", {}).get("mAP"))] if has_encounters else []
        rows.append([record.name, *cells])
    print_table(f"{gallery}, {evaluation.embedder}", ["run", *SHOWN, *extra], rows)
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
    print_table(f"by {by}", ["run", by, "queries", *SHOWN, *anchor_columns], parts)
