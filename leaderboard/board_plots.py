"""Pictures of a board for a column of a paper: scores with intervals, and identity against another measure."""

import math
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmark.copies import COPY_LIMIT
from benchmark.report import ANCHOR_NAMES
from galleries.errors import printable
from galleries.figures import check_format, plain, save_figure
from leaderboard.standings import CARDS, Embedder, Estimate, MetricCard, Row, Standings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN_INCHES = 3.35
"""Width of a column of a two-column paper."""
DPI = 300
BEST, OTHER, FLAGGED = "#0072B2", "#D55E00", "#CC79A7"
"""Okabe and Ito's, which the colour-blind tell apart; each has a marker of its own too."""
ANCHOR_STYLES: Mapping[str, tuple[str, Any]] = {
    "chance": ("#777777", ":"),
    "class_only": ("#56B4E9", "-."),
    "copied_reference": ("#E69F00", "--"),
    "held_out": ("#009E73", (0, (8, 2))),
}
COPIES = "copies"
"""The flag of rows above the copy limit."""
DAGGER = f"\n† copies: more than {COPY_LIMIT:.0%} of its images"
NAME_LENGTH = 24


@dataclass(frozen=True)
class Panel:
    """What an embedder says of a gallery."""

    embedder: Embedder
    standings: Standings


@contextmanager
def paper_style(names: Sequence[str]) -> Iterator[str]:
    """Small type, embedded or kept as text, in fonts that have the letters of `names`; yields those that none has."""
    from matplotlib import rc_context
    from matplotlib.font_manager import fontManager, get_font

    families = ["DejaVu Sans"]
    lacking = {ord(letter) for name in names for letter in plain(printable(name))}
    # Other fonts are opened only for letters that the own one lacks.
    for entry in sorted(fontManager.ttflist, key=lambda entry: (entry.name not in families, entry.name, entry.fname)):
        if not lacking or entry.name.startswith("Last Resort"):
            continue
        found = lacking & set(get_font(entry.fname).get_charmap())
        if found and entry.name not in families:
            families.append(entry.name)
        lacking -= found
    style = {
        "font.family": families,
        "font.size": 7,
        "axes.titlesize": 7,
        "axes.labelsize": 7,
        "xtick.labelsize": 6.5,
        "ytick.labelsize": 6.5,
        "legend.fontsize": 6.5,
        "figure.titlesize": 8,
        "axes.linewidth": 0.6,
        "pdf.fonttype": 42,  # journals refuse Type 3 fonts
        "svg.fonttype": "none",
    }
    with rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield "".join(map(chr, sorted(lacking)))


def draw_board(panels: Sequence[Panel], card: MetricCard, title: str, out: Path) -> None:
    """Models by score with 95 % intervals, a panel per embedder; anchors are vertical lines.

    By mAP, ranges of ranks stand at the right and models that are tied with the best are marked.

    Raises:
        FinerRankError: the picture cannot be written, or its name says no picture format.
    """
    check_format(out)
    rows = [_by_score(panel.standings.rows, card) for panel in panels]
    heights = [0.3 + 0.145 * len(own) for own in rows]
    figure = _figure(sum(heights) + 0.42 * len(panels) + 0.9)
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    handles: dict[str, Any] = {}
    for ax, panel, own in zip(axes, panels, rows, strict=True):
        _draw_panel(ax, panel, own, card, handles)
    is_flagged = any(COPIES in row.flags for own in rows for row in own)
    axes[-1].set_xlabel(f"{card.label} with 95 % interval{DAGGER if is_flagged else ''}")
    _finish(figure, handles, title, out)


