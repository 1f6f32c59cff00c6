"""Neighbour strips: for a query its reference, the generated image, and the photos ranked nearest to it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.records import Record
from galleries.errors import FinerRankError
from galleries.figures import THUMBNAIL_PX, check_format, plain, save_figure, shorten
from galleries.gallery import Gallery, Photo
from galleries.images import BadImage, decode_image, read_image_bytes, sha256_of
from personalization_runs.run import GeneratedImage, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from leaderboard.explanations import Explanation

RIGHT, WRONG, NEUTRAL = "#1b7f4b", "#c0392b", "#888888"


def choose_queries(record: Record, n: int, best: bool, identity: str) -> list[int]:
    """Rows of `record.queries`: the n with the lowest (or highest) average precision.

    Raises:
        FinerRankError: no query asks for `identity`.
    """
    precision = record.queries.column("average_precision").to_pylist()
    names = record.queries.column("file_name").to_pylist()
    asked = record.queries.column("identity").to_pylist()
    rows = [i for i in range(len(names)) if not identity or asked[i] == identity]
    if not rows:
        known = ", ".join(sorted(set(asked))[:10])
        raise FinerRankError(f"--identity {identity}: no query asks for it; asked for: {known}")
    return sorted(rows, key=lambda i: (-precision[i] if best else precision[i], asked[i], names[i]))[:n]


def draw_strips(
    record: Record,
    gallery: Gallery,
    run: Run,
    rows: Sequence[int],
    k: int,
    out: Path,
    explanation: "Explanation | None" = None,
) -> None:
    """Draw one strip per query into an image file.

    Right and wrong photos differ in frame colour, in line style, and by a sign before the name.

    Args:
        explanation: drawn below each strip.

    Raises:
        FinerRankError: an image that the record names is not there, or `out` cannot be written.
    """
    check_format(out)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    photos = {photo.file_name: photo for photo in gallery.photos}
    images = {image.file_name: image for image in run.images}
    queries = record.queries.take(list(rows)).to_pylist()
    neighbours: dict[int, list[dict[str, Any]]] = {row: [] for row in rows}
    for neighbour in record.neighbours.to_pylist():
        if neighbour["query"] in neighbours and neighbour["rank"] <= k:
            neighbours[neighbour["query"]].append(neighbour)
    n_columns = 2 + max(len(of) for of in neighbours.values())
    heights = [2.25, *(explanation.heights if explanation else ())]
    height = sum(heights) * len(rows) + (explanation.key_height if explanation else 0)
    figure = Figure(figsize=(1.75 * n_columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights) * len(rows), n_columns, squeeze=False, height_ratios=heights * len(rows))
    for ax in axes.flat:
        ax.set_axis_off()
    for i, (row, query) in enumerate(zip(rows, queries, strict=True)):
        line, *below = axes[i * len(heights) : (i + 1) * len(heights)]
        reference = photos.get(query["reference_file_name"]) or _first_photo(gallery, query["identity"])
        if reference:
            kind = "reference" if reference.split == "reference" else "a photo"
            _draw(line[0], gallery.root, reference, f"{kind} of\n{shorten(query['identity'])}", NEUTRAL)
        words = query["prompt"] or Path(query["file_name"]).stem
        title = f"generated, AP {query['average_precision']:.2f}\n{shorten(words)}"
        _draw(line[1], run.root, images.get(query["file_name"]), title, "black", query)
        for ax, neighbour in zip(line[2:], neighbours[row], strict=False):
            colour, sign, style = (RIGHT, "✓", "-") if neighbour["is_relevant"] else (WRONG, "✗", "--")
            title = f"{sign} {shorten(neighbour['identity'])}\n{neighbour['rank']}: {neighbour['similarity']:.3f}"
            photo = photos.get(neighbour["file_name"])
            _draw(ax, gallery.root, photo, title, colour, neighbour, style)
        if explanation:
            explanation.draw(below, query, neighbours[row])
    mean = record.summary["scores"]["mAP"]["value"]
    of_region = "" if record.region == "full" else f" ({record.region} only)"
    title = f"{record.name} on {record.summary['gallery']['name']}, {record.embedder}{of_region}, mAP {mean:.3f}"
    figure.suptitle(plain(title), fontsize=9)
    if explanation:
        explanation.draw_key(figure, axes)
    save_figure(figure, out)


def _first_photo(gallery: Gallery, identity: str) -> Photo | None:
    own = [p for p in gallery.photos if p.identity == identity]
    return min(own, key=lambda p: (p.split != "reference", p.file_name), default=None)


def _draw(
    ax: "Axes",
    root: Path,
    image: Photo | GeneratedImage | None,
    title: str,
    colour: str,
    scored: Mapping[str, Any] | None = None,
    style: str = "-",
) -> None:
    remedy = "name the folders that were evaluated: --gallery, --run"
    if image is None:
        raise FinerRankError(f"{root}: has no {scored['file_name'] if scored else 'such image'}; {remedy}")
    try:
        content = read_image_bytes(image.path)
        if scored and sha256_of(content) != scored["image_sha256"]:
            raise FinerRankError(f"{root}: {image.file_name} is not the picture that was scored; {remedy}")
        picture = decode_image(content)
    except BadImage as error:
        raise FinerRankError(f"{root}: {image.file_name}: {error}") from None
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    ax.set_axis_on()
    ax.imshow(picture)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(plain(title), fontsize=7, color=colour)
    for spine in ax.spines.values():
        spine.set(edgecolor=colour, linewidth=2.5, linestyle=style)
