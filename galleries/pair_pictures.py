"""Pairs of photos side by side, for a person to judge."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from galleries.figures import THUMBNAIL_PX, plain, save_figure
from galleries.images import BadImage, decode_image, read_image_bytes

if TYPE_CHECKING:
    from galleries.leaks import Inspection
    from galleries.sources import Found

MAX_PAIRS = 60
PAIRS_A_ROW = 3


def draw_inspection(inspection: "Inspection", images: "Mapping[str, Found]", out: Path) -> bool:
    """Draw the leaks, and then the other pairs worth a look; the first 60. False if there are none.

    Raises:
        FinerRankError: `out` cannot be written.
    """
    leaks = [(leak.photo, leak.reference, f"{leak.kind} {leak.detail}".strip()) for leak in inspection.leaks]
    pairs = [*leaks, *((pair.first, pair.second, f"no leak: {pair.what}") for pair in inspection.pairs)]
    if not pairs:
        return False
    draw_pairs([(images[a], images[b], what) for a, b, what in pairs[:MAX_PAIRS]], len(pairs), out)
    return True


def draw_pairs(pairs: "Sequence[tuple[Found, Found, str]]", n_pairs: int, out: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n_columns = min(PAIRS_A_ROW, len(pairs))
    n_rows = -(-len(pairs) // n_columns)
    figure = Figure(figsize=(4.4 * n_columns, 2.7 * n_rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(n_rows, 2 * n_columns, squeeze=False).reshape(-1, 2)
    for both in axes:
        for ax in both:
            ax.set_axis_off()
    for (left, right), (first, second, what) in zip(axes, pairs, strict=False):
        for ax, image, title in ((left, first, what), (right, second, "")):
            ax.set_title(plain(f"{title}\n{_tail(image.name)}"), fontsize=7, loc="left")
            try:
                content = read_image_bytes(image.path) if image.content is None else image.content
                picture = decode_image(content)
            except BadImage:
                continue  # reported as a fault of its own
            picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
            ax.imshow(picture)
    shown = f"{len(pairs)} of {n_pairs} pairs" if n_pairs > len(pairs) else f"{n_pairs} pairs"
    figure.suptitle(shown if n_pairs > 1 else "1 pair", fontsize=9)
    save_figure(figure, out)


def _tail(name: str, length: int = 34) -> str:
    return name if len(name) <= length else f"…{name[-length + 1 :]}"
