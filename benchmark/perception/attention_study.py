"""Maps of some judgements under several distances, as pictures, and how much of them lies on the subject."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.distances import Distance
from benchmark.embedders import published_spec
from benchmark.human_judgements.judgements import Judgement, Judgements
from benchmark.perception.attention import LONGER_SIDE_PX, AttentionMap, Way, look
from benchmark.perception.photos import TriedPhoto, draw_of, photos_at
from benchmark.regions import decode_mask
from benchmark.statistics import Estimate, estimate_mean
from galleries.console import Progress
from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.figures import plain, save_figure, shorten
from galleries.images import BadImage, decode_image, read_image_bytes, sha256_of

if TYPE_CHECKING:
    from PIL import Image

NAMES = {"2afc": ("reference", "a", "b"), "pair": ("first", "second")}


@dataclass(frozen=True)
class OnSubject:
    """How much of a distance's maps lies on the subject.

    Attributes:
        share: mean share of the weight, in [0, 1], with its interval over targets; None where no picture has a mask or
            no map has any weight.
        area: share of these pictures that the subject covers: what an even map would give.
        n_pictures: pictures with a mask and a map.
    """

    metric: str
    fingerprint: str
    share: Estimate | None
    area: Estimate | None
    n_pictures: int


@dataclass(frozen=True)
class Looked:
    """One judgement.

    Attributes:
        file: the picture that shows it.
        answer: see `Judgement`; mean over rows where several show the same images.
        on_subject: of each metric, for each image the share of its map that lies on the subject; None without a mask
            or where nothing matters.
    """

    file: str
    images: tuple[str, ...]
    target: str
    answer: float
    on_subject: Mapping[str, tuple[float | None, ...]]


def chosen_judgements(judgements: Judgements, n: int, seed: int) -> list[Judgement]:
    """So many, whatever the order of the rows; those that show the same images are one, with the mean answer.

    Raises:
        FinerRankError: judgements of which no picture is compared with another.
    """
    if judgements.kind == "odd-one-out":
        raise FinerRankError(f"{judgements.source}: holds odd-one-out judgements; give triplets (2afc) or pairs")

    def key(row: Judgement) -> tuple[int, str]:
        name = " ".join([row.target, *(path.name for path in row.images)])
        return draw_of(seed, name), " ".join(map(str, row.images))

    distinct: dict[tuple[Path, ...], list[Judgement]] = defaultdict(list)
    for row in sorted(judgements.rows, key=key):
        distinct[row.images].append(row)
    return [
        replace(rows[0], answer=math.fsum(row.answer for row in rows) / len(rows))
        for rows in list(distinct.values())[:n]
    ]


def masks_of(gallery: Path | None) -> dict[str, TriedPhoto]:
    """The photos with masks, by the SHA-256 of their bytes.

    Raises:
        FinerRankError: there are none in this gallery.
    """
    if gallery is None:
        return {}
    found = {photo.digest: photo for photo in photos_at(gallery) if photo.mask}
    if not found:
        raise FinerRankError(f"{gallery}: no photo has a mask; make them with finer-rank gallery mask")
    return found


def look_at(
    rows: Sequence[Judgement],
    distances: Sequence[Distance],
    way: Way,
    folder: Path,
    *,
    masks: Mapping[str, TriedPhoto],
    grid: int = 8,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> tuple[list[Looked], list[OnSubject]]:
    """Draw the maps of judgements into a folder, a PNG for each.

    Args:
        masks: see `masks_of`; an image is known by its content.

    Raises:
        Faults: images or masks that cannot be used; all of them.
        FinerRankError: a distance that has no such maps.
    """
    opened = _opened(rows, masks)
    step = progress("looking", len(rows) * len(distances)) if progress else None
    looked = []
    shares: dict[str, list[tuple[float, float, str]]] = {distance.spec: [] for distance in distances}
    for number, row in enumerate(rows, start=1):
        pictures, areas = zip(*(opened[path] for path in row.images), strict=True)
        maps: dict[str, list[AttentionMap]] = {}
        on_subject = {}
        for distance in distances:
            maps[distance.spec] = found = look(distance, pictures, way, grid=grid, batch_size=batch_size)
            own = [None if mask is None else each.share_on(mask) for each, mask in zip(found, areas, strict=True)]
            on_subject[distance.spec] = tuple(own)
            for share, mask in zip(own, areas, strict=True):
                if share is not None:
                    shares[distance.spec].append((share, float(mask.mean()), row.target))
            if step:
                step(1)
        file = f"{number:03d}.png"
        _draw(row, pictures, maps, folder / file)
        looked.append(Looked(file, tuple(path.name for path in row.images), row.target, row.answer, on_subject))
    return looked, [_on_subject(distance, shares[distance.spec]) for distance in distances]


def _on_subject(distance: Distance, shares: Sequence[tuple[float, float, str]]) -> OnSubject:
    targets = [target for _, _, target in shares]
    share, area = (estimate_mean([each[i] for each in shares], targets) for i in (0, 1))  # type: ignore[misc]
    return OnSubject(distance.spec, distance.fingerprint, share, area, len(shares))


def _opened(rows: Sequence[Judgement], masks: Mapping[str, TriedPhoto]) -> dict[Path, tuple["Image.Image", Any]]:
    """Each image, reduced, with its mask or None."""
    from PIL import Image

    found = {}
    faults = []
    for path in sorted({path for row in rows for path in row.images}):
        try:
            content = read_image_bytes(path)
            picture = decode_image(content)
            photo = masks.get(sha256_of(content))
            picture.thumbnail((LONGER_SIDE_PX, LONGER_SIDE_PX), Image.Resampling.BOX)
            mask = None
            if photo is not None and photo.mask is not None:
                mask = np.asarray(decode_mask(read_image_bytes(photo.mask), picture.size)) > 0
            found[path] = picture, mask
        except BadImage as error:
            faults.append(Fault(str(path), error.what, error.remedy))
    raise_if_any("images", faults)
    return found


def _draw(
    row: Judgement, pictures: Sequence["Image.Image"], maps: Mapping[str, Sequence[AttentionMap]], out: Path
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 * len(pictures) + 0.6, 2.2 * (1 + len(maps)) + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1 + len(maps), len(pictures), squeeze=False)
    names = NAMES["2afc" if len(pictures) == 3 else "pair"]
    titles = [f"{name}: {plain(shorten(path.name))}" for name, path in zip(names, row.images, strict=True)]
    for panel, picture, title in zip(panels[0], pictures, titles, strict=True):
        panel.imshow(picture)
        panel.set_title(title, fontsize=7)
    for line, (spec, own) in zip(panels[1:], maps.items(), strict=True):
        line[0].set_ylabel(plain(shorten(published_spec(spec))), fontsize=7)
        for panel, picture, each in zip(line, pictures, own, strict=True):
            panel.imshow(picture.convert("L"), cmap="gray", vmin=0, vmax=255)
            weights = each.on_picture(picture.size)
            strongest = weights.max() or 1.0
            panel.imshow(weights, cmap="viridis", vmin=0, vmax=strongest, alpha=0.25 + 0.5 * weights / strongest)
    for panel in panels.flat:
        panel.set_xticks([])
        panel.set_yticks([])
    save_figure(figure, out)
