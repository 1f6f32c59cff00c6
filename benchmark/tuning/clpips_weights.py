"""The weights of CLPIPS' channels, tuned as one scale a layer or each on its own. Pure numpy."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from benchmark.tuning.margin_ranking import Floats, Pairs, fit_weights

Per = Literal["channel", "layer"]
PER: tuple[Per, ...] = get_args(Per)


@dataclass(frozen=True)
class TunedWeights:
    """What a tuning gave.

    Attributes:
        weights: `[ΣC]` ≥ 0, of values that float32 holds; None where nothing but 0 is left.
        gap: in margins: the objective is at most this far above its optimum.
    """

    weights: Floats | None
    gap: float


def tuned_weights(
    differences: Floats,
    start: Floats,
    channels: Sequence[int],
    pairs: Pairs,
    *,
    per: Per,
    margin: float,
    pull: float,
) -> TunedWeights:
    """Weights that rank as people do, of the mean distance that those at the start have on the pictures of the pairs.

    Args:
        differences: `[N, ΣC]` ≥ 0.
        start: `[ΣC]` ≥ 0; the published weights.
        channels: of each layer.
        margin, pull: see `margin_ranking`.

    Raises:
        ValueError: the differences tell the pictures of no pair apart.
    """
    features, scales, at_start = _parameters(differences, start, channels, per)
    fit = fit_weights(features, pairs, at_start, margin=margin, pull=pull)
    weights = scales * (np.repeat(fit.weights, channels) if per == "layer" else fit.weights)
    used = np.unique(np.concatenate([pairs.near, pairs.far]))
    mean, untuned = float((differences[used] @ weights).mean()), float((differences[used] @ start).mean())
    gap = fit.gap / margin
    if mean <= 1e-9 * untuned:
        return TunedWeights(None, gap)
    # A distance is known up to its unit: that of LPIPS is kept. Rounded here, so that what is judged is what is stored.
    rounded = (weights * (untuned / mean if untuned else 1.0)).astype(np.float32)
    return TunedWeights(rounded.astype(np.float64), gap)


def _parameters(differences: Floats, start: Floats, channels: Sequence[int], per: Per) -> tuple[Floats, Floats, Floats]:
    """What is tuned: `[N, F]` features, the `[ΣC]` that turn parameters into weights, and the `[F]` parameters at the
    start.

    Of layers, a parameter is the scale of its published weights. Of channels, it is in units of the published weight
    plus the mean of its layer: channels that were published at 0 may come in, and large ones move more easily.
    """
    if per == "layer":
        parts = [(differences[:, some] @ start[some])[:, None] for some in layers_of(channels)]
        return np.concatenate(parts, axis=1), start, np.ones(len(parts))
    scales = np.concatenate([start[some] + start[some].mean() for some in layers_of(channels)])
    return differences * scales, scales, np.divide(start, scales, out=np.zeros_like(start), where=scales > 0)


def layers_of(channels: Sequence[int]) -> Iterator[slice]:
    """The channels of each layer."""
    end = 0
    for n_channels in channels:
        yield slice(end, end + n_channels)
        end += n_channels
