"""The analyses as charts."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.embedders import published_spec
from benchmark.perception.changes import ASPECTS
from benchmark.perception.colours import HISTOGRAMS, Alignment
from benchmark.perception.dimensions import Dimensions
from benchmark.perception.sensitivity import Sensitivity
from benchmark.statistics import Estimate
from galleries.figures import check_format, plain, save_figure, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000")
"""Told apart without colour vision."""
MARKERS = "os^vDPX"


def draw_dimensions(found: Sequence[Dimensions], out: Path) -> None:
    """2AFC against the dimensions kept, with 95 % intervals; dashed where the embedding is left as it is.

    Raises:
        FinerRankError: `out` cannot be written.
    """
    figure = _figure(out, (6.4, 4.2))
    panel = figure.subplots()
    for i, each in enumerate(found):
        steps = [step for step in each.steps if step.n_kept is not None]
        whole = each.steps[-1].score.value
        kept = [step.n_kept or 0 for step in steps]
        low = [step.score.value if step.score.low is None else step.score.low for step in steps]
        high = [step.score.value if step.score.high is None else step.score.high for step in steps]
        colour = COLOURS[i % len(COLOURS)]
        label = plain(shorten(published_spec(each.embedder), 40))
        panel.plot(
            kept, [step.score.value for step in steps], marker=MARKERS[i % len(MARKERS)], label=label, color=colour
        )
        panel.fill_between(kept, low, high, alpha=0.12, linewidth=0, color=colour)
        panel.axhline(whole, linestyle="--", linewidth=0.9, color=colour)
    panel.axhline(0.5, color="#888888", linewidth=0.8)
    panel.set_xscale("log", base=2)
    panel.set_xlabel("principal components kept (dashed: the whole embedding)")
    panel.set_ylabel("2AFC: share of votes agreed with")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    save_figure(figure, out)


def draw_alignments(found: Sequence[Alignment], are_triplets: bool, out: Path) -> None:
    """Alignment with each histogram, a row for each metric, with 95 % intervals.

    Raises:
        FinerRankError: `out` cannot be written.
    """
    figure = _figure(out, (6.4, 1.4 + 0.5 * len(found)))
    panel = figure.subplots()
    for i, name in enumerate(HISTOGRAMS):
        places = [place + 0.2 * (i - 1) for place in range(len(found))]
        _points(panel, [each.alignment[name] for each in found], places, i, name)
    panel.set_yticks(range(len(found)), [plain(shorten(published_spec(each.metric), 40)) for each in found])
    panel.invert_yaxis()
    panel.axvline(0.5 if are_triplets else 0.0, color="#888888", linewidth=0.8)
    panel.set_xlabel(
        "share of triplets that the histogram decides alike" if are_triplets else "Spearman's correlation of pairs"
    )
    panel.grid(alpha=0.3, axis="x")
    panel.legend(fontsize=8)
    save_figure(figure, out)


def draw_sensitivities(found: Sequence[Sensitivity], out: Path) -> None:
    """A panel for each level: the sensitivity to each aspect, with 95 % intervals.

    Raises:
        FinerRankError: `out` cannot be written.
    """
    levels = list(dict.fromkeys(reaction.level for reaction in found[0].reactions))
    aspects = [name for name in ASPECTS if any(reaction.aspect == name for reaction in found[0].reactions)]
    figure = _figure(out, (1.6 + 3.8 * len(levels), 1.4 + 0.25 * len(aspects) * (len(found) + 1)))
    panels = figure.subplots(1, len(levels), squeeze=False, sharey=True)[0]
    for panel, level in zip(panels, levels, strict=True):
        for i, each in enumerate(found):
            of = {reaction.aspect: reaction.sensitivity for reaction in each.reactions if reaction.level == level}
            places = [place + 0.7 * ((i + 0.5) / len(found) - 0.5) for place in range(len(aspects))]
            label = plain(shorten(published_spec(each.metric), 40))
            _points(panel, [of[aspect] for aspect in aspects], places, i, label)
        panel.set_title(f"pixels changed by {level:g} (root mean square)", fontsize=9)
        panel.set_xlabel("distance, of that between unrelated photos")
        panel.grid(alpha=0.3, axis="x")
        panel.set_xlim(left=0)
    panels[0].set_yticks(range(len(aspects)), aspects)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=min(3, len(found)))
    save_figure(figure, out)


def _points(panel: object, estimates: Sequence[Estimate | None], places: Sequence[float], i: int, label: str) -> None:
    known = [(estimate, place) for estimate, place in zip(estimates, places, strict=True) if estimate is not None]
    values = [estimate.value for estimate, _ in known]
    below = [0 if e.low is None else max(0.0, e.value - e.low) for e, _ in known]
    above = [0 if e.high is None else max(0.0, e.high - e.value) for e, _ in known]
    panel.errorbar(  # type: ignore[attr-defined]
        values,
        [place for _, place in known],
        xerr=[below, above],
        fmt=MARKERS[i % len(MARKERS)],
        markersize=4,
        linewidth=1,
        color=COLOURS[i % len(COLOURS)],
        label=label,
    )


def _figure(out: Path, size: tuple[float, float]) -> "Figure":
    check_format(out)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
