"""One embedder's opinion of one gallery: its anchors, and the records of runs."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
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
from benchmark.distances import Distance
from benchmark.embedders import Embedder, published_spec
from benchmark.mapped_rows import taken
from benchmark.pairwise_distance import PairwiseDistance, partners
from benchmark.pool import Asked, Pool, chance_scores
from benchmark.prompt_fidelity import PromptFidelity
from benchmark.rank import GALLERY_BLOCK, Floats, Rows, pair_similarity, row_norms
from benchmark.record_tables import Files, as_table, images_digest, masks_digest, neighbour_columns, query_columns
from benchmark.records import ALL, FORMAT, PROTOCOL, SAME_VIEWPOINT, Record
from benchmark.regions import FULL, TREATMENT, Region
from benchmark.scores import QueryScores
from benchmark.statistics import Estimate, estimate_mean, estimate_mean_of_categories, estimate_mean_of_identities
from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.gallery import Gallery, Photo
from personalization_runs.run import Query, Run

if TYPE_CHECKING:
    from benchmark.cluster import Cluster

PACKAGES = ("torch", "torchvision", "timm", "open_clip_torch", "scikit-image", "numpy", "pillow")
"""Their versions go into the record."""

FEW_IDENTITIES = 10
"""Below so many, a bootstrap over identities gives intervals that are too narrow."""


@dataclass(frozen=True)
class Options:
    """How to evaluate. Only `regions` and `same_viewpoint` move the score of a query; the record names them.

    Attributes:
        n_neighbours: kept of each query, to look at.
        skip_broken: score the readable images when some are not, and say how many were left out.
        batch_size: images per forward pass; 32 where None.
        gallery_block: photos compared at a time.
        ranking_device: of torch, that ranks; this process's threads where `cpu`.
        memory: bytes above which an embedder's rows are read from a file, block by block.
        regions: parts of each picture, gallery and queries alike, that are scored one by one.
        same_viewpoint: leave photos of the right identity out that show it from a side which the references do not.
        prompt_judge: compares images with their prompts (CLIP-T); None where that is not asked for.
        pairwise: compares images with their references, apart from the embedders; None where that is not asked for.
        cluster: whose workers embed; this process where None.
    """

    n_neighbours: int = 10
    skip_broken: bool = False
    batch_size: int | None = None
    gallery_block: int = GALLERY_BLOCK
    ranking_device: str = "cpu"
    memory: float = math.inf
    regions: tuple[Region, ...] = (FULL,)
    same_viewpoint: bool = False
    prompt_judge: Embedder | None = None
    pairwise: Distance | None = None
    cluster: "Cluster | None" = None


@dataclass(frozen=True)
class Opinion:
    """Anchors, a record per run, and what a reader of the numbers should know.

    Attributes:
        held_out: file name of each gallery photo that has an answer → that answer.
    """

    anchors: Mapping[str, Aggregate | None]
    records: tuple[Record, ...]
    notes: tuple[str, ...]
    held_out: Mapping[str, Answer]


class Judge:
    """One embedder's opinion of one gallery.

    Args:
        row_of: path of a usable image → its row of `rows`.
        rows: `[N, D]` embeddings of `region` of the images.
        fidelity: how the runs' images match their prompts, if that was asked for.
        distances: of the runs' images to their references, if that was asked for.
    """

    def __init__(
        self,
        gallery: Gallery,
        files: Files,
        row_of: Mapping[Path, int],
        rows: Rows,
        embedder: Embedder,
        options: Options,
        region: Region = FULL,
        fidelity: PromptFidelity | None = None,
        distances: PairwiseDistance | None = None,
    ) -> None:
        self.gallery = gallery
        self.files = files
        self.row_of = row_of
        self.rows = rows
        self.embedder = embedder
        self.options = options
        self.region = region
        self.fidelity = fidelity
        self.distances = distances
        photos = [p for p in gallery.split("gallery", "distractor") if p.path in row_of]
        photos.sort(key=lambda photo: (photo.category, photo.file_name))
        if not any(photo.split == "gallery" for photo in photos):
            raise FinerRankError(f"{gallery.root}: no usable gallery photo is left; mend the images")
        self.pool = Pool(
            photos, taken(rows, (row_of[photo.path] for photo in photos)), options.gallery_block, options.ranking_device
        )
        self.has_encounters = any(photo.encounter for photo in gallery.photos)
        self.notes: list[str] = []

    def opinion(self, runs: Sequence[Run]) -> Opinion:
        """Anchors first, then the runs, in order."""
        seen = self.embedder.seen_state(self.gallery.card.source)
        if seen in ("trained on it", "same data set family"):
            what = "on this gallery's data set" if seen == "trained on it" else "on data akin to this gallery's"
            self.notes.append(f"{self.embedder.spec} was trained {what}: it may flatter; judge by one that was not")
        held_out_of = self._held_out()
        held_out = list(held_out_of.values())
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
        return Opinion(anchors, tuple(records), tuple(self.notes), held_out_of)

    def _ask(self, asked: Sequence[Asked]) -> list[QueryScores | None]:
        return self.pool.score(asked, self.rows)

    def _question(self, path: Path, identity: str, category: str, seen: Sequence[Photo], itself: str = "") -> Asked:
        """Does the image show `identity`? Asked without what the generator has `seen`, or was never shown."""
        encounters = frozenset(photo.encounter for photo in seen if photo.encounter)
        return Asked(self.row_of[path], identity, category, itself, encounters, self._viewpoints(seen))

    def _viewpoints(self, seen: Sequence[Photo]) -> frozenset[str]:
        """Those of the photos that are known, where only they count."""
        if not self.options.same_viewpoint:
            return frozenset()
        return frozenset(viewpoint for photo in seen if (viewpoint := photo.viewpoint.strip()))

    def _answers(self, asked: Sequence[Asked]) -> list[Answer | None]:
        """Answer of each question; None where no photo is left that could."""
        return [
            None if scores is None else Answer(question.identity, question.category, scores, chance_of(scores))
            for question, scores in zip(asked, self._ask(asked), strict=True)
        ]

    def _random_order(self) -> Aggregate:
        """One question for each identity, answered in random order. No interval: nothing is drawn."""
        asked = [
            Asked(-1, identity, category, viewpoints=self._viewpoints(self.gallery.references.get(identity, ())))
            for identity, (category, _) in self.pool.identities.items()
        ]
        ranked = (self.pool.n_ranked(question) for question in asked)
        of = [chance_scores(n_relevant, n_gallery) for n_relevant, n_gallery in ranked if n_relevant]
        means = {}
        for metric, score in METRICS.items():
            values = [score(s) for s in of if not math.isnan(score(s))]
            mean = math.fsum(values) / len(values) if values else None
            means[metric] = None if mean is None else Estimate(mean, mean, mean)
        return means

    def _held_out(self) -> dict[str, Answer]:
        """Each gallery photo as a query, itself left out, and photos of its own encounter too; by file name."""
        photos = [photo for photo in self.pool.photos if photo.split == "gallery"]
        asked = [self._question(p.path, p.identity, p.category, [p], itself=p.file_name) for p in photos]
        answers = {
            photo.file_name: answer for photo, answer in zip(photos, self._answers(asked), strict=True) if answer
        }
        n_without = len(asked) - len(answers)
        if n_without:
            self.notes.append(
                f"held-out anchor: {n_without} of {len(asked)} photos are left out: "
                "no other photo of their identity can answer"
            )
        self._note_unrestricted("held-out anchor", "photos", asked, "their viewpoint is unknown")
        return answers

    def _copied_reference(self) -> list[Answer]:
        """Each reference as a query: what a model that returns its input would score."""
        asked = [
            self._question(p.path, p.identity, p.category, [p])
            for p in self.gallery.split("reference")
            if p.path in self.row_of and p.identity in self.pool.identities
        ]
        if not asked:
            self.notes.append("no reference photos: no copied-reference anchor")
        return [answer for answer in self._answers(asked) if answer]

    def _record(self, run: Run, held_out: Sequence[Answer], anchors: Mapping[str, Aggregate | None]) -> Record:
        queries = [query for query in run.queries(self.gallery) if query.image.path in self.row_of]
        if not queries:
            raise FinerRankError(f"{run.root}: no usable image is left; mend the images")
        asked = [self._asked(query) for query in queries]
        scores = self._ask(asked)
        self._check_answered(run, queries, asked, scores)
        answers = [
            Answer(query.identity, query.category, s, chance_of(s))
            for query, s in zip(queries, scores, strict=True)
            if s
        ]
        kind, similarity = self._pairwise_similarity(queries)
        columns = query_columns(queries, answers, self.files) | {f"similarity_to_{kind}": similarity}
        identities = [answer.identity for answer in answers]
        extra: dict[str, Any] = {}
        if self.fidelity:
            columns |= self.fidelity.columns(queries)
            extra["prompt_fidelity"] = self.fidelity.summary(run, columns)
        packages = [*PACKAGES, *self.embedder.packages]
        if self.distances:
            column = columns["pairwise_distance"] = self.distances.column(queries)
            extra["pairwise_distance"] = self.distances.summary(run, column, identities)
            packages += self.distances.packages
        lifted = {}
        if any(question.encounters for question in asked):
            lifted["with_same_encounter"] = [replace(question, encounters=frozenset()) for question in asked]
        elif self.has_encounters:
            self.notes.append(f"{run.card.model}: no reference of a known encounter, so that no encounter was left out")
        if self.options.same_viewpoint:
            lifted["with_other_viewpoints"] = [replace(question, viewpoints=frozenset()) for question in asked]
            extra["n_queries_of_unknown_viewpoint"] = self._note_unrestricted(
                run.card.model, "queries", asked, "the viewpoint of their references is unknown"
            )
        for name, questions in lifted.items():
            unmasked = [s for s in self._ask(questions) if s]
            columns[f"average_precision_{name}"] = [s.average_precision for s in unmasked]
            extra[name] = {
                metric: as_json_estimate(estimate_mean([score(s) for s in unmasked], identities))
                for metric, score in METRICS.items()
            }
        pairwise = estimate_mean(similarity, identities)
        n_copied = self._n_copied(queries)
        if n_copied:
            self.notes.append(f"{run.card.model}: {n_copied} images are photos of the gallery, byte for byte")
        if run.refused:
            self.notes.append(f"{run.card.model}: {len(run.refused)} images were refused by a filter: not scored")
        summary = {
            "format": FORMAT,
            "protocol": PROTOCOL,
            "region": self.region,
            "positives": SAME_VIEWPOINT if self.options.same_viewpoint else ALL,
            "run": {"name": run.card.model, **_present(asdict(run.card)), **self._digests(run),
                    **_present({"n_refused": len(run.refused)})},
            "gallery": {**_present(asdict(self.gallery.card)), **self._digests(self.gallery)},
            **({} if self.region == FULL else {"masks": self._masks(run)}),
            "embedder": {"spec": published_spec(self.embedder.spec), "fingerprint": self.embedder.fingerprint,
                         **self.embedder.description,
                         "gallery_seen": self.embedder.seen_state(self.gallery.card.source)},
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
            "versions": {p: _version(p) for p in dict.fromkeys(["finer-rank", *packages])},
        }  # fmt: skip
        places = {"gallery": str(self.gallery.root.absolute()), "run": str(run.root.absolute())}
        nearest = self.pool.neighbours(asked, self.rows, self.options.n_neighbours)
        neighbours = neighbour_columns(nearest, queries, self.files)
        return Record(summary, as_table(columns), as_table(neighbours), places)

    def _asked(self, query: Query) -> Asked:
        seen = [query.reference] if query.reference else self.gallery.references.get(query.identity, ())
        return self._question(query.image.path, query.identity, query.category, seen)

    def _check_answered(
        self, run: Run, queries: Sequence[Query], asked: Sequence[Asked], scores: Sequence[QueryScores | None]
    ) -> None:
        unanswered: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for query, question, s in zip(queries, asked, scores, strict=True):
            if s is None:
                unanswered[query.identity, *self._why_unanswered(question)].append(query.image.file_name)
        faults = [
            Fault(f"identity {identity!r}", f"{what} ({len(names)} images, first {names[0]})", remedy)
            for (identity, what, remedy), names in sorted(unanswered.items())
        ]
        raise_if_any(str(run.root), faults)

    def _why_unanswered(self, asked: Asked) -> tuple[str, str]:
        remedy = "add such photos, or leave these images out"
        if asked.identity not in self.pool.identities:
            return "no readable gallery photo", remedy
        if not asked.viewpoints or not self.pool.n_ranked(replace(asked, viewpoints=frozenset()))[0]:
            return "no gallery photo outside its references' encounters", remedy
        what = f"no gallery photo of its references' viewpoint ({', '.join(sorted(asked.viewpoints))})"
        what += " outside their encounters" if asked.encounters else ""
        return what, "add such photos, leave these images out, or score without --same-viewpoint"

    def _note_unrestricted(self, who: str, what: str, asked: Sequence[Asked], why: str) -> int:
        """Number of questions that any viewpoint may answer, although only the same one should."""
        n = sum(not question.viewpoints for question in asked)
        if n and self.options.same_viewpoint:
            self.notes.append(f"{who}: {n} of {len(asked)} {what} are not restricted to a viewpoint: {why}")
        return n

    def _digests(self, of: Gallery | Run) -> dict[str, str]:
        rows = of.photos if isinstance(of, Gallery) else of.images
        masks = {} if self.region == FULL else {"masks_sha256": masks_digest(rows, self.files)}
        return {"table_sha256": of.digest, "images_sha256": images_digest(rows, self.files), **masks}

    def _masks(self, run: Run) -> dict[str, Any]:
        """How gallery and run were cut, and whether the same source drew both sides' masks (None: not said)."""
        sources = [("the gallery", self.gallery.card.mask_source), (run.card.model, run.card.mask_source)]
        unsaid = [who for who, source in sources if not source]
        is_same = None if unsaid else len({source for _, source in sources}) == 1
        if unsaid:
            who = " and ".join(unsaid)
            self.notes.append(f"no mask_source says what drew the masks of {who}; both sides should be treated alike")
        elif not is_same:
            said = ", ".join(f"{who}: {source!r}" for who, source in sources)
            self.notes.append(f"masks are from several sources ({said}); both sides should be treated alike")
        return {"treatment": TREATMENT, "same_source": is_same}

    def _pairwise_similarity(self, queries: Sequence[Query]) -> tuple[str, list[float]]:
        """Mean cosine of each query to its `partners`, and what they are."""
        kind, partners_of = partners(queries, self.gallery, self.row_of)
        left = np.repeat([self.row_of[q.image.path] for q in queries], [len(of) for of in partners_of])
        right = np.array([self.row_of[p.path] for of in partners_of for p in of], dtype=np.int64)
        used = np.unique(np.concatenate([left, right]))
        norms: Floats = np.ones(len(self.rows))
        norms[used] = row_norms(self.rows[used])
        flat = pair_similarity(self.rows, self.rows, left, right, norms, norms)
        ends = np.cumsum([len(of) for of in partners_of])[:-1]
        return kind, [math.fsum(of.tolist()) / len(of) for of in np.split(flat, ends)]

    def _n_copied(self, queries: Sequence[Query]) -> int:
        """Images that are a photo of the gallery, byte for byte."""
        photos = {self.files[p.path].digest for p in self.gallery.photos if p.path in self.files}
        images = {query.image.path for query in queries}
        return sum(self.files[path].digest in photos for path in images)


_version = cache(version)
"""Kept: each search for a package reads folders, and every record asks for all of them."""


def _present(card: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in card.items() if value}