def _draw_panel(ax: "Axes", panel: Panel, rows: Sequence[Row], card: MetricCard, handles: dict[str, Any]) -> None:
    is_ranked = card.key == "mAP"
    _draw_anchors(ax.axvline, panel, card, handles)
    for place, row in enumerate(rows):
        is_best = is_ranked and row.tied_with_best
        look = _look(BEST, "o", BEST) if is_best else _look(OTHER, "s", "white")
        label = "" if not is_ranked else "tied with the best" if is_best else "worse than the best"
        estimate = _known(row, card)
        drawn = ax.errorbar(_value(estimate), place, xerr=_reach(estimate), **look)
        if label:
            handles.setdefault(label, drawn)
    names = short_names([row.model for row in rows], NAME_LENGTH)
    ax.set_yticks(range(len(rows)), [_name(row, names) for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    if is_ranked:
        right = ax.twinx()
        right.set(ylim=ax.get_ylim())
        right.set_yticks(range(len(rows)), [_range(row) for row in rows])
        right.tick_params(length=0)
        right.spines[:].set_visible(False)
        right.annotate("ranks", (1, 1), (3.5, 3), "axes fraction", "offset points", fontsize=6.5)
    _tidy(ax, "x")
    ax.set_title(_panel_title(panel.embedder), loc="left")


@dataclass(frozen=True)
class Measure:
    """What identity is drawn against.

    Attributes:
        label: with all that makes its values comparable.
        of: bundle → its value; rows without one are not drawn.
    """

    label: str
    of: Mapping[str, Estimate]


def draw_against(panels: Sequence[tuple[Panel, Measure, str]], has_frontier: bool, title: str, out: Path) -> None:
    """mAP against another measure, a panel per embedder; intervals both ways, anchors are horizontal lines.

    Args:
        panels: with what stands in the panel's title.
        has_frontier: mark the models of which no other is better in one and as good in the other.

    Raises:
        FinerRankError: the picture cannot be written, or its name says no picture format.
    """
    check_format(out)
    order: dict[str, tuple[int, Row]] = {}
    for panel, measure, _ in panels:
        for row in panel.standings.rows:
            if row.bundle in measure.of:
                order.setdefault(row.bundle, (len(order) + 1, row))
    n_lines = math.ceil(len(order) / 2)
    heights = [*([2.5] * len(panels)), 0.05 + 0.125 * n_lines]
    figure = _figure(sum(heights) + 0.15 * len(panels) + 0.9)
    *axes, below = figure.subplots(len(heights), 1, height_ratios=heights)
    handles: dict[str, Any] = {}
    numbers = {bundle: number for bundle, (number, _) in order.items()}
    for ax, (panel, measure, remark) in zip(axes, panels, strict=True):
        _draw_anchors(ax.axhline, panel, CARDS[0], handles)
        _draw_points(ax, panel, measure, has_frontier, handles)
        _tidy(ax, "both")
        ax.set(xlabel=measure.label, ylabel=CARDS[0].label)
        ax.set_title("\n".join(part for part in (_panel_title(panel.embedder), plain(remark)) if part), loc="left")
    below.set(xlim=(0, 2), ylim=(n_lines, 0))
    below.axis("off")
    names = short_names([row.model for _, row in order.values()], NAME_LENGTH)
    for number, row in order.values():
        column, line = divmod(number - 1, n_lines)
        # Apart, for a name may run from right to left.
        below.text(column + 0.08, line + 0.5, str(number), fontsize=6, va="center", ha="right")
        below.text(column + 0.12, line + 0.5, _name(row, names), fontsize=6, va="center")
    _finish(
        figure, handles, title, out, {ax: (panel, m, numbers) for ax, (panel, m, _) in zip(axes, panels, strict=True)}
    )


def _draw_points(ax: "Axes", panel: Panel, measure: Measure, has_frontier: bool, handles: dict[str, Any]) -> None:
    rows = [row for row in panel.standings.rows if row.bundle in measure.of]
    points = {row.bundle: (_value(measure.of[row.bundle]), _value(_known(row, CARDS[0]))) for row in rows}
    best = frontier(points) if has_frontier else []
    if best:
        (line,) = ax.step(*zip(*(points[bundle] for bundle in best), strict=True), where="pre", color=BEST, lw=0.9)
        line.set_zorder(1)
    for row in rows:
        if COPIES in row.flags:
            label, look = "† copies", _look(FLAGGED, "^", "white")
        elif row.bundle in best:
            label, look = "frontier", _look(BEST, "o", BEST)
        else:
            label, look = "not on it" if has_frontier else "model", _look(OTHER, "s", "white")
        x, y = points[row.bundle]
        look |= {"elinewidth": 0.5, "capsize": 0, "alpha": 0.75}
        across, along = _reach(measure.of[row.bundle]), _reach(_known(row, CARDS[0]))
        drawn = ax.errorbar(x, y, xerr=across, yerr=along, **look)
        handles.setdefault(label, drawn)


def frontier(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points that no other beats in one coordinate without falling behind in the other, from the left.

    >>> frontier({"a": (0, 3), "b": (1, 1), "c": (2, 2), "d": (2, 1)})
    ['a', 'c']
    """
    found: list[str] = []
    highest = -math.inf
    for name in sorted(points, key=lambda name: (*(-value for value in points[name]), name)):
        x, y = points[name]
        if y > highest or (found and points[found[-1]] == (x, y)):
            found.append(name)
            highest = y
    return found[::-1]


def _number_points(ax: "Axes", panel: Panel, measure: Measure, numbers: Mapping[str, int]) -> None:
    """A number beside each point, where there is room; further away, with a line to it, where there is none."""
    pixels = ax.figure.dpi / 72
    rows = [row for row in panel.standings.rows if row.bundle in measure.of]
    values = [(_value(measure.of[row.bundle]), _value(_known(row, CARDS[0]))) for row in rows]
    centres = [(x / pixels, y / pixels) for x, y in ax.transData.transform(values)]
    taken = [(x, y, 5.0, 5.0) for x, y in centres]
    frame = ax.get_window_extent()
    (left, low), (right, high) = ((x / pixels, y / pixels) for x, y in (frame.p0, frame.p1))
    turns = [turn * math.pi / 8 for turn in range(1, 17)]
    for row, (x, y) in zip(rows, centres, strict=True):
        text = str(numbers[row.bundle])
        width, height = 1.5 + 3.9 * len(text), 6.5
        for distance, turn in ((distance, turn) for distance in (6, 9, 13, 18, 24, 31, 40, 50, 62) for turn in turns):
            box = (x + distance * math.cos(turn), y + distance * math.sin(turn), width, height)
            is_inside = left < box[0] - width / 2 < box[0] + width / 2 < right
            is_inside = is_inside and low < box[1] - height / 2 < box[1] + height / 2 < high
            if is_inside and not any(_overlap(box, other) for other in taken):
                break
        taken.append(box)
        ax.annotate(
            text, (x * pixels, y * pixels), (box[0] - x, box[1] - y), "figure pixels", "offset points", fontsize=6,
            ha="center", va="center_baseline", zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.3},
            arrowprops={"arrowstyle": "-", "lw": 0.4, "color": "#555555", "shrinkA": 2, "shrinkB": 2}
            if distance > 9 else None,
        )  # fmt: skip


def _overlap(box: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(abs(box[i] - other[i]) < (box[i + 2] + other[i + 2]) / 2 for i in (0, 1))


def _draw_anchors(draw: Any, panel: Panel, card: MetricCard, handles: dict[str, Any]) -> None:
    of_name = {shown: name for name, shown in ANCHOR_NAMES.items()}
    for row in panel.standings.anchors:
        # The gallery's own anchors have no bundle; the others are class-only runs.
        name = "class_only" if row.bundle else of_name[row.model]
        estimate = row.scores.get(card.key)
        if estimate and estimate["value"] is not None:
            colour, style = ANCHOR_STYLES[name]
            drawn = draw(estimate["value"], color=colour, linestyle=style, linewidth=1, zorder=0)
            handles.setdefault(ANCHOR_NAMES[name], drawn)


def _figure(height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(COLUMN_INCHES, height), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def _finish(
    figure: "Figure",
    handles: Mapping[str, Any],
    title: str,
    out: Path,
    numbered: Mapping["Axes", tuple[Panel, Measure, Mapping[str, int]]] | None = None,
) -> None:
    figure.suptitle(plain(printable(title)), wrap=True)
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=2, frameon=False, handlelength=2.2,
        columnspacing=1.2,
    )  # fmt: skip
    if numbered:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for ax, what in numbered.items():
            _number_points(ax, *what)
    save_figure(figure, out, dpi=DPI)


def _tidy(ax: "Axes", axis: Literal["both", "x"]) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.grid(axis=axis, color="#e5e5e5", linewidth=0.5)
    ax.set_axisbelow(True)
    ax.margins(0.06)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(length=2, width=0.6)


def _look(colour: str, marker: str, face: str) -> dict[str, Any]:
    return {
        "color": colour, "marker": marker, "markersize": 4, "markerfacecolor": face, "markeredgewidth": 0.9,
        "elinewidth": 1, "capsize": 1.5, "linestyle": "none", "zorder": 3,
    }  # fmt: skip


def _by_score(rows: Sequence[Row], card: MetricCard) -> list[Row]:
    """Rows that have the score, the best first; of equal ones in the order of the standings."""
    known = [row for row in rows if _has(row, card)]
    sign = 1 if card.higher_is_better is False else -1
    return sorted(known, key=lambda row: sign * _value(_known(row, card)))


def _has(row: Row, card: MetricCard) -> bool:
    estimate = row.scores.get(card.key)
    return estimate is not None and estimate["value"] is not None


def _known(row: Row, card: MetricCard) -> Estimate:
    estimate = row.scores[card.key]
    assert estimate is not None
    return estimate


def _value(estimate: Estimate) -> float:
    value = estimate["value"]
    assert value is not None
    return value


def _reach(estimate: Estimate) -> list[list[float]] | None:
    """How far the interval reaches below and above; a mean over categories may lie outside by rounding."""
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None or low is None or high is None:
        return None
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def _range(row: Row) -> str:
    if row.ranks is None:
        return ""
    best, worst = row.ranks
    return str(best) if best == worst else f"{best}–{worst}"


def _name(row: Row, names: Mapping[str, str]) -> str:
    return plain(printable(names[row.model])) + (" †" if COPIES in row.flags else "")


def _panel_title(embedder: Embedder) -> str:
    return plain(f"{printable(_that_fits(embedder.spec, 28))}\ngallery: {embedder.gallery_seen}")


def short_names(labels: Sequence[str], width: float) -> dict[str, str]:
    """Label → what is shown of it where it is wider than so many letters; those that differ still do, if possible."""
    shown = {label: _that_fits(label, width) for label in labels}
    found = dict(shown)
    for label in labels:
        twins = [other for other in shown if shown[other] == shown[label]]
        if len(twins) > 1:
            shortest = min(map(len, twins))
            differ = (i for i in range(shortest) if len({twin[i] for twin in twins}) > 1)
            found[label] = f"{label[:4]}…{_that_fits(label[next(differ, shortest) :], width - 8)}"
    return found


def _that_fits(label: str, width: float) -> str:
    """A label, with its middle left out where it is wider than so many letters."""
    length = len(label)
    shown = label
    while sum(_width(letter) for letter in shown) > width:
        length -= 1
        # The end may be what tells two of them apart.
        shown = f"{label[: length // 2]}…{label[-(length // 2) :]}"
    return shown


def _width(letter: str) -> float:
    if not letter.isprintable():
        return 6  # it is shown by its number
    if unicodedata.east_asian_width(letter) in "WF" or letter in "MWmw@%":
        return 1.7
    return 1.2 if letter.isupper() else 1
