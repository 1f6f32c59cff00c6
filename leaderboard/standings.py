"""Standings: what a board shows of each model under an embedder. The site, figures and exports draw the same rows."""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from benchmark.aggregates import METRICS
from benchmark.copies import COPY_LIMIT
from benchmark.embedders.zoo import SEEN_STATES
from benchmark.report import ANCHOR_NAMES
from benchmark.statistics import RankRange, rank_ranges
from leaderboard.bundle import folded
from leaderboard.published import PublishedBundle, PublishedRecord, texts_of
from personalization_runs.run import CLASS_ONLY

Estimate = Mapping[str, float | None]
"""`value`, `low` and `high`; the last two are None where there is no interval."""


@dataclass(frozen=True)
class MetricCard:
    """What a reader needs to know of a number.

    Attributes:
        low, high: its range; None where it has no bound.
        higher_is_better: None where neither end is better by itself.
        chance, ceiling: what random order and real photos reach, in words.
    """

    key: str
    label: str
    meaning: str
    low: float | None
    high: float | None
    higher_is_better: bool | None
    chance: str
    ceiling: str


CARDS: tuple[MetricCard, ...] = (
    MetricCard(
        "mAP", "mAP",
        "Retrieval mean average precision: each generated image ranks the gallery's photos of its category; averaged "
        "over images. The protocol's score.",
        0, 1, True, "the anchor “chance”, which depends on the gallery's shape", "the anchor “held-out photos”",
    ),
    MetricCard(
        "AUC", "AUC",
        "The probability that a photo of the right identity is more similar than one of another. Unlike mAP it does "
        "not depend on the gallery's shape.",
        0, 1, True, "0.5", "the anchor “held-out photos”",
    ),
    MetricCard(
        "rank_1", "rank-1", "Share of images whose most similar photo shows the right identity.",
        0, 1, True, "the anchor “chance”", "the anchor “held-out photos”",
    ),
    MetricCard(
        "CMC@5", "CMC@5", "Share of images with the right identity among the five most similar photos.",
        0, 1, True, "the anchor “chance”", "the anchor “held-out photos”",
    ),
    MetricCard(
        "CMC@10", "CMC@10", "Share of images with the right identity among the ten most similar photos.",
        0, 1, True, "the anchor “chance”", "the anchor “held-out photos”",
    ),
    MetricCard(
        "MAP@R", "MAP@R", "Average precision cut after R photos, where R is the number of the identity's photos; "
        "divided by R.",
        0, 1, True, "the anchor “chance”", "the anchor “held-out photos”",
    ),
    MetricCard(
        "mINP", "mINP", "How early the last photo of the right identity is found: R divided by its rank.",
        0, 1, True, "the anchor “chance”", "the anchor “held-out photos”",
    ),
    MetricCard(
        "first_hit_rank", "first hit", "Rank of the first photo of the right identity.",
        1, None, False, "the anchor “chance”", "1",
    ),
    MetricCard(
        "identity_retention", "retention",
        "(mAP − chance) / (held-out − chance), over the identities that the run was asked for: how much of the "
        "identity that real photos carry is kept.",
        None, None, True, "0", "1: as recognisable as real photos",
    ),
    MetricCard(
        "similarity", "similarity",
        "Pairwise: cosine between a generated image and its own reference, or all references of the identity. Any "
        "animal of the kind can be similar: shown beside mAP, which it cannot replace.",
        -1, 1, None, "depends on the encoder", "1: a copy",
    ),
    MetricCard(
        "clip_t", "CLIP-T", "Cosine between image and prompt by CLIP: whether the prompt was followed.",
        -1, 1, True, "depends on the encoder", "depends on the encoder",
    ),
    MetricCard(
        "copy_rate", "copies",
        "Share of images that are near-duplicates of a photo that the model saw or of a gallery photo. Above 5 % the "
        "row is flagged.",
        0, 1, False, "0", "0",
    ),
)  # fmt: skip
"""Columns of a board, in their order."""

PART_METRICS = tuple(METRICS)
"""Those that are known of each category, too."""


@dataclass(frozen=True)
class Row:
    """A model, or an anchor, on a board.

    Attributes:
        model: the anchor's name where it is one.
        bundle: "" of anchors that belong to the gallery.
        rank: 1 + how many models have a higher mAP; None of anchors and incomplete runs.
        ranks: the places that it may hold, by paired tests with Holm's correction; None where `rank` is.
        scores: metric of `CARDS` → estimate.
        flags: what a reader must know before the number.
        similarity_to: what the pairwise similarity is to: values of different kinds are never compared.
        clip_t_by: the encoder of CLIP-T.
    """

    model: str
    bundle: str
    rank: int | None
    ranks: tuple[int, int] | None
    tied_with_best: bool
    scores: Mapping[str, Estimate | None]
    n_queries: int | None = None
    n_identities: int | None = None
    flags: tuple[str, ...] = ()
    similarity_to: str = ""
    clip_t_by: str = ""


