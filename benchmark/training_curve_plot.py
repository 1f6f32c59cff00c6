"""Curves of trainings, as a picture: identity above, prompts below, and the step to pick."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.training_curve import PROMPTS_KEPT, TrainingCurve
from galleries.figures import check_format, plain, save_figure, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IDENTITY, PROMPTS, CHANCE, HELD_OUT, CHOSEN = "#0072b2", "#e69f00", "#777777", "#009e73", "#d55e00"
"""Okabe and Ito's, which the colour-blind tell apart; each has a dash or marker of its own too."""
PER_LINE = 3


def draw_training_curves(curves: Sequence[TrainingCurve], out: Path, prompts_kept: float = PROMPTS_KEPT) -> None:
    """A panel per training: mAP by step, with chance and held-out photos as lines; below it CLIP-T where it is known,
    with the least that is asked for. The step to pick is marked in both.

    Raises:
        FinerRankError: see `TrainingCurve.best`; `out` cannot be written.
    """
    check_format(out)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    has_prompts = any(step.clip_t is not None for curve in curves for step in curve.steps)
    n_columns = min(len(curves), PER_LINE)
    heights = [2.2, 1.2] if has_prompts else [2.2]
    n_lines = math.ceil(len(curves) / PER_LINE)
    figure = Figure(figsize=(0.4 + 3.1 * n_columns, 0.5 + (sum(heights) + 0.5) * n_lines), layout="constrained")
    FigureCanvasAgg(figure)
    grid: Any = figure.subplots(n_lines * len(heights), n_columns, squeeze=False, height_ratios=heights * n_lines)
    for i in range(n_lines * n_columns):
        line, column = divmod(i, n_columns)
        own = [grid[line * len(heights) + k][column] for k in range(len(heights))]
        for ax in own:
            ax.set_axis_off()
        if i < len(curves):
            _draw(own, curves[i], prompts_kept, is_first=column == 0)
    handles: dict[str, Any] = {}
    for ax in figure.axes:
        handles |= {str(label): handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    n_beside = min(len(handles), 2 if n_columns == 1 else 3)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=n_beside, fontsize=7.5, frameon=False)
    save_figure(figure, out, dpi=150)


def _draw(own: "Sequence[Axes]", curve: TrainingCurve, prompts_kept: float, is_first: bool) -> None:
    chosen = curve.best(prompts_kept).scored
    steps = [step.step for step in curve.steps]
    above = own[0]
    above.set_title(
        plain(f"{shorten(curve.identity)}\n{shorten(f'{curve.gallery}, {curve.embedder}', 44)}"), fontsize=8
    )
    above.plot(steps, [s.mAP for s in curve.steps], color=IDENTITY, marker="o", markersize=4, label="mAP")
    above.axhline(curve.chance, color=CHANCE, linestyle=":", linewidth=1.2, label="chance")
    if curve.held_out is not None:
        above.axhline(curve.held_out, color=HELD_OUT, linestyle="--", linewidth=1.2, label="held-out photos")
    above.set_ylim(0, 1.04)
    values = [(above, chosen.mAP, "mAP")]
    least = curve.least_clip_t(prompts_kept)
    if least is not None and chosen.clip_t is not None:
        below = own[1]
        known = [(s.step, s.clip_t) for s in curve.steps if s.clip_t is not None]
        below.plot(*zip(*known, strict=True), color=PROMPTS, marker="s", markersize=3.5, label="CLIP-T")
        below.axhline(least, color=PROMPTS, linestyle="-.", linewidth=1, label=f"{prompts_kept:.0%} of first CLIP-T")
        values.append((below, chosen.clip_t, "CLIP-T"))
    for ax, value, label in values:
        ax.set_axis_on()
        ax.axvline(chosen.step, color=CHOSEN, linewidth=0.8, alpha=0.6)
        ax.plot([chosen.step], [value], "*", color=CHOSEN, markersize=11, zorder=4, label="step to pick")
        ax.set_ylabel(label if is_first else "", fontsize=8)
        ax.tick_params(labelsize=7)
        ax.grid(color="#dddddd", linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    values[-1][0].set_xlabel(f"steps of training (picked: {chosen.step})", fontsize=8)
