"""What came of a tuning by DreamSim's recipe, and how it is written down."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark.distances.base import Floats
from benchmark.embedders import Embedder, published_spec
from benchmark.embedders.zoo import training_data
from benchmark.human_agreement.measures import two_afc_scores
from benchmark.human_judgements.judgements import Judgements
from benchmark.statistics import Estimate, estimate_mean
from benchmark.training.result import in_words
from benchmark.tuning.dreamsim_settings import Settings
from benchmark.tuning.dreamsim_triplets import Triplets


@dataclass(frozen=True)
class Comparison:
    """Held-out triplets, judged by the backbones as they came and by what was kept.

    Attributes:
        before, after: 2AFC score, with an interval over targets.
        gain: after less before, paired by triplet.
        best_epoch: the one that was kept; 0 for the backbones as they came.
    """

    before: Estimate
    after: Estimate
    gain: Estimate
    best_epoch: int
    n_triplets: int
    n_targets: int

    @property
    def has_helped(self) -> bool:
        """Whether the interval of the gain lies above 0."""
        return self.best_epoch > 0 and self.gain.low is not None and self.gain.low > 0

    @property
    def verdict(self) -> str:
        """In a sentence."""
        if self.best_epoch == 0:
            return "tuning did not help: no epoch was better in validation, the backbones are kept as they came"
        gain = in_words(self.gain, sign="+")
        return f"tuning helped: {gain}" if self.has_helped else f"tuning is not shown to have helped: {gain}"

    @property
    def record(self) -> dict[str, Any]:
        """The numbers, as they are written down."""
        estimates = {"2AFC_before": self.before, "2AFC_after": self.after, "gain": self.gain}
        return {
            "verdict": self.verdict,
            "has_helped": self.has_helped,
            "best_epoch": self.best_epoch,
            **{
                name: {key: value for key, value in asdict(each).items() if value is not None}
                for name, each in estimates.items()
            },
            "n_judged_triplets": self.n_triplets,
            "n_judged_targets": self.n_targets,
        }


@dataclass(frozen=True)
class Tuned:
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
        after = f"{in_words(of.after)} after (epoch {of.best_epoch} of {self.record['n_epochs']})"
        return [
            f"held-out 2AFC {in_words(of.before)} before, {after}; of {of.n_triplets} {self.record['judged_on']} "
            f"({of.n_targets} targets)",
            of.verdict,
            f"{self.out}: use it as checkpoint:{self.out}",
        ]


def compare(triplets: Triplets, before: tuple[Floats, Floats], after: tuple[Floats, Floats], best: int) -> Comparison:
    """Answers to the same triplets before and after tuning, from the distances of the reference to a and to b."""
    old, new = (two_afc_scores(*distances, triplets.share_b) for distances in (before, after))
    estimates = [estimate_mean(values.tolist(), triplets.targets) for values in (old, new, new - old)]
    mean_before, mean_after, gain = (each for each in estimates if each is not None)
    return Comparison(mean_before, mean_after, gain, best, len(triplets.targets), len(set(triplets.targets)))


def describe(
    settings: Settings, embedders: Sequence[Embedder], judgements: Judgements, dimension: int, best_epoch: int
) -> dict[str, Any]:
    """The card of the encoder, as `embedder.toml` holds it, without what says how it is built."""
    names = " + ".join(published_spec(embedder.spec) for embedder in embedders)
    how = "LoRA" if settings.method == "lora" else "MLP head"
    seen: set[str] = set()
    unknown = []
    for embedder in embedders:
        card = embedder.card
        if card is None or card.trained_on is None or not embedder.is_as_published:
            unknown.append(f"the backbone {published_spec(embedder.spec)}")
        else:
            seen.update(card.trained_on)
    if judgements.name in training_data():
        seen.add(judgements.name)
    else:
        unknown.append(f"the judgements {judgements.name}")
    note = f"Tuned to human judgements ({judgements.name}) by DreamSim's recipe, {how}. Its distance is 1 - cosine."
    if not best_epoch:
        note = f"No epoch of a tuning to {judgements.name} was better: the backbones are as they came."
    if unknown:
        note += f" What it has seen is not known in full: {'; '.join(unknown)}"
        note += f"; beside {', '.join(sorted(seen))}." if seen else "."
    return {
        "dimension": dimension,
        "title": f"{names}, tuned to {judgements.name}" if best_epoch else f"{names}, as it came",
        "kind": "generic",
        "paper": "Fu et al. 2023, arXiv 2306.09344",
        "note": note,
        **({} if unknown else {"trained_on": sorted(seen)}),
    }
