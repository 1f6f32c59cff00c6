"""Strips of an index's answers: an image, and the photos nearest to it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.gallery_index import Neighbour
from galleries.errors import FinerRankError
from galleries.figures import THUMBNAIL_PX, plain, save_figure, shorten
from galleries.gallery import Gallery
from galleries.images import BadImage, decode_image, read_image_bytes, sha256_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_STRIPS = 30
MAX_PHOTOS = 20


def draw_neighbours(found: Mapping[Path, Sequence[Neighbour]], gallery: Gallery, out: Path) -> None:
    """Draw a strip for each of the first 30 images, of up to 20 photos.

    Raises:
        FinerRankError: a photo is not the one that was indexed, or `out` cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path_of = {photo.file_name: photo.path for photo in gallery.photos}
    strips = [(path, nearest[:MAX_PHOTOS]) for path, nearest in list(found.items())[:MAX_STRIPS]]
    n_columns = 1 + max(len(nearest) for _, nearest in strips)
    figure = Figure(figsize=(1.6 * n_columns, 2 * len(strips)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(strips), n_columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for (first, *others), (path, nearest) in zip(axes, strips, strict=True):
        _draw(first, path, f"image\n{shorten(path.name)}")
        for ax, (rank, each) in zip(others, enumerate(nearest, start=1), strict=False):
            title = f"{shorten(each.photo.identity)}\n{rank}: {each.similarity:.3f}"
            _draw(ax, path_of[each.photo.file_name], title, each.photo.image_sha256)
    save_figure(figure, out)


def _draw(ax: "Axes", path: Path, title: str, expected: str = "") -> None:
    try:
        content = read_image_bytes(path)
        if expected and sha256_of(content) != expected:
            raise BadImage("is not the photo that was indexed", "build the index again: finer-rank index build")
        picture = decode_image(content)
    except BadImage as error:
        raise FinerRankError(f"{path}: {error}") from None
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    ax.imshow(picture)
    ax.set_title(plain(title), fontsize=7)
