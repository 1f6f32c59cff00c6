"""A picture of how hard a gallery is: its shape, its held-out photos, and the identities that are hardest to tell."""

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.difficulty import Difficulty, HardPair, IdentityLevel
from galleries.errors import FinerRankError
from galleries.figures import THUMBNAIL_PX, check_format, plain, save_figure, shorten
from galleries.gallery import Gallery, Photo
from galleries.images import BadImage, decode_image, read_image_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DARK, LIGHT, OTHER = "#20639b", "#a9c4dc", "#c0392b"
FEW = 40
"""Identities up to which each has its own bar and name."""
PAIRS_A_LINE = 5


def draw_difficulty(gallery: Gallery, difficulty: Difficulty, embedder: str, out: Path) -> None:
    """Draw into an image file; the same input gives the same bytes.

    Raises:
        FinerRankError: a photo cannot be read, or `out` cannot be written.
    """
    check_format(out)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_lines = math.ceil(len(difficulty.pairs) / PAIRS_A_LINE)
    n_named = len(difficulty.identities) if len(difficulty.identities) <= FEW else 0
    heights = [max(3.8, 0.14 * n_named + 1), 0.4 + 1.65 * n_lines]
    figure = Figure(figsize=(13, sum(heights) + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=heights)
    above, below = parts
    left, right = above.subplots(1, 2, width_ratios=[1, 1.6])
    _draw_photos_per_identity(left, difficulty.identities)
    _draw_precisions(right, difficulty)
    below.suptitle(_pairs_title(difficulty), fontsize=9)
    if difficulty.pairs:
        first = {photo.identity: photo for photo in reversed(gallery.split("gallery"))}
        # A narrow column between pairs keeps their photos together.
        widths = ([1, 1, 0.15] * PAIRS_A_LINE)[:-1]
        axes = below.subplots(n_lines, len(widths), squeeze=False, width_ratios=widths)
        for ax in axes.flat:
            ax.set_axis_off()
        for i, pair in enumerate(difficulty.pairs):
            line, column = divmod(i, PAIRS_A_LINE)
            _draw_pair(axes[line][3 * column], axes[line][3 * column + 1], pair, first)
    figure.suptitle(plain(f"{gallery.card.name} {gallery.card.version}, {embedder}"), fontsize=10)
    save_figure(figure, out)


def _draw_photos_per_identity(ax: "Axes", identities: tuple[IdentityLevel, ...]) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_title("gallery photos per identity", fontsize=9)
    if len(identities) <= FEW:
        ordered = sorted(identities, key=lambda i: (i.n_gallery, i.category, i.identity))
        ax.barh(range(len(ordered)), [i.n_gallery for i in ordered], color=DARK)
        size = 8 if len(ordered) <= 20 else 6.5
        ax.set_yticks(range(len(ordered)), [plain(shorten(i.identity)) for i in ordered], fontsize=size)
        ax.set_ylim(-0.6, len(ordered) - 0.4)
        ax.set_xlabel("photos", fontsize=8)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        return
    n_of = Counter(i.n_gallery for i in identities)
    width = max(1, math.ceil((max(n_of) - min(n_of) + 1) / FEW))
    bins: Counter[int] = Counter()
    for n, count in n_of.items():
        bins[(n - min(n_of)) // width] += count
    middles = [min(n_of) + width * (b + 0.5) - 0.5 for b in bins]
    ax.bar(middles, list(bins.values()), 0.9 * width, color=DARK)
    ax.set_xlabel("photos", fontsize=8)
    ax.set_ylabel("identities", fontsize=8)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))


def _draw_precisions(ax: "Axes", difficulty: Difficulty) -> None:
    """Each identity's mean, all between its worst and its best photo, and chance."""
    known = sorted(
        ((i.mean, i) for i in difficulty.identities if i.mean is not None),
        key=lambda of: (of[0], of[1].category, of[1].identity),
    )
    ax.set_title("held-out average precision, the hardest identity first", fontsize=9, pad=20)
    ax.set_ylim(-0.03, 1.04)
    ax.set_ylabel("average precision", fontsize=8)
    if not known:
        ax.text(0.5, 0.5, "no identity has two photos", ha="center", transform=ax.transAxes)
        return
    places = list(range(len(known)))
    low, high = [i.precisions[0] for _, i in known], [i.precisions[-1] for _, i in known]
    if len(known) <= FEW:
        ax.vlines(places, low, high, color=LIGHT, linewidth=3, label="its worst to its best photo")
        dots = [(place, precision) for place, (_, i) in enumerate(known) for precision in i.precisions]
        xs, ys = zip(*dots, strict=True)
        ax.scatter(xs, ys, s=9, color=LIGHT, edgecolors=DARK, linewidths=0.4, label="a photo")
        names = [plain(shorten(i.identity)) for _, i in known]
        turned: dict[str, Any] = {"rotation": 60, "ha": "right"} if len(known) > 6 else {}
        ax.set_xticks(places, names, fontsize=7, **turned)
        ax.scatter(places, [mean for mean, _ in known], s=28, color=DARK, marker="D", label="mean", zorder=3)
    else:
        ax.fill_between(places, low, high, color=LIGHT, linewidth=0, label="its worst to its best photo")
        ax.plot(places, [mean for mean, _ in known], color=DARK, linewidth=2, label="mean")
        ax.set_xlabel("identities", fontsize=8)
    chances = [i.chance for _, i in known]
    edges = [place + side for place in places for side in (-0.5, 0.5)]
    ax.plot(edges, [c for c in chances for _ in "lr"], color=OTHER, linestyle="--", linewidth=1.2, label="chance")
    estimate = difficulty.overall.held_out["mAP"]
    if estimate:
        ax.axhline(estimate.value, color="black", linewidth=0.9, linestyle=":", label=f"mAP {estimate.value:.3f}")
        if estimate.low is not None and estimate.high is not None:
            ax.axhspan(estimate.low, estimate.high, color="black", alpha=0.08, linewidth=0, label="its 95 % interval")
    ax.set_xlim(-0.6, len(known) - 0.4)
    ax.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=6, frameon=False)  # covers no point


def _pairs_title(difficulty: Difficulty) -> str:
    if not difficulty.pairs:
        return "no photo ever scores below one of another identity of its category"
    return (
        "identities that are hardest to tell apart: chance that a photo of the right one scores above another photo "
        "of the left one, for a query photo of the left one"
    )


def _draw_pair(left: "Axes", right: "Axes", pair: HardPair, first: dict[str, Photo]) -> None:
    from PIL import Image

    for ax, identity, title in ((left, pair.asked, ""), (right, pair.other, f"{pair.confusion:.3f}")):
        photo = first[identity]
        try:
            picture = decode_image(read_image_bytes(photo.path))
        except BadImage as error:
            raise FinerRankError(f"{photo.file_name}: {error}") from None
        picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        square = Image.new("RGB", (THUMBNAIL_PX, THUMBNAIL_PX), "white")
        square.paste(picture, ((THUMBNAIL_PX - picture.width) // 2, (THUMBNAIL_PX - picture.height) // 2))
        ax.set_axis_on()
        ax.imshow(square)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_xlabel(plain(shorten(identity)), fontsize=7)
        ax.set_title(title, fontsize=8, loc="left", color=OTHER)
