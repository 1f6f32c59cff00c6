"""The protocol: a run's images as queries against a gallery, under one embedder.

Finer-Personalization Rank (arXiv 2512.19026): a generated image is ranked among identity-labelled real photos of its
category; the score is how early the photos of the right identity come.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.embed import ImageFile, Progress, embed_images
from benchmark.embedders import Embedder
from benchmark.pool import Asked, Pool, chance_scores
from benchmark.rank import GALLERY_BLOCK, Floats, Rows, pair_similarity, row_norms
from benchmark.records import FORMAT, PROTOCOL, Record
from benchmark.scores import CMC_DEPTHS, QueryScores
from benchmark.statistics import (
    Estimate,
    estimate_mean,
    estimate_mean_of_categories,
    estimate_mean_of_identities,
    estimate_ratio,
)
from benchmark.store import print_to_stderr
from galleries.errors import Fault, FinerRankError, below, raise_if_any
from galleries.gallery import Gallery, Photo, leaked_photos
from galleries.image_set import ImageRow, image_digests
from galleries.images import sha256_of
from personalization_runs.run import Query, Run

if TYPE_CHECKING:
    import pyarrow as pa

PACKAGES = ("torch", "torchvision", "timm", "open_clip_torch", "scikit-image", "numpy", "pillow")
"""Their versions go into the record."""


def _cmc_at(k: int, scores: QueryScores) -> float:
    return scores.cmc[k]


FEW_IDENTITIES = 10
"""Below so many, a bootstrap over identities gives intervals that are too narrow."""

METRICS: dict[str, Callable[[QueryScores], float]] = {
    "mAP": lambda s: s.average_precision,
    "AUC": lambda s: s.auc,
    "rank_1": lambda s: s.rank_1,
    **{f"CMC@{k}": partial(_cmc_at, k) for k in CMC_DEPTHS},
    "MAP@R": lambda s: s.map_at_r,
    "mINP": lambda s: s.inverse_negative_penalty,
    "first_hit_rank": lambda s: s.first_hit_rank,
}
"""Aggregate → the score of a query that it is the mean of."""

Aggregate = Mapping[str, Estimate | None]


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
class Evaluation:
    """What one embedder says of a gallery and of runs on it.

    Attributes:
        anchors: `chance`, `held_out`, `copied_reference`, `class_only` → metric → estimate. None where the gallery has
            no references, no identity has two photos, or no class-only run was given.
        records: one per run, in order.
        n_images: usable image files, of which `n_distinct` differ in content.
        n_forward_passes: images that went through the encoder now; the others came from the store.
        left_out: what `skip_broken` left out, a line each.
        notes: what a reader of the numbers should know.
    """

    embedder: str
    anchors: Mapping[str, Aggregate | None]
    records: tuple[Record, ...]
    n_images: int
    n_distinct: int
    n_forward_passes: int
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def evaluate(
    gallery: Gallery,
    runs: Sequence[Run],
    embedders: Sequence[Embedder],
    store: Path,
    options: Options | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] = print_to_stderr,
) -> list[Evaluation]:
    """Score runs on a gallery, once per embedder. Anchors are computed before any run is looked at.

    Raises:
        Faults: everything wrong with gallery, runs and their images, found before any number exists.
        FinerRankError: an embedder that cannot be loaded.
    """
    options = options or Options()
    _check_names(runs)
    raise_if_any("cannot be scored", [f for run in runs for f in below(run.root, run.target_faults(gallery))])
    files, faults = _image_files([(gallery.root, gallery.photos), *((run.root, run.images) for run in runs)], progress)
    digests = [files[p.path].digest if p.path in files else None for p in gallery.photos]
    leaks = leaked_photos(gallery.photos, digests)
    faults += below(gallery.root, leaks)
    for photo in gallery.photos:
        if any(leak.where == photo.file_name for leak in leaks):
            files.pop(photo.path)
    if not options.skip_broken:
        raise_if_any("cannot be scored", faults)
    evaluations = []
    for embedder in embedders:
        embedded = embed_images(
            list(files.values()), embedder, store, batch_size=options.batch_size, progress=progress, warn=warn
        )
        left_out = [*faults, *embedded.faults]
        if not options.skip_broken:
            raise_if_any("cannot be scored", left_out)
        row_of = {path: embedded.row_of[file.digest] for path, file in files.items() if file.digest in embedded.row_of}
        judge = _Judge(gallery, files, row_of, embedded.rows, embedder, options)
        evaluation = judge.evaluate(runs)
        evaluations.append(
            replace(
                evaluation,
                n_images=len(files),
                n_distinct=len({file.digest for file in files.values()}),
                n_forward_passes=embedded.n_forward_passes,
                left_out=tuple(str(fault) for fault in left_out),
            )
        )
    return evaluations


def _check_names(runs: Sequence[Run]) -> None:
    names = [run.card.model for run in runs]
    for name in names:
        if names.count(name) > 1:
            places = ", ".join(str(run.root) for run in runs if run.card.model == name)
            raise FinerRankError(f"two runs are named {name!r} ({places}); give each its own model name in run.toml")


def _image_files(
    sets: Sequence[tuple[Path, Sequence[ImageRow]]], progress: Progress | None
) -> tuple[dict[Path, ImageFile], list[Fault]]:
    """All usable image files with their digests, and what is wrong with the others."""
    files: dict[Path, ImageFile] = {}
    faults: list[Fault] = []
    step = progress("reading images", sum(len(rows) for _, rows in sets)) if progress else None
    for root, rows in sets:
        digests, wrong = image_digests(rows, decode=False, step=step)
        faults += below(root, wrong)
        for row, digest in zip(rows, digests, strict=True):
            if digest:
                files[row.path] = ImageFile(f"{root}: {row.file_name}", row.path, digest)
    return files, faults


@dataclass(frozen=True)
class _Answer:
    """A question with its scores, and the score of a random order."""

    identity: str
    category: str
    scores: QueryScores
    chance: float


class _Judge:
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

    def evaluate(self, runs: Sequence[Run]) -> Evaluation:
        held_out = self._held_out()
        copied = self._copied_reference()
        anchors: dict[str, Aggregate | None] = {
            "chance": self._chance(),
            "held_out": _aggregate(held_out),
            "copied_reference": _aggregate(copied),
        }
        records = [self._record(run, held_out, anchors) for run in runs]
        n_fewest = min((record.summary["n_identities"] for record in records), default=FEW_IDENTITIES)
        if n_fewest < FEW_IDENTITIES:
            self.notes.append(
                f"a run asks for {n_fewest} identities only: too few for an interval to be taken at its word"
            )
        class_only = [record for record, run in zip(records, runs, strict=True) if run.is_class_only]
        anchors["class_only"] = _from_json(class_only[0].summary["scores"]) if class_only else None
        if len(class_only) > 1:
            self.notes.append(f"several class-only runs: the anchor is {class_only[0].name!r}")
        return Evaluation(self.embedder.spec, anchors, tuple(records), 0, 0, 0, (), tuple(self.notes))

    def _ask(self, asked: Sequence[Asked]) -> list[QueryScores | None]:
        return self.pool.score(asked, self.rows)

    def _answers(self, asked: Sequence[Asked]) -> tuple[list[_Answer], int]:
        """Answers to the questions that have one, and the number of those that have none."""
        answers = [
            _Answer(question.identity, question.category, scores, _chance(scores))
            for question, scores in zip(asked, self._ask(asked), strict=True)
            if scores is not None
        ]
        return answers, len(asked) - len(answers)

    def _chance(self) -> Aggregate:
        """One question for each identity, answered in random order. No interval: nothing is drawn."""
        of = [chance_scores(n, self.pool.size(category)) for category, n in self.pool.identities.values()]
        means = {}
        for metric, score in METRICS.items():
            values = [score(s) for s in of if not math.isnan(score(s))]
            mean = math.fsum(values) / len(values) if values else None
            means[metric] = None if mean is None else Estimate(mean, mean, mean)
        return means

    def _held_out(self) -> list[_Answer]:
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

    def _copied_reference(self) -> list[_Answer]:
        """Each reference as a query: what a model that returns its input would score."""
        asked = [
            Asked(self.row_of[p.path], p.identity, p.category, encounters=_encounters([p]))
            for p in self.gallery.split("reference")
            if p.path in self.row_of and p.identity in self.pool.identities
        ]
        if not asked:
            self.notes.append("no reference photos: no copied-reference anchor")
        return self._answers(asked)[0]

    def _record(self, run: Run, held_out: Sequence[_Answer], anchors: Mapping[str, Aggregate | None]) -> Record:
        queries = [query for query in run.queries(self.gallery) if query.image.path in self.row_of]
        if not queries:
            raise FinerRankError(f"{run.root}: no usable image is left; mend the images")
        asked = [self._asked(query) for query in queries]
        scores = self._ask(asked)
        self._check_answered(run, queries, scores)
        answers = [
            _Answer(query.identity, query.category, s, _chance(s))
            for query, s in zip(queries, scores, strict=True)
            if s
        ]
        kind, similarity = self._pairwise_similarity(queries)
        columns = self._query_columns(queries, answers) | {f"similarity_to_{kind}": similarity}
        identities = [answer.identity for answer in answers]
        extra: dict[str, Any] = {}
        if self.has_encounters:
            unmasked = [s for s in self._ask([replace(a, encounters=frozenset()) for a in asked]) if s]
            columns["average_precision_with_same_encounter"] = [s.average_precision for s in unmasked]
            extra["with_same_encounter"] = {
                metric: _json(estimate_mean([score(s) for s in unmasked], identities))
                for metric, score in METRICS.items()
            }
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
            "n_queries": len(queries),
            "n_identities": len(set(identities)),
            "n_gallery_identities": len(self.pool.identities),
            "n_tied_queries": sum(answer.scores.is_tied for answer in answers),
            "n_copied": n_copied,
            "scores": _as_json(_aggregate(answers)),
            "pairwise_similarity": {**_json_or_empty(pairwise), "to": kind},
            "identity_retention": _json(_retention(answers, held_out)),
            "matched_anchors": _matched_anchors(answers, held_out),
            "mean_over_identities": {
                metric: _json(estimate_mean_of_identities([score(a.scores) for a in answers], identities))
                for metric, score in METRICS.items()
            },
            "mean_over_categories": {
                metric: _json(
                    estimate_mean_of_categories(
                        [score(a.scores) for a in answers], identities, [a.category for a in answers]
                    )
                )
                for metric, score in METRICS.items()
            },
            **extra,
            "categories": _by(answers, held_out, lambda answer: answer.category),
            "identities": _by(answers, held_out, lambda answer: answer.identity),
            "gallery_anchors": {name: _as_json(anchor) for name, anchor in anchors.items()},
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
            what = "no gallery photo outside its reference's encounter" if has_photos else "no readable gallery photo"
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

    def _query_columns(self, queries: Sequence[Query], answers: Sequence[_Answer]) -> dict[str, list[Any]]:
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


def _chance(scores: QueryScores) -> float:
    return chance_scores(scores.n_relevant, scores.n_gallery).average_precision


def _aggregate(answers: Sequence[_Answer]) -> Aggregate | None:
    """Mean over queries of every metric, with intervals over identities; None without queries."""
    if not answers:
        return None
    identities = [answer.identity for answer in answers]
    return {metric: estimate_mean([score(a.scores) for a in answers], identities) for metric, score in METRICS.items()}


def _held_out_means(held_out: Sequence[_Answer]) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for answer in held_out:
        values[answer.identity].append(answer.scores.average_precision)
    return {identity: math.fsum(v) / len(v) for identity, v in values.items()}


def _retention(answers: Sequence[_Answer], held_out: Sequence[_Answer]) -> Estimate | None:
    """(mAP - chance) / (held-out - chance), over the identities that the run was asked for."""
    ceiling = _held_out_means(held_out)
    known = [a for a in answers if a.identity in ceiling]
    return estimate_ratio(
        [a.scores.average_precision - a.chance for a in known],
        [ceiling[a.identity] - a.chance for a in known],
        [a.identity for a in known],
    )


def _matched_anchors(answers: Sequence[_Answer], held_out: Sequence[_Answer]) -> dict[str, float | None]:
    """Chance and held-out mAP over the same identities, in the same proportions, as the run's queries."""
    ceiling = _held_out_means(held_out)
    known = [ceiling[a.identity] for a in answers if a.identity in ceiling]
    return {
        "chance": math.fsum(a.chance for a in answers) / len(answers),
        "held_out": math.fsum(known) / len(known) if known else None,
    }


def _by(answers: Sequence[_Answer], held_out: Sequence[_Answer], key: Callable[[_Answer], str]) -> dict[str, Any]:
    groups: dict[str, list[_Answer]] = defaultdict(list)
    for answer in answers:
        groups[key(answer)].append(answer)
    return {
        name: {
            "n_queries": len(own),
            "n_identities": len({answer.identity for answer in own}),
            **_matched_anchors(own, held_out),
            **_as_json(_aggregate(own)),
        }
        for name, own in sorted(groups.items())
    }


def _json(estimate: Estimate | None) -> dict[str, float | None] | None:
    return None if estimate is None else asdict(estimate)


def _json_or_empty(estimate: Estimate | None) -> dict[str, float | None]:
    return _json(estimate) or {"value": None, "low": None, "high": None}


def _as_json(aggregate: Aggregate | None) -> dict[str, Any]:
    return {} if aggregate is None else {metric: _json(estimate) for metric, estimate in aggregate.items()}


def _from_json(scores: Mapping[str, Any]) -> Aggregate:
    return {metric: None if estimate is None else Estimate(**estimate) for metric, estimate in scores.items()}


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
