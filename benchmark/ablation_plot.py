"""A picture of how the score depends on the gallery's shape."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from galleries.figures import plain, save_figure, shorten

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which the colour-blind tell apart; each line has a marker of its own too."""
MARKERS = "osD^vPX*"


def draw_ablation(rows: Sequence[dict[str, Any]], title: str, out: Path) -> None:
    """mAP and AUC with their bands, once against identities and once against photos; chance is dashed.

    Each panel shows the longest row of cells of its kind. Runs are told apart by colour and marker.

    Args:
        rows: what `as_row` returns.

    Raises:
        FinerRankError: the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    runs = list(dict.fromkeys(row["run"] or "" for row in rows))
    is_alone = len(runs) == 1
    lines = [("mAP", "AUC")] if is_alone else [("mAP",), ("AUC",)]
    panels = _longest_rows(rows)
    figure = Figure(figsize=(1.2 + 4 * len(panels), 1.2 + 3 * len(lines)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(lines), len(panels), squeeze=False, sharex="col", sharey=True)
    solid: dict[str, Any] = {}
    dashed: dict[str, Any] = {}
    for line, shown in zip(axes, lines, strict=True):
        line[0].set_ylabel(" and ".join(shown))
        for ax, (varied, label, of) in zip(line, panels, strict=True):
            for i, (run, score) in enumerate((run, score) for run in runs for score in shown):
                own = [row for row in of if (row["run"] or "") == run and row[score] is not None]
                x, mean, chance = ([row[key] for row in own] for key in (varied, score, "chance_mAP"))
                ends = [[row[f"{score}_band_{end}"] for row in own] for end in ("low", "high")]
                colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
                if None not in ends[0]:
                    ax.fill_between(x, *ends, color=colour, alpha=0.15, linewidth=0)
                    ax.vlines(x, *ends, color=colour, alpha=0.5, linewidth=1)
                (solid[f"{run} {score}".strip() if is_alone else run],) = ax.plot(
                    x, mean, color=colour, marker=marker, markersize=5
                )
                grey = colour if is_alone else "#666666"
                at = chance if score == "mAP" else [0.5] * len(x)
                (drawn,) = ax.plot(x, at, color=grey, linestyle="--", linewidth=1.2, marker="_", markersize=5)
                dashed[f"{score} by chance" if is_alone else "chance"] = drawn
            ax.set_xscale("log")
            ax.xaxis.set_minor_locator(NullLocator())
            values = sorted({row[varied] for row in of})
            ax.set_xticks(values, [str(value) for value in values])
            ax.set(ylim=(-0.02, 1.02), xlabel=label if ax in axes[-1] else "")
            ax.grid(color="#dddddd", linewidth=0.6)
            ax.spines[["top", "right"]].set_visible(False)
    names = [shorten(name, 40) for name in (*solid, *dashed)]
    title, *names = (plain(text) for text in (title, *names))
    figure.suptitle(title, fontsize=10, wrap=True)
    handles = [*solid.values(), *dashed.values()]
    figure.legend(handles, names, loc="outside lower center", ncols=2 * len(panels), frameon=False)
    save_figure(figure, out, dpi=150)


def _longest_rows(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """What each panel varies, its label, and its cells in order; one panel where there is no row of two cells."""
    panels = []
    for varied, fixed, label in (
        ("identities_per_category", "photos_per_identity", "identities per category ({} photos of each)"),
        ("photos_per_identity", "identities_per_category", "photos per identity ({} identities per category)"),
    ):
        values = {row["cell"]: row[fixed] for row in rows}.values()
        longest = max(values, key=lambda value: ([*values].count(value), value))
        of = sorted((row for row in rows if row[fixed] == longest), key=lambda row: row[varied])
        panels.append((varied, label.format(longest), of))
    return [panel for panel in panels if panel[2][0]["cell"] != panel[2][-1]["cell"]] or panels[:1]
