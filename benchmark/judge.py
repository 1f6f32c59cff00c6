"""One embedder's opinion of one gallery: its anchors, and the records of runs."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.aggregates import (
    METRICS,
    Aggregate,
    Answer,
    aggregate,
    as_json,
    as_json_estimate,
    by,
    chance_of,
    from_json,
    json_or_empty,
    matched_anchors,
    retention,
)
from benchmark.embed import ImageFile
from benchmark.embedders import Embedder
from benchmark.pool import Asked, Pool, chance_scores
from benchmark.rank import GALLERY_BLOCK, Floats, Rows, pair_similarity, row_norms
from benchmark.records import FORMAT, PROTOCOL, Record
from benchmark.scores import CMC_DEPTHS, QueryScores
from benchmark.statistics import Estimate, estimate_mean, estimate_mean_of_categories, estimate_mean_of_identities
from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.gallery import Gallery, Photo
from galleries.image_set import ImageRow
from galleries.images import sha256_of
from personalization_runs.run import Query, Run

if TYPE_CHECKING:
    import pyarrow as pa

PACKAGES = ("torch", "torchvision", "timm", "open_clip_torch", "scikit-image", "numpy", "pillow")
"""Their versions go into the record."""

FEW_IDENTITIES = 10
"""Below so many, a bootstrap over identities gives intervals that are too narrow."""


@dataclass(frozen=True)
class Options:
    """How to evaluate. None of them moves the score of a query.

    Attributes:
        n_neighbours: kept of each query, to look at.
        skip_broken: score the readable images when some are not, and say how many were left out.
        batch_size: images per forward pass; 32 where None.
        gallery_block: photos compared at a time.
    """

    n_neighbours: int = 10
    skip_broken: bool = False
    batch_size: int | None = None
    gallery_block: int = GALLERY_BLOCK


@dataclass(frozen=True)
class Opinion:
    """Anchors, a record per run, and what a reader of the numbers should know."""

    anchors: Mapping[str, Aggregate | None]
    records: tuple[Record, ...]
    notes: tuple[str, ...]


class Judge:
    """One embedder's opinion of one gallery."""

    def __init__(
        self,
        gallery: Gallery,
        files: Mapping[Path, ImageFile],
        row_of: Mapping[Path, int],
        rows: Rows,
        embedder: Embedder,
        options: Options,
    ) -> None:
        self.gallery = gallery
        self.files = files
        self.row_of = row_of
        self.rows = rows
        self.embedder = embedder
        self.options = options
        photos = [p for p in gallery.split("gallery", "distractor") if p.path in row_of]
        photos.sort(key=lambda photo: (photo.category, photo.file_name))
        if not any(photo.split == "gallery" for photo in photos):
            raise FinerRankError(f"{gallery.root}: no usable gallery photo is left; mend the images")
        self.pool = Pool(photos, rows[[row_of[photo.path] for photo in photos]], options.gallery_block)
        self.has_encounters = any(photo.encounter for photo in gallery.photos)
        self.notes: list[str] = []

    def opinion(self, runs: Sequence[Run]) -> Opinion:
        """Anchors first, then the runs, in order."""
        held_out = self._held_out()
        copied = self._copied_reference()
        anchors: dict[str, Aggregate | None] = {
            "chance": self._random_order(),
            "held_out": aggregate(held_out),
            "copied_reference": aggregate(copied),
        }
        records = [self._record(run, held_out, anchors) for run in runs]
        n_fewest = min((record.summary["n_identities"] for record in records), default=FEW_IDENTITIES)
        if n_fewest < FEW_IDENTITIES:
            self.notes.append(f"too few identities for an interval to be taken at its word (fewest: {n_fewest})")
        class_only = [record for record, run in zip(records, runs, strict=True) if run.is_class_only]
        anchors["class_only"] = from_json(class_only[0].summary["scores"]) if class_only else None
        if len(class_only) > 1:
            self.notes.append(f"several class-only runs: the anchor is {class_only[0].name!r}")
        return Opinion(anchors, tuple(records), tuple(self.notes))

    def _ask(self, asked: Sequence[Asked]) -> list[QueryScores | None]:
        return self.pool.score(asked, self.rows)

    def _answers(self, asked: Sequence[Asked]) -> tuple[list[Answer], int]:
        """Answers to the questions that have one, and the number of those that have none."""
        answers = [
            Answer(question.identity, question.category, scores, chance_of(scores))
            for question, scores in zip(asked, self._ask(asked), strict=True)
            if scores is not None
        ]
        return answers, len(asked) - len(answers)

    def _random_order(self) -> Aggregate:
        """One question for each identity, answered in random order. No interval: nothing is drawn."""
        of = [chance_scores(n, self.pool.size(category)) for category, n in self.pool.identities.values()]
        means = {}
        for metric, score in METRICS.items():
            values = [score(s) for s in of if not math.isnan(score(s))]
            mean = math.fsum(values) / len(values) if values else None
            means[metric] = None if mean is None else Estimate(mean, mean, mean)
        return means

    def _held_out(self) -> list[Answer]:
        """Each gallery photo as a query, itself left out, and photos of its own encounter too."""
        asked = [
            Asked(self.row_of[p.path], p.identity, p.category, itself=p.file_name, encounters=_encounters([p]))
            for p in self.pool.photos
            if p.split == "gallery"
        ]
        answers, n_without = self._answers(asked)
        if n_without:
            self.notes.append(
                f"held-out anchor: {n_without} of {len(asked)} photos are left out: "
                "no other photo of their identity can answer"
            )
        return answers

    def _copied_reference(self) -> list[Answer]:
        """Each reference as a query: what a model that returns its input would score."""
        asked = [
            Asked(self.row_of[p.path], p.identity, p.category, encounters=_encounters([p]))
            for p in self.gallery.split("reference")
            if p.path in self.row_of and p.identity in self.pool.identities
        ]
        if not asked:
            self.notes.append("no reference photos: no copied-reference anchor")
        return self._answers(asked)[0]

    def _record(self, run: Run, held_out: Sequence[Answer], anchors: Mapping[str, Aggregate | None]) -> Record:
        queries = [query for query in run.queries(self.gallery) if query.image.path in self.row_of]
        if not queries:
            raise FinerRankError(f"{run.root}: no usable image is left; mend the images")
        asked = [self._asked(query) for query in queries]
        scores = self._ask(asked)
        self._check_answered(run, queries, scores)
        answers = [
            Answer(query.identity, query.category, s, chance_of(s))
            for query, s in zip(queries, scores, strict=True)
            if s
        ]
        kind, similarity = self._pairwise_similarity(queries)
        columns = self._query_columns(queries, answers) | {f"similarity_to_{kind}": similarity}
        identities = [answer.identity for answer in answers]
        extra: dict[str, Any] = {}
        if any(question.encounters for question in asked):
            unmasked = [s for s in self._ask([replace(a, encounters=frozenset()) for a in asked]) if s]
            columns["average_precision_with_same_encounter"] = [s.average_precision for s in unmasked]
            extra["with_same_encounter"] = {
                metric: as_json_estimate(estimate_mean([score(s) for s in unmasked], identities))
                for metric, score in METRICS.items()
            }
        elif self.has_encounters:
            self.notes.append(f"{run.card.model}: no reference of a known encounter, so that no encounter was left out")
        pairwise = estimate_mean(similarity, identities)
        n_copied = self._n_copied(queries)
        if n_copied:
            self.notes.append(f"{run.card.model}: {n_copied} images are photos of the gallery, byte for byte")
        summary = {
            "format": FORMAT,
            "protocol": PROTOCOL,
            "run": {"name": run.card.model, **_present(asdict(run.card)), "table_sha256": run.digest,
                    "images_sha256": self._content_digest(run.images)},
            "gallery": {**_present(asdict(self.gallery.card)), "table_sha256": self.gallery.digest,
                        "images_sha256": self._content_digest(self.gallery.photos)},
            "embedder": {"spec": _without_folder(self.embedder.spec), "fingerprint": self.embedder.fingerprint,
                         **self.embedder.description},
            "n_images": len({query.image.file_name for query in queries}),
            "n_images_left_out": sum(image.path not in self.row_of for image in run.images),
            "n_photos_left_out": sum(photo.path not in self.row_of for photo in self.gallery.photos),
            "n_queries": len(queries),
            "n_identities": len(set(identities)),
            "n_gallery_identities": len(self.pool.identities),
            "n_tied_queries": sum(answer.scores.is_tied for answer in answers),
            "n_copied": n_copied,
            "scores": as_json(aggregate(answers)),
            "pairwise_similarity": {**json_or_empty(pairwise), "to": kind},
            "identity_retention": as_json_estimate(retention(answers, held_out)),
            "matched_anchors": matched_anchors(answers, held_out),
            "mean_over_identities": {
                metric: as_json_estimate(estimate_mean_of_identities([score(a.scores) for a in answers], identities))
                for metric, score in METRICS.items()
            },
            "mean_over_categories": {
                metric: as_json_estimate(
                    estimate_mean_of_categories(
                        [score(a.scores) for a in answers], identities, [a.category for a in answers]
                    )
                )
                for metric, score in METRICS.items()
            },
            **extra,
            "categories": by(answers, held_out, lambda answer: answer.category),
            "identities": by(answers, held_out, lambda answer: answer.identity),
            "gallery_anchors": {name: as_json(anchor) for name, anchor in anchors.items()},
            "versions": {package: version(package) for package in ("finer-rank", *PACKAGES)},
        }  # fmt: skip
        places = {"gallery": str(self.gallery.root.absolute()), "run": str(run.root.absolute())}
        return Record(summary, _table(columns), self._neighbours(queries, asked), places)

    def _asked(self, query: Query) -> Asked:
        seen = [query.reference] if query.reference else self.gallery.references.get(query.identity, ())
        return Asked(self.row_of[query.image.path], query.identity, query.category, encounters=_encounters(seen))

    def _check_answered(self, run: Run, queries: Sequence[Query], scores: Sequence[QueryScores | None]) -> None:
        unanswered: dict[str, list[str]] = defaultdict(list)
        for query, s in zip(queries, scores, strict=True):
            if s is None:
                unanswered[query.identity].append(query.image.file_name)
        faults = []
        for identity, names in sorted(unanswered.items()):
            has_photos = identity in self.pool.identities
            what = "no gallery photo outside its references' encounters" if has_photos else "no readable gallery photo"
            remedy = "add such photos, or leave these images out"
            faults.append(Fault(f"identity {identity!r}", f"{what} ({len(names)} images, first {names[0]})", remedy))
        raise_if_any(str(run.root), faults)

    def _pairwise_similarity(self, queries: Sequence[Query]) -> tuple[str, list[float]]:
        """Cosine to the query's own reference; without one, the mean over what is known of its identity."""
        if all(query.reference and query.reference.path in self.row_of for query in queries):
            kind, partners = "own_reference", [[query.reference] for query in queries]
        else:
            usable = {i: [p for p in ps if p.path in self.row_of] for i, ps in self.gallery.references.items()}
            if all(usable.get(query.identity) for query in queries):
                kind, partners = "all_references", [[*usable[query.identity]] for query in queries]
            else:
                own: dict[str, list[Photo | None]] = defaultdict(list)
                for photo in self.pool.photos:
                    if photo.split == "gallery":
                        own[photo.identity].append(photo)
                kind, partners = "gallery_photos", [own[query.identity] for query in queries]
        left = np.repeat([self.row_of[q.image.path] for q in queries], [len(of) for of in partners])
        right = np.array([self.row_of[p.path] for of in partners for p in of if p], dtype=np.int64)
        used = np.unique(np.concatenate([left, right]))
        norms: Floats = np.ones(len(self.rows))
        norms[used] = row_norms(self.rows[used])
        flat = pair_similarity(self.rows, self.rows, left, right, norms, norms)
        ends = np.cumsum([len(of) for of in partners])[:-1]
        return kind, [math.fsum(of.tolist()) / len(of) for of in np.split(flat, ends)]

    def _query_columns(self, queries: Sequence[Query], answers: Sequence[Answer]) -> dict[str, list[Any]]:
        scores = [answer.scores for answer in answers]
        return {
            "file_name": [query.image.file_name for query in queries],
            "image_sha256": [self.files[query.image.path].digest for query in queries],
            "category": [query.category for query in queries],
            "identity": [query.identity for query in queries],
            "prompt": [query.image.prompt for query in queries],
            "prompt_id": [query.image.prompt_id for query in queries],
            "reference_file_name": [query.reference.file_name if query.reference else "" for query in queries],
            "seed": [query.image.seed for query in queries],
            "average_precision": [s.average_precision for s in scores],
            "auc": [None if math.isnan(s.auc) else s.auc for s in scores],
            "rank_1": [s.rank_1 for s in scores],
            **{f"cmc_{k}": [s.cmc[k] for s in scores] for k in CMC_DEPTHS},
            "map_at_r": [s.map_at_r for s in scores],
            "inverse_negative_penalty": [s.inverse_negative_penalty for s in scores],
            "first_hit_rank": [s.first_hit_rank for s in scores],
            "n_relevant": [s.n_relevant for s in scores],
            "n_gallery": [s.n_gallery for s in scores],
            "is_tied": [s.is_tied for s in scores],
            "chance_average_precision": [answer.chance for answer in answers],
        }

    def _neighbours(self, queries: Sequence[Query], asked: Sequence[Asked]) -> "pa.Table":
        nearest = self.pool.neighbours(asked, self.rows, self.options.n_neighbours)
        flat = [
            (q, rank, photo, similarity)
            for q, of in enumerate(nearest)
            for rank, (photo, similarity) in enumerate(of, start=1)
        ]
        return _table(
            {
                "query": [q for q, *_ in flat],
                "rank": [rank for _, rank, *_ in flat],
                "file_name": [photo.file_name for *_, photo, _ in flat],
                "image_sha256": [self.files[photo.path].digest for *_, photo, _ in flat],
                "identity": [photo.identity for *_, photo, _ in flat],
                "is_relevant": [photo.identity == queries[q].identity for q, _, photo, _ in flat],
                "similarity": [similarity for *_, similarity in flat],
            }
        )

    def _n_copied(self, queries: Sequence[Query]) -> int:
        """Images that are a photo of the gallery, byte for byte."""
        photos = {self.files[p.path].digest for p in self.gallery.photos if p.path in self.files}
        images = {query.image.path for query in queries}
        return sum(self.files[path].digest in photos for path in images)

    def _content_digest(self, rows: Sequence[ImageRow]) -> str:
        """SHA-256 over the names and contents of a set's usable images."""
        lines = sorted(f"{row.file_name}\0{self.files[row.path].digest}" for row in rows if row.path in self.files)
        return sha256_of("\n".join(lines).encode())


def _encounters(photos: Sequence[Photo]) -> frozenset[str]:
    return frozenset(photo.encounter for photo in photos if photo.encounter)


def _present(card: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in card.items() if value}


def _without_folder(spec: str) -> str:
    """A spec whose files are named without their folders: records are published."""
    model, at, weights = spec.partition("@")
    start, colon, folder = model.partition("local-dir:")
    model = f"{start}{colon}{Path(folder).name}" if colon else model
    return f"{model}{at}{Path(weights).name}" if at and "hf-hub:" not in model else model + at + weights


def _table(columns: Mapping[str, Sequence[Any]]) -> "pa.Table":
    import pyarrow as pa

    return pa.table({name: list(values) for name, values in columns.items()})
