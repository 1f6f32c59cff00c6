"""CLPIPS (arXiv 2604.01234): the weights by which LPIPS adds up its channels, tuned to what people ranked.

The trunk never changes, so that the squared differences of its features are computed once, and tuning is a convex
problem over their weights: see `margin_ranking`. Margin and optimiser of the paper are not public to us; the defaults
here come from `clpips_study`.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.distances import DistanceRequest, Resources
from benchmark.distances.base import Floats
from benchmark.distances.clpips import write
from benchmark.distances.lpips import (
    CHANNELS,
    LEAST_SIDE_PX,
    PACKAGES,
    Lpips,
    Trunk,
    layer_differences,
    load_trunk,
    published_weights,
)
from benchmark.distances.pairs import PictureDistance
from benchmark.embedders import resolve_device
from benchmark.human_judgements.judgements import Judgements
from benchmark.tuning.clpips_judged import Change, changes_of, in_lines
from benchmark.tuning.clpips_pairs import Ranked, ranked_pairs
from benchmark.tuning.clpips_weights import PER, Per, layers_of, tuned_weights
from benchmark.tuning.margin_ranking import TOLERANCE, Pairs
from galleries.errors import FinerRankError, printable
from galleries.image_set import refuse_existing

LEAST_TARGETS = 3
DOZEN = 12
"""Rankings, below which intervals are too wide to say much."""


@dataclass(frozen=True)
class Settings:
    """All that decides what comes of a tuning, beside judgements, images, trunk and versions.

    Attributes:
        network: `alex`, `vgg` or `squeeze`.
        trunk: file of its weights; torchvision's published ones where None.
        per: `layer` scales the published weights of each layer as one; `channel` moves each on its own.
        rater: tune to this person alone.
        margin: by how much the farther picture of a pair should be farther, in units of the root mean square gap of the
            untuned distances.
        pull: towards the published weights; see `margin_ranking`.
        held_out: share of the targets that are held out at a time, each once, where the data name no split `test`.
        size: pictures are squashed to `size` × `size` pixels.
        seed: which targets are held out together.

    Raises:
        FinerRankError: a value out of range, or no such file.
    """

    network: str = "alex"
    trunk: Path | None = None
    per: Per = "layer"
    rater: str | None = None
    margin: float = 0.3
    pull: float = 0.01
    held_out: float = 0.1
    size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        least = LEAST_SIDE_PX.get(self.network, 1)
        ranges = {
            "network": (self.network in CHANNELS, ", ".join(CHANNELS)),
            "per": (self.per in PER, " or ".join(PER)),
            "margin": (0 < self.margin <= 1000, "a number above 0, 1000 at most"),
            "pull": (1e-4 <= self.pull <= 1e6, "0.0001 to 1000000"),
            "held_out": (0 < self.held_out <= 0.5, "a share above 0, 0.5 at most"),
            "size": (least <= self.size <= 4096, f"{least} to 4096 pixels"),
            "seed": (0 <= self.seed < 2**32, "0 to 4294967295"),
        }
        for name, (is_fine, known) in ranges.items():
            if not is_fine:
                option = name.replace("_", "-")
                raise FinerRankError(f"--{option} {getattr(self, name)}: out of range; write {known}")
        if self.trunk is not None and not self.trunk.is_file():
            raise FinerRankError(f"--trunk {self.trunk}: no such file; give {self.network}'s weights of torchvision")


@dataclass(frozen=True)
class Tuned:
    """A distance that was written.

    Attributes:
        changes: agreement before and after on held-out targets; that with everybody comes first.
        record: the table `[training]` of its `distance.toml`.
    """

    out: Path
    changes: tuple[Change, ...]
    record: Mapping[str, Any]

    def lines(self) -> list[str]:
        """The result, for people."""
        scales = ", ".join(f"{scale:.2f}" for scale in self.record["layer_scales"])
        return [
            f"{self.record['n_pairs']} pairs of {self.record['n_rankings']} rankings; {self.record['held_out_how']}",
            *in_lines(self.changes),
            f"mean weight of each layer, in times of what was published: {scales}",
            self.changes[0].verdict,
        ]


def tune(
    judgements: Judgements, settings: Settings, out: Path, resources: Resources, *, device: str, resume: bool
) -> Tuned:
    """Tune, judge on held-out targets, and write a folder that `clpips:` reads.

    Raises:
        Faults: images that cannot be used; all of them.
        FinerRankError: judgements that cannot be tuned to, or a trunk that is out of reach.
    """
    if resume:
        raise FinerRankError("--resume: clpips tunes in one go and keeps no state; leave it out")
    refuse_existing(out)
    ranked = ranked_pairs(judgements, settings.rater)
    rounds = _rounds(ranked, settings)
    for note in ranked.notes:
        resources.warn(note)
    if ranked.n_rankings < DOZEN:
        resources.warn(f"{ranked.n_rankings} rankings, fewer than a dozen: expect wide intervals; collect more")
    trunk, differences = measured(ranked.compared, settings, resources, device)
    start = published_weights(settings.network).numpy().astype(np.float64)
    gaps = []

    def fit(pairs: Pairs) -> Floats | None:
        try:
            found = tuned_weights(
                differences,
                start,
                CHANNELS[settings.network],
                pairs,
                per=settings.per,
                margin=settings.margin,
                pull=settings.pull,
            )
        except ValueError:
            raise FinerRankError(
                f"{judgements.name}: the pictures that people hold apart are the same to this network; add pictures "
                "that differ"
            ) from None
        gaps.append(found.gap)
        return found.weights

    step = resources.progress("tuning", len(rounds.held_out) + 1) if resources.progress else lambda _: None
    before = (differences @ start)[ranked.places]
    after = np.full(before.shape, np.nan)
    for is_held_out in rounds.held_out:
        # Where no weights agree with the people of this round, all would be 0: the published ones stay.
        found = fit(ranked.pairs.only(~is_held_out[ranked.target_of]))
        weights = start if found is None else found
        rows = is_held_out[ranked.questions.target]
        after[rows] = (differences @ weights)[ranked.places[rows]]
        step(1)
    judged = ~np.isnan(after).any(axis=1)
    changes, notes = changes_of(ranked.questions.some(judged), before[judged], after[judged])
    if not changes:
        raise FinerRankError(f"{judgements.name}: no held-out target has answers that differ; add targets that have")
    for note in notes:
        resources.warn(note)
    final = fit(ranked.pairs.only(rounds.may_tune[ranked.target_of]))
    step(1)
    if max(gaps) > TOLERANCE:
        resources.warn(
            f"the weights are as good as the best ones to within {max(gaps):.2g} margins only; raise --pull or --margin"
        )
    if final is None:
        raise FinerRankError(
            f"{judgements.name}: the answers contradict LPIPS so much that all weights would be 0; check that rank 1 "
            "is the nearest, or raise --pull"
        )
    tensor = torch.from_numpy(final).float()
    record = {
        "judgements": judgements.name,
        "kind": judgements.kind,
        "rater": printable(settings.rater or "everybody"),
        "n_judgements": len(ranked.questions.rows),
        "n_rankings": ranked.n_rankings,
        "n_pairs": len(ranked.pairs.near),
        "n_targets": len(ranked.questions.targets),
        "n_raters": len(ranked.questions.raters),
        "per": settings.per,
        "margin": settings.margin,
        "pull": settings.pull,
        "held_out_how": rounds.how,
        "layer_scales": _layer_scales(final, start, settings.network),
        "verdict": changes[0].verdict,
        "has_helped": changes[0].has_helped,
        "changes": [change.record for change in changes],
        "command": _command_line(settings, judgements, out),
        "versions": {name: version(name) for name in (*PACKAGES, "numpy")},
    }
    write(
        out,
        tensor,
        network=settings.network,
        trunk_sha256=trunk.digest,
        size=settings.size,
        training=record,
    )
    return Tuned(out, tuple(changes), record)


@dataclass(frozen=True)
class _Rounds:
    """Which targets are held out together: `[targets]` each, numbered as in the questions.

    Attributes:
        may_tune: those that the final weights are tuned to.
    """

    held_out: tuple[np.ndarray, ...]
    may_tune: np.ndarray
    how: str


def _rounds(ranked: Ranked, settings: Settings) -> _Rounds:
    targets = ranked.questions.targets
    rows = ranked.judgements.rows
    tested, others = ({row.target for row in rows if (row.split == "test") is is_test} for is_test in (True, False))
    both = sorted(tested & others)
    if both:
        raise FinerRankError(
            f"{ranked.judgements.name}: target {both[0]} stands in the split test and in another; give it one split"
        )
    useful = {targets[i] for i in ranked.target_of}
    if tested and not others:
        raise FinerRankError(
            f"{ranked.judgements.name}: all judgements are of the split test, which is never tuned to; add others, or "
            "leave the split out"
        )
    if tested:
        is_test = np.array([target in tested for target in targets])
        if not useful & others:
            raise FinerRankError(f"{ranked.judgements.name}: no answers that differ outside the split test; add some")
        how = f"tuned to {len(others)} targets, judged by the {len(tested)} of the split test"
        return _Rounds((is_test,), ~is_test, how)
    if len(useful) < LEAST_TARGETS:
        raise FinerRankError(
            f"{ranked.judgements.name}: targets with answers that differ: {len(useful)}; "
            f"give {LEAST_TARGETS} at least, as some are held out to be judged by, and better a dozen"
        )
    n_rounds = min(len(useful), max(2, round(1 / settings.held_out)))
    shuffled = np.random.default_rng(settings.seed).permutation(len(useful))
    round_of = dict(zip(sorted(useful), (shuffled % n_rounds).tolist(), strict=True))
    held_out = [np.array([round_of.get(target) == i for target in targets]) for i in range(n_rounds)]
    how = f"{len(useful)} targets, each held out once, in {n_rounds} rounds"
    return _Rounds(tuple(held_out), np.ones(len(targets), np.bool_), how)


class _Differences(Lpips):
    """Keeps the differences of each pair, whose place in `rows` stands in for their distance; place 0 is that of a
    picture and itself."""

    def __init__(self, trunk: Trunk, device: str) -> None:
        self.rows = [torch.zeros(sum(CHANNELS[trunk.network]))]
        super().__init__(trunk, self.rows[0], device, {})

    def distance(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
        self.rows.append(layer_differences(first, second)[0].cpu())
        return float(len(self.rows) - 1)


def measured(
    compared: Sequence[tuple[Path, Path]], settings: Settings, resources: Resources, device: str
) -> tuple[Trunk, Floats]:
    """The trunk, and `[M, ΣC]` differences of each pair of pictures."""
    trunk = load_trunk(settings.network, settings.trunk, resolve_device(device), "--trunk FILE")
    kept = _Differences(trunk, resolve_device(device))
    request = DistanceRequest(f"lpips:{settings.network}", settings.network, settings.trunk, settings.size, device)
    places = PictureDistance(request, lambda: kept, PACKAGES, LEAST_SIDE_PX[settings.network]).of_pairs(
        compared, resources
    )
    differences = torch.stack(kept.rows).numpy().astype(np.float64)[places.astype(np.intp)]
    if not np.isfinite(differences).all():
        raise FinerRankError(f"{request.spec}: its features are not finite; look whether the trunk's weights are right")
    return trunk, differences


def _layer_scales(weights: Floats, start: Floats, network: str) -> list[float]:
    return [float(weights[some].mean() / start[some].mean()) for some in layers_of(CHANNELS[network])]


def _command_line(settings: Settings, judgements: Judgements, out: Path) -> str:
    """The command that tunes so, with files and folders named without the folders that hold them."""
    words = ["finer-rank", "agreement", "tune", judgements.source.resolve().name, "--recipe", "clpips"]
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value != field.default:
            shown = value.name if isinstance(value, Path) else f"{value:g}" if isinstance(value, float) else str(value)
            words += [f"--{field.name.replace('_', '-')}", shown]
    return shlex.join([*words, "--out", out.name])
