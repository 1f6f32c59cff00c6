"""Scores against drift, as a picture."""

from collections.abc import Sequence
from pathlib import Path

from benchmark.calibration import Calibration
from galleries.figures import check_format, plain, save_figure

STYLES = {
    "pairwise similarity": ("#555555", "--", "o"),
    "mAP": ("#0072b2", "-", "s"),
    "AUC": ("#e69f00", "-", "^"),
    "rank_1": ("#009e73", "-", "v"),
    "retention": ("#cc79a7", ":", "D"),
}
"""Colour (told apart without colour vision), line and marker of each score."""


def draw_calibrations(found: Sequence[Calibration], out: Path) -> None:
    """A panel for each embedder: each score against drift, with its 95 % interval, as a share of its mean at no drift.

    Raises:
        FinerRankError: `out` cannot be written.
    """
    check_format(out)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(found), 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for panel, calibration in zip(panels, found, strict=True):
        for response in calibration.responses:
            colour, line, marker = STYLES[response.metric]
            base = response.values[0].value
            if base <= 0:
                continue
            values = [estimate.value / base for estimate in response.values]
            low = [(estimate.value if estimate.low is None else estimate.low) / base for estimate in response.values]
            high = [(estimate.value if estimate.high is None else estimate.high) / base for estimate in response.values]
            panel.plot(
                calibration.levels, values, line, color=colour, marker=marker, markersize=4, label=response.metric
            )
            panel.fill_between(calibration.levels, low, high, color=colour, alpha=0.12, linewidth=0)
        panel.set_title(plain(calibration.embedder), fontsize=10)
        panel.set_xlabel("drift: share of the identity's details that is lost")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("score, as a share of that without drift")
    panels[0].legend(fontsize=8, loc="lower left")
    save_figure(figure, out)
