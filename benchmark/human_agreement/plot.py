"""A picture of how well distances agree with people."""

from pathlib import Path

from benchmark.human_agreement.score import Scores
from galleries.figures import check_format, plain, save_figure, shorten

POINT, PEOPLE, CHANCE = "#3b6fb6", "#c8553d", "#888888"
CHANCE_LEVEL = {"2afc": 0.5, "odd-one-out": 1 / 3, "ranking": 0.0, "rating": 0.0}


def draw_scores(scores: Scores, out: Path) -> None:
    """The main measure of each distance with its interval over targets, the human ceiling and chance as lines.

    The same input gives the same bytes.

    Raises:
        FinerRankError: the picture cannot be written, or its name says no picture format.
    """
    check_format(out)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [r for r in scores.results if r.measure == scores.main and not r.subset]
    figure = Figure(figsize=(7.2, 1.6 + 0.42 * max(len(shown), 1)), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    for place, each in enumerate(shown):
        if each.value is None:
            ax.text(0.02, place, "–", transform=ax.get_yaxis_transform(), va="center")
            continue
        if each.over_targets:
            ax.plot(each.over_targets, [place, place], color=POINT, linewidth=2)
        hollow = each.metric in scores.tied_with_best or not scores.comparisons
        ax.plot([each.value], [place], "o", color=POINT, markerfacecolor=POINT if hollow else "white")
    people = scores.of("")
    if people and people.value is not None:
        ax.axvline(people.value, color=PEOPLE, linewidth=1.5, label="one rater against the others")
        if people.over_targets:
            ax.axvspan(*people.over_targets, color=PEOPLE, alpha=0.15, linewidth=0)
    if scores.kind in CHANCE_LEVEL:
        ax.axvline(CHANCE_LEVEL[scores.kind], color=CHANCE, linestyle=":", label="chance")
    ax.set_yticks(range(len(shown)), [plain(shorten(each.metric, 40)) for each in shown], fontsize=8)
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.set_xlabel(f"{scores.main}, 95 % interval over {scores.n_targets} targets")
    ax.set_title(plain(shorten(scores.name, 80)), fontsize=9)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=2, frameon=False)
    save_figure(figure, out, dpi=150)
