"""A picture of how embedders agree."""

from collections.abc import Mapping
from pathlib import Path

from benchmark.encoder_agreement import Agreement
from galleries.figures import check_format, plain, save_figure

COLOURS = "PuOr"
"""From brown (-1) over white (0) to purple (1): the colour-blind tell them apart."""
UNDEFINED = "#dddddd"


def draw_agreement(agreement: Agreement, gallery_seen: Mapping[str, str], title: str, out: Path) -> None:
    """Kendall's tau-b of each two embedders as a heat map, with numbers and intervals; grey where undefined.

    The same input gives the same bytes.

    Args:
        gallery_seen: embedder → whether it has seen the gallery.

    Raises:
        FinerRankError: the picture cannot be written, or its name says no picture format.
    """
    check_format(out)
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize, to_rgba
    from matplotlib.figure import Figure

    n = len(agreement.embedders)
    figure = Figure(figsize=(4.6 + 1.25 * n, 1.6 + 0.85 * n), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    colours, scale = colormaps[COLOURS], Normalize(-1, 1)
    place = {embedder: i for i, embedder in enumerate(agreement.embedders)}
    below = {}
    for pair in agreement.embedder_pairs:
        bounds = "" if pair.low is None or pair.high is None else f"[{pair.low:.2f}, {pair.high:.2f}]\n"
        text = f"{bounds}{pair.n_runs} runs"
        below[place[pair.first], place[pair.second]] = below[place[pair.second], place[pair.first]] = text
    cells = []
    for row, taus in enumerate(agreement.matrix):
        cells.append([colours(scale(tau)) if tau is not None else to_rgba(UNDEFINED) for tau in taus])
        for column, tau in enumerate(taus):
            ink = "white" if tau is not None and abs(tau) > 0.65 else "black"
            number = "–" if tau is None else f"{tau:.2f}"
            if (row, column) in below:
                ax.text(column, row - 0.22, number, ha="center", va="center", color=ink, fontsize=11)
                ax.text(column, row + 0.17, below[row, column], ha="center", va="center", color=ink, fontsize=7)
            else:
                ax.text(column, row, number, ha="center", va="center", color=ink, fontsize=11)
    ax.imshow(cells, aspect="auto")
    edges = [i - 0.5 for i in range(1, n)]
    ax.hlines(edges, -0.5, n - 0.5, color="white", linewidth=1.5)
    ax.vlines(edges, -0.5, n - 0.5, color="white", linewidth=1.5)
    ax.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
    names = [
        f"({i}) {_both_ends(name)}\ngallery: {gallery_seen[name]}"
        for i, name in enumerate(agreement.embedders, start=1)
    ]
    ax.set_xticks(range(n), [f"({i})" for i in range(1, n + 1)])
    ax.set_yticks(range(n), [plain(name) for name in names], fontsize=8)
    ax.tick_params(length=0)
    ax.xaxis.tick_top()
    for side in ax.spines.values():
        side.set_visible(False)
    figure.colorbar(ScalarMappable(scale, colours), ax=ax, label="Kendall's tau-b", shrink=0.8)
    figure.suptitle(plain(title), fontsize=9, wrap=True)
    save_figure(figure, out, dpi=150)


def _both_ends(label: str, length: int = 44) -> str:
    # The end may be what tells two of them apart.
    return label if len(label) <= length else f"{label[: length // 2 - 1]}…{label[-length // 2 :]}"
