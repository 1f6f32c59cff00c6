"""Agreement with people against discrimination of identities, as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.human_agreement.plot import CHANCE_LEVEL
from benchmark.identity_discrimination import Discrimination, chance_of_order
from benchmark.people_and_identity import Study
from benchmark.statistics import Estimate
from galleries.errors import FinerRankError
from galleries.figures import check_format, plain, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINT, ARROW, CHANCE, CEILING = "#0072b2", "#d55e00", "#777777", "#009e73"
"""Told apart without colour vision; lines differ by their strokes too."""
LABEL_INCHES = 0.24
"""Height of a label with its distance to the next."""
PANEL_INCHES, NAMES_INCHES = 6.8, 2.5
"""Width of a panel with its names, and of these."""


def draw_study(study: Study, out: Path) -> None:
    """A panel for each gallery: a metric's agreement across, its mAP up, both with 95 % intervals; an arrow from before
    to after tuning. Metrics that lack one of the two are left out. The same input gives the same bytes.

    Raises:
        FinerRankError: no metric has both, the picture cannot be written, or its name says no picture format.
    """
    check_format(out)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = {name: _points(study, of) for name, of in study.discrimination.items()}
    if not any(panels.values()):
        raise FinerRankError(f"{out}: no metric has both agreement and mAP; there is nothing to draw")
    pairs = [(pair.before, pair.after) for pair in study.pairs]
    people = study.scores.of("")
    height = max(4.4, 1.2 + LABEL_INCHES * max(map(len, panels.values())))
    width = PANEL_INCHES * len(panels)
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    # Fixed margins: a layout engine would make room for the names at the right by shrinking the panel to nothing.
    figure.subplots_adjust(0.7 / width, 0.55 / height, 1 - NAMES_INCHES / width, 1 - 0.4 / height, 0.75)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (name, points) in zip(axes, panels.items(), strict=True):
        ax.set_title(plain(name), fontsize=10)
        ax.set_xlabel(f"agreement with people: {study.scores.main}", fontsize=9)
        ax.set_ylabel("identity: held-out mAP", fontsize=9)
        of_order = chance_of_order(study.discrimination[name])
        if of_order is not None:
            ax.axhline(of_order, color=CHANCE, linestyle="--", linewidth=1, zorder=1, label="chance")
        if study.scores.kind in CHANCE_LEVEL:
            ax.axvline(CHANCE_LEVEL[study.scores.kind], color=CHANCE, linestyle="--", linewidth=1, zorder=1)
        if people and people.value is not None:
            ax.axvline(people.value, color=CEILING, linestyle=":", linewidth=1.8, label="one rater against the others")
        ax.grid(alpha=0.25)
        _draw(ax, points, pairs)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=7, loc="best", frameon=False)
    save_figure(figure, out)


def _points(study: Study, of: Mapping[str, Discrimination]) -> dict[str, tuple[Estimate, Estimate]]:
    """Agreement and mAP of each metric that has both."""
    found = {}
    for metric in study.metrics:
        agreement, identity = study.agreement(metric), of[metric].average_precisions.mean
        if agreement.value is not None and identity:
            found[metric] = (Estimate(agreement.value, *(agreement.over_targets or (None, None))), identity)
    return found


def _draw(ax: "Axes", points: Mapping[str, tuple[Estimate, Estimate]], pairs: Sequence[tuple[str, str]]) -> None:
    before = {first for first, _ in pairs} - {second for _, second in pairs}
    for name, (agreement, identity) in points.items():
        for estimate, along in ((agreement, "x"), (identity, "y")):
            if estimate.low is not None and estimate.high is not None:
                ends = [estimate.low, estimate.high]
                xs, ys = (ends, [identity.value] * 2) if along == "x" else ([agreement.value] * 2, ends)
                ax.plot(xs, ys, color=POINT, alpha=0.45, linewidth=1.2, zorder=2)
        face = "white" if name in before else POINT
        ax.plot(agreement.value, identity.value, "o", color=POINT, markerfacecolor=face, markersize=6, zorder=4)
    for first, second in pairs:
        if first in points and second in points:
            start, end = ((points[name][0].value, points[name][1].value) for name in (first, second))
            style = {"arrowstyle": "-|>", "color": ARROW, "linewidth": 1.6, "shrinkA": 4, "shrinkB": 4}
            ax.annotate("", end, start, arrowprops=style, zorder=3)
    ax.margins(0.08)
    _label(ax, {name: (a.value, i.value) for name, (a, i) in points.items()})


def _label(ax: "Axes", points: Mapping[str, tuple[float, float]]) -> None:
    """Names in a column at the right, each with a line to its point, so that none covers another."""
    ax.apply_aspect()
    figure = ax.get_figure()
    assert figure is not None
    step = LABEL_INCHES / (ax.get_position().height * figure.get_figheight())  # type: ignore[union-attr]
    to_axes = ax.transData + ax.transAxes.inverted()
    ax.autoscale_view()
    heights = {name: float(to_axes.transform(at)[1]) for name, at in points.items()}
    ordered = sorted(points, key=lambda name: (heights[name], name))
    for name, place in zip(ordered, spread([heights[name] for name in ordered], step), strict=True):
        ax.annotate(
            plain(_both_ends(name)), points[name], (1.04, place), textcoords="axes fraction", fontsize=8, va="center",
            arrowprops={"arrowstyle": "-", "color": "#aaaaaa", "linewidth": 0.6, "shrinkA": 2, "shrinkB": 3,
                        "relpos": (0, 0.5)},
            annotation_clip=False, zorder=2,
        )  # fmt: skip


def spread(places: Sequence[float], step: float) -> list[float]:
    """Ascending places moved until each two neighbours are `step` apart, within 0 and 1 where that is possible."""
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + step) if found else max(place, 0.0))
    top = 1.0
    for i in range(len(found) - 1, -1, -1):
        found[i] = min(found[i], top)
        top = found[i] - step
    return found


def _both_ends(label: str, length: int = 34) -> str:
    # The end may be what tells two of them apart.
    return label if len(label) <= length else f"{label[: length // 2 - 1]}…{label[-length // 2 :]}"
