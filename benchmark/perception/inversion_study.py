"""Feature inversion of some photos under several embedders, and whether what was found is taken for its target."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.distances.base import Resources
from benchmark.distances.embeddings import cosine_distances
from benchmark.embed import EmbeddedFiles, embed_files
from benchmark.embedders import Embedder, published_spec
from benchmark.perception.inversion import (
    WAYS,
    Inverted,
    Settings,
    invert,
    prepared_picture,
    refuse_without_network,
)
from benchmark.perception.photos import TriedPhoto
from galleries.figures import plain, save_figure, shorten
from galleries.image_set import free_name
from galleries.images import decode_image, read_image_bytes


@dataclass(frozen=True)
class Inversion:
    """One photo under one embedder.

    Attributes:
        target: the photo's name, and `target_sha256` of its bytes.
        file: the picture that was found, of the network's input size.
        before: distance of the start to the target.
        distance: of the picture, as the network sees it, to the target: 1 - cosine, in [0, 2].
        nearest_other: distance of the picture to the nearest other photo, and `nearest` its name; None without others.
        rank: of the target among all photos by their distance to the picture, from 1; equal ones stand before it.
        n_photos: that it was ranked among, itself included.
        curve: distance before each step.
    """

    embedder: str
    fingerprint: str
    way: str
    target: str
    target_sha256: str
    file: str
    before: float
    distance: float
    nearest_other: float | None
    nearest: str | None
    rank: int
    n_photos: int
    curve: tuple[float, ...]


def invert_photos(
    targets: Sequence[TriedPhoto],
    others: Sequence[TriedPhoto],
    embedders: Sequence[Embedder],
    ways: Sequence[str],
    folder: Path,
    resources: Resources,
    *,
    steps: int,
    seed: int,
) -> list[Inversion]:
    """Write into a folder a PNG of each inversion, all of them side by side (`inversion.png`), and `curves.png`.

    Args:
        targets: photos to invert.
        others: photos that an inverted one may be taken for, besides the other targets.

    Raises:
        Faults: photos that cannot be used; all of them.
        FinerRankError: an embedder that cannot be inverted.
    """
    for embedder in embedders:
        refuse_without_network(embedder)
    # Of a target that is among the others, its own path is looked up below.
    photos = list({photo.digest: photo for photo in (*others, *targets)}.values())
    embedded = [
        embed_files(
            [photo.path for photo in photos], embedder, resources.store, batch_size=resources.batch_size,
            progress=resources.progress, warn=resources.warn,
        )
        for embedder in embedders
    ]  # fmt: skip
    n_steps = len(targets) * len(embedders) * len(ways) * steps
    step = resources.progress("inverting", n_steps) if resources.progress else None
    taken: set[str] = set()
    found = []
    for embedder, of in zip(embedders, embedded, strict=True):
        for way in (way for way in WAYS if way in ways):
            for target in targets:
                inverted = invert(embedder, of.of([target.path])[0], Settings(way, steps, seed), step)
                name = re.sub(r"[^\w.-]+", "-", f"{Path(target.name).stem}-{published_spec(embedder.spec)}-{way}")
                file = free_name(f"{name}.png", taken)
                _image(inverted.pixels).save(folder / file)
                found.append(_placed(embedder, way, target, file, inverted, photos, of))
    _draw_pictures(targets, found, embedders, folder)
    _draw_curves(found, folder / "curves.png")
    return found


def _placed(
    embedder: Embedder,
    way: str,
    target: TriedPhoto,
    file: str,
    inverted: Inverted,
    photos: Sequence[TriedPhoto],
    embedded: EmbeddedFiles,
) -> Inversion:
    rest = [photo for photo in photos if photo.digest != target.digest]
    rows = embedded.of([photo.path for photo in (target, *rest)])
    own = inverted.row[None]
    to = cosine_distances(own, rows, np.zeros(len(rows), dtype=np.intp), np.arange(len(rows)))
    nearest = int(np.argmin(to[1:])) if rest else None
    return Inversion(
        embedder.spec,
        embedder.fingerprint,
        way,
        target.name,
        target.digest,
        file,
        inverted.curve[0],
        float(to[0]),
        None if nearest is None else float(to[1 + nearest]),
        None if nearest is None else rest[nearest].name,
        1 + int((to[1:] <= to[0]).sum()),
        len(photos),
        inverted.curve,
    )


def _image(pixels: Any) -> Any:
    from PIL import Image

    return Image.fromarray(pixels)


def _draw_pictures(
    targets: Sequence[TriedPhoto], found: Sequence[Inversion], embedders: Sequence[Embedder], folder: Path
) -> None:
    """A row for each target: the photo as the first network sees it, then what each embedder and way found."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    columns = list(dict.fromkeys((each.embedder, each.way) for each in found))
    figure = Figure(figsize=(1.9 * (1 + len(columns)), 2.1 * len(targets) + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(targets), 1 + len(columns), squeeze=False)
    for line, target in zip(panels, targets, strict=True):
        line[0].imshow(prepared_picture(embedders[0], decode_image(read_image_bytes(target.path))))
        line[0].set_title(plain(shorten(Path(target.name).name)), fontsize=7)
        for panel, (spec, way) in zip(line[1:], columns, strict=True):
            each = next(e for e in found if (e.embedder, e.way, e.target_sha256) == (spec, way, target.digest))
            with Image.open(folder / each.file) as picture:
                panel.imshow(picture)
            title = f"{plain(shorten(published_spec(spec)))}\n{way}: {each.distance:.3f}, rank {each.rank}"
            panel.set_title(title, fontsize=7)
    for panel in panels.flat:
        panel.set_axis_off()
    save_figure(figure, folder / "inversion.png")


def _draw_curves(found: Sequence[Inversion], out: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    kinds = list(dict.fromkeys((each.embedder, each.way) for each in found))
    for i, (spec, way) in enumerate(kinds):
        own = [each.curve for each in found if (each.embedder, each.way) == (spec, way)]
        for j, curve in enumerate(own):
            label = f"{plain(shorten(published_spec(spec)))}, {way}" if j == 0 else None
            panel.plot(np.maximum(curve, 1e-6), color=f"C{i % 10}", linewidth=0.8, label=label)
    panel.set_yscale("log")
    panel.set_xlabel("step")
    panel.set_ylabel("distance to the target")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    save_figure(figure, out)
