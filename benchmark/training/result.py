"""What came of a training, and how it is written down."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark.aggregates import Answer
from benchmark.statistics import Estimate, estimate_mean
from benchmark.training.settings import Settings
from benchmark.training.validation import mean_precision


@dataclass(frozen=True)
class Comparison:
    """Photos held back, ranked by the backbone as it came and by the weights that were kept.

    Attributes:
        before, after: mAP.
        gain: after less before, paired by photo.
        chance: mAP of a random order of the same photos.
        auc_before, auc_after: mean AUC, which does not depend on how many they are.
        best_epoch: the one that was kept; 0 for the backbone as it came.
        by_category: the same numbers of each category, as they are written down.
    """

    before: Estimate
    after: Estimate
    gain: Estimate
    chance: float
    auc_before: float
    auc_after: float
    best_epoch: int
    n_photos: int
    n_identities: int
    by_category: Mapping[str, Mapping[str, float]]

    @property
    def has_helped(self) -> bool:
        """Whether the interval of the gain lies above 0."""
        return self.best_epoch > 0 and self.gain.low is not None and self.gain.low > 0

    @property
    def verdict(self) -> str:
        """In a sentence."""
        if self.best_epoch == 0:
            return "training did not help: no epoch was better, the backbone is kept as it came"
        gain = in_words(self.gain, sign="+")
        return f"training helped: {gain}" if self.has_helped else f"training is not shown to have helped: {gain}"

    @property
    def record(self) -> dict[str, Any]:
        """The numbers, as they are written down."""
        return {
            "verdict": self.verdict,
            "has_helped": self.has_helped,
            "best_epoch": self.best_epoch,
            "mAP_before": _without_none(self.before),
            "mAP_after": _without_none(self.after),
            "gain": _without_none(self.gain),
            "mAP_chance": self.chance,
            "AUC_before": self.auc_before,
            "AUC_after": self.auc_after,
            "n_validated_photos": self.n_photos,
            "n_validated_identities": self.n_identities,
        }


@dataclass(frozen=True)
class Trained:
    """An encoder that was written.

    Attributes:
        record: the table `[training]` of its `embedder.toml`.
    """

    out: Path
    comparison: Comparison
    record: Mapping[str, Any]

    def lines(self) -> list[str]:
        """The result, for people."""
        of = self.comparison
        after = f"{in_words(of.after)} after (epoch {of.best_epoch} of {self.record['n_epochs_trained']})"
        photos = f"{of.n_photos} {self.record['validated_on']} ({of.n_identities})"
        return [
            f"held-out mAP {in_words(of.before)} before, {after}, chance {of.chance:.3f}; of {photos}",
            of.verdict,
        ]


def compare(before: Sequence[Answer], after: Sequence[Answer], best_epoch: int) -> Comparison:
    """Answers to the same questions before and after training."""
    identities = [answer.identity for answer in before]
    old, new = ([answer.scores.average_precision for answer in answers] for answers in (before, after))
    estimates = [
        estimate_mean(values, identities) for values in (old, new, [b - a for a, b in zip(old, new, strict=True)])
    ]
    mean_before, mean_after, gain = (each for each in estimates if each is not None)
    by_category = {}
    for category in sorted({answer.category for answer in before}):
        own_before, own_after = ([a for a in answers if a.category == category] for answers in (before, after))
        by_category[category] = {
            "n_identities": len({answer.identity for answer in own_before}),
            "mAP_before": mean_precision(own_before),
            "mAP_after": mean_precision(own_after),
            "mAP_chance": _mean([answer.chance for answer in own_before]),
        }
    return Comparison(
        mean_before,
        mean_after,
        gain,
        chance=_mean([answer.chance for answer in before]),
        auc_before=_mean([answer.scores.auc for answer in before]),
        auc_after=_mean([answer.scores.auc for answer in after]),
        best_epoch=best_epoch,
        n_photos=len(before),
        n_identities=len(set(identities)),
        by_category=by_category,
    )


def describe(
    settings: Settings,
    galleries: Sequence[str],
    dimension: int,
    is_trained: bool,
    validated_on: str,
    saw: tuple[Sequence[str], Sequence[str]],
) -> dict[str, Any]:
    """The card of the encoder, as `embedder.toml` holds it.

    Args:
        is_trained: whether its weights are others than the backbone's.
        saw: see `what_it_saw`.
    """
    family, _, model = settings.backbone.partition("@")[0].partition(":")
    data_sets, without_name = saw
    names = ", ".join(galleries)
    note = f"Judged by {validated_on} in {names}."
    if is_trained:
        note += " The epoch was chosen by these photos, which flatters it."
    else:
        note = f"No epoch of the training was better than the backbone: these are its weights. {note}"
    if without_name:
        note += f" What it has seen is not known in full: {'; '.join(without_name)}"
        note += f"; beside {', '.join(data_sets)}." if data_sets else "."
    return {
        "family": family,
        "architecture": model,
        "dimension": dimension,
        "title": f"{model}, trained on {names}" if is_trained else f"{model}, as it came",
        "kind": "specialised",
        "note": note,
        **({} if without_name else {"trained_on": list(data_sets)}),
    }


def in_words(estimate: Estimate, sign: str = "") -> str:
    """A value with its interval."""
    value = f"{estimate.value:{sign}.3f}"
    return value if estimate.low is None else f"{value} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _without_none(estimate: Estimate) -> dict[str, float]:
    return {key: value for key, value in asdict(estimate).items() if value is not None}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