@dataclass(frozen=True)
class Standings:
    """Rows on a gallery under one embedder, of all categories or of one.

    Attributes:
        rows: models, from the highest mAP.
        anchors: chance, class-only runs, copied references, held-out photos; from the lowest kind to the highest.
        incomplete: runs that are not ranked.
        can_tell: whether so many models can be told apart by the tests at all.
    """

    rows: tuple[Row, ...]
    anchors: tuple[Row, ...]
    incomplete: tuple[Row, ...]
    can_tell: bool


@dataclass(frozen=True)
class Embedder:
    """An encoder that judges on a board.

    Attributes:
        names: the specs that its records give it; `spec` is what is shown.
    """

    spec: str
    fingerprint: str
    gallery_seen: str
    names: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        """A name for folders and addresses."""
        plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in folded(self.spec))
        return f"{plain.strip('._')[:40]}-{self.fingerprint[:8]}"


@dataclass(frozen=True)
class Board:
    """All bundles of one gallery version under one version of the protocol."""

    gallery: str
    version: str
    protocol: str
    bundles: tuple[PublishedBundle, ...]

    @cached_property
    def records(self) -> Mapping[str, Sequence[tuple[PublishedBundle, PublishedRecord]]]:
        """Fingerprint → its records."""
        found: dict[str, list[tuple[PublishedBundle, PublishedRecord]]] = defaultdict(list)
        for bundle in self.bundles:
            for record in bundle.records:
                found[record.fingerprint].append((bundle, record))
        return found

    @cached_property
    def embedders(self) -> tuple[Embedder, ...]:
        """Those of the most records first, of these the one that recognises held-out photos best."""
        # Names that one encoder goes by: the first in the alphabet is shown, with the worst that is said of it.
        specs = {fingerprint: min(record.spec for _, record in of) for fingerprint, of in self.records.items()}
        short = {fingerprint: spec.partition("@")[0].rstrip(":") for fingerprint, spec in specs.items()}
        found = []
        for fingerprint, of in self.records.items():
            # The file that the weights were in tells encoders of one architecture apart, and is left out elsewhere.
            is_alone = list(short.values()).count(short[fingerprint]) == 1
            spec = short[fingerprint] if is_alone else specs[fingerprint]
            states = {str(record.summary["embedder"]["gallery_seen"]) for _, record in of}
            seen = next(state for state in SEEN_STATES if state in states)
            found.append(Embedder(spec, fingerprint, seen, frozenset(record.spec for _, record in of)))

        def place(embedder: Embedder) -> tuple[Any, ...]:
            own = self.records[embedder.fingerprint]
            held_out = own[0][1].summary["gallery_anchors"].get("held_out") or {}
            mean = (held_out.get("mAP") or {"value": 0.0})["value"]
            return -len(own), -mean, embedder.spec, embedder.fingerprint

        return tuple(sorted(found, key=place))

    @cached_property
    def categories(self) -> tuple[str, ...]:
        return tuple(sorted({name for b in self.bundles for r in b.records for name in r.summary["categories"]}))

    @cached_property
    def category_of(self) -> Mapping[str, str]:
        """The category of each identity that is asked for."""
        found: dict[str, str] = {}
        for bundle in self.bundles:
            first = bundle.records[0]
            if not first.summary["identities"].keys() <= found.keys():
                columns = (texts_of(first.queries, name) for name in ("identity", "category"))
                found |= dict(zip(*columns, strict=True))
        return found

    def standings(self, fingerprint: str, category: str = "") -> Standings:
        """Rows under an embedder. Args: category: "" for all of them."""
        own = self.records[fingerprint]
        shown = [(b, r) for b, r in own if not category or category in r.summary["categories"]]
        ranked = [(b, r) for b, r in shown if not b.incomplete and b.run.get("method") != CLASS_ONLY]
        means = {
            b.name: {
                identity: mean
                for identity, mean in r.identity_means().items()
                if not category or self.category_of.get(identity) == category
            }
            for b, r in ranked
        }
        ranges = {place.name: place for place in rank_ranges(means)} if len(means) > 1 else {}
        rows = [_row(b, r, category) for b, r in ranked]
        values = sorted(_value(row) for row in rows)
        placed = [_placed(row, len(values) - bisect_right(values, _value(row)), ranges.get(row.bundle)) for row in rows]
        placed.sort(key=lambda row: (-_value(row), row.model, row.bundle))
        untuned = [_row(b, r, category) for b, r in shown if not b.incomplete and b.run.get("method") == CLASS_ONLY]
        return Standings(
            rows=tuple(placed),
            anchors=tuple(_anchors([r for _, r in shown], category, untuned)),
            incomplete=tuple(_row(b, r, category) for b, r in shown if b.incomplete),
            can_tell=len(ranges) < 2 or any(p.best > 1 or p.worst < len(ranges) for p in ranges.values()),
        )


