"""What a language model's scores of a run come to: mean with interval, means of identities, agreement of repeats."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmark.language_judge import SENT_AS, Judgement, Score
from benchmark.language_judge_replies import ANSWERED, BEST
from benchmark.statistics import Estimate, estimate_mean
from galleries.gallery import Gallery
from galleries.image_set import new_folder
from galleries.tables import write_csv
from personalization_runs.run import Run

WHAT = "opinion of a language model, beside the ranking and no part of it"
COLUMNS = ("file_name", "identity", "reference", "repeat", "score", "reason", "status")


def summary_of(judgement: Judgement, gallery: Gallery, run: Run, host: str) -> dict[str, Any]:
    """What `scores.json` holds. The same for the same replies, whether they were asked for now or kept from before.

    An image's score is the mean over its answered repeats, an identity's the mean over its images. The interval is a
    bootstrap over identities. Values that do not exist are None.
    """
    settings, scores = judgement.settings, judgement.scores
    statuses = Counter(score.status for score in scores)
    of_image = _means_of_images(scores)
    images = [identity for _, identity in of_image]
    mean = estimate_mean(list(of_image.values()), images)
    return {
        "what": WHAT,
        "model": settings.model,
        "endpoint_host": host,
        "replies_from": [
            {"endpoint_host": where, "served_model": served, "n": n} for (where, served), n in judgement.replies.items()
        ],
        "temperature": settings.temperature,
        "repeats": settings.repeats,
        "limit": settings.limit,
        "prompt": judgement.prompt.text,
        "prompt_sha256": judgement.prompt.sha256,
        "images_sent_as": SENT_AS,
        "gallery": {"name": gallery.card.name, "version": gallery.card.version, "table_sha256": gallery.digest},
        "run": {"model": run.card.model, "table_sha256": run.digest},
        "references": judgement.references,
        "n_images": len(of_image),
        "n_identities": len(set(images)),
        "n_asked": len(scores),
        "n_answered": statuses[ANSWERED],
        "n_missing": len(scores) - statuses[ANSWERED],
        "missing": {status: n for status, n in sorted(statuses.items()) if status != ANSWERED},
        "mean_score": _as_json(mean),
        "mean_score_of_1": _as_json(mean, 1 / BEST),
        "krippendorff_alpha": agreement(scores) if settings.repeats > 1 else None,
        "identities": {
            identity: {"n_images": images.count(identity), **_mean_of(identity, of_image)}
            for identity in sorted(set(images))
        },
    }


def agreement(scores: Sequence[Score]) -> float | None:
    """Krippendorff's alpha of the repeats, at the interval level (Krippendorff 2011, *Computing Krippendorff's
    alpha-reliability*): 1 where an image always gets the same score, 0 where scores agree as if dealt out by chance,
    below 0 where they agree less.

    None where it is undefined: no image has two scores, or all of these are equal.
    """
    import krippendorff
    import numpy as np

    by_image: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    for score in scores:
        if score.score is not None:
            by_image[score.file_name, score.identity][score.repeat] = score.score
    units = [given for given in by_image.values() if len(given) > 1]
    if len({value for given in units for value in given.values()}) < 2:
        return None
    repeats = range(1, 1 + max(score.repeat for score in scores))
    table = np.array([[given.get(repeat, np.nan) for given in units] for repeat in repeats])
    return float(krippendorff.alpha(reliability_data=table, level_of_measurement="interval"))


def _means_of_images(scores: Sequence[Score]) -> dict[tuple[str, str], float]:
    """(file name, identity asked for) → mean over answered repeats, NaN where there is none."""
    given: dict[tuple[str, str], list[int]] = {}
    for score in scores:
        of = given.setdefault((score.file_name, score.identity), [])
        if score.score is not None:
            of.append(score.score)
    return {image: math.fsum(of) / len(of) if of else math.nan for image, of in given.items()}


def _mean_of(identity: str, of_image: dict[tuple[str, str], float]) -> dict[str, Any]:
    known = [mean for (_, of), mean in of_image.items() if of == identity and not math.isnan(mean)]
    return {"n_scored": len(known), "mean_score": math.fsum(known) / len(known) if known else None}


def _as_json(estimate: Estimate | None, scale: float = 1) -> dict[str, float | None]:
    values = asdict(estimate) if estimate else {"value": None, "low": None, "high": None}
    return {key: None if value is None else value * scale for key, value in values.items()}


def write_scores(summary: dict[str, Any], scores: Sequence[Score], out: Path) -> None:
    """Write `scores.json` and `scores.csv` into a new folder.

    Raises:
        FinerRankError: it exists already, or cannot be written.
    """
    rows = [
        {column: "" if (value := getattr(score, column)) is None else str(value) for column in COLUMNS}
        for score in scores
    ]
    with new_folder(out) as folder:
        text = json.dumps(summary, ensure_ascii=False, allow_nan=False, indent=2)
        (folder / "scores.json").write_text(text + "\n", encoding="utf-8")
        write_csv(folder / "scores.csv", COLUMNS, rows)