def boards_of(bundles: Sequence[PublishedBundle]) -> list[Board]:
    """A board per gallery version and protocol, in the order of their names."""
    found: dict[tuple[str, str, str], list[PublishedBundle]] = defaultdict(list)
    for bundle in bundles:
        gallery = bundle.manifest["gallery"]
        found[gallery["name"], gallery["version"], bundle.manifest["protocol"]].append(bundle)
    return [Board(*key, tuple(own)) for key, own in sorted(found.items())]


def _value(row: Row) -> float:
    estimate = row.scores["mAP"]
    assert estimate is not None
    assert estimate["value"] is not None
    return estimate["value"]


def _placed(row: Row, n_above: int, place: RankRange | None) -> Row:
    best, worst, tied = (place.best, place.worst, place.tied_with_best) if place else (1, 1, True)
    # Tests weigh identities alike, the mean weighs images alike: with uneven counts a rank may leave its range.
    rank = 1 + n_above
    return replace(row, rank=rank, ranks=(min(best, rank), max(worst, rank)), tied_with_best=tied)


def _row(bundle: PublishedBundle, record: PublishedRecord, category: str) -> Row:
    summary = record.summary
    part = summary["categories"][category] if category else summary
    scores: dict[str, Estimate | None] = dict(part if category else summary["scores"])
    scores = {metric: scores.get(metric) for metric in PART_METRICS}
    copies = summary.get("copy_rate")
    if category:
        scores["identity_retention"] = _retention(part)
    else:
        fidelity = summary.get("prompt_fidelity", {})
        clip_t = [fidelity.get(key) for key in ("clip_t_without_identifier", "clip_t")]
        scores |= {
            "identity_retention": summary["identity_retention"],
            "similarity": {key: summary["pairwise_similarity"][key] for key in ("value", "low", "high")},
            "clip_t": next((each for each in clip_t if each and each.get("value") is not None), None),
            "copy_rate": copies,
        }
    return Row(
        model=bundle.model, bundle=bundle.name, rank=None, ranks=None, tied_with_best=False, scores=scores,
        n_queries=part["n_queries"], n_identities=part["n_identities"],
        flags=(*(("copies",) if copies and copies["value"] > COPY_LIMIT else ()), *bundle.incomplete),
        similarity_to=str(summary["pairwise_similarity"].get("to", "")) if scores.get("similarity") else "",
        clip_t_by=str(summary["prompt_fidelity"].get("embedder", "")) if scores.get("clip_t") else "",
    )  # fmt: skip


def _retention(part: Mapping[str, Any]) -> Estimate | None:
    """Of a category, for which no interval is recorded."""
    ceiling, chance = part["held_out"], part["chance"]
    if ceiling is None or ceiling <= chance:
        return None
    return {"value": (part["mAP"]["value"] - chance) / (ceiling - chance), "low": None, "high": None}


def _anchors(records: Sequence[PublishedRecord], category: str, untuned: Sequence[Row]) -> list[Row]:
    """Of the gallery, from the first record; of one category only chance and held-out photos are recorded."""
    if not records:
        return list(untuned)
    summary = records[0].summary
    found: list[Row] = []
    for name, shown in ANCHOR_NAMES.items():
        if name == "class_only":
            found += [_as_anchor(row, f"{shown}: {row.model}") for row in untuned]
            continue
        scores: dict[str, Estimate | None] = {}
        if category:
            part = summary["categories"][category]
            if name in part and part[name] is not None:
                scores = {"mAP": {"value": part[name], "low": None, "high": None}}
        else:
            scores = dict(summary["gallery_anchors"].get(name) or {})
            if name == "chance":  # computed, not drawn
                scores = {k: {"value": e["value"], "low": None, "high": None} if e else None for k, e in scores.items()}
        if scores.get("mAP"):
            full = {card.key: scores.get(card.key) for card in CARDS}
            found.append(Row(shown, "", None, None, False, full))
    return found


def _as_anchor(row: Row, name: str) -> Row:
    return replace(row, model=name)


def finite(value: float | None, digits: int = 5) -> float | None:
    """A number as pages and tables hold it."""
    return None if value is None or not math.isfinite(value) else round(value, digits)
