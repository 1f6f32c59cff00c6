"""Where an encoder looked, below a strip: each neighbour and the query with the parts that make the two similar."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.embed import ImageFile
from benchmark.embedders import Embedder, load_embedder, published_spec
from benchmark.embedders.base import digest_of
from benchmark.explain import Floats, KeypointMatcher, Kind, PairMaps, Parts, pair_maps, parts_of
from benchmark.record_tables import masks_digest
from benchmark.records import Record
from benchmark.regions import FULL, TREATMENT, Treatment, find_masks
from galleries.errors import FinerRankError, raise_if_any
from galleries.figures import THUMBNAIL_PX, plain
from galleries.gallery import Gallery
from galleries.images import BadImage
from personalization_runs.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

COLOURS = "viridis"
"""Perceptually uniform, and readable whatever colours a person sees."""
OPACITY = (0.3, 0.7)
"""Of the parts at 0 and at 1."""
N_MATCHED = 3
"""Neighbours that keypoints are matched with."""
MAX_LINES = 30

WHAT_IS_SHOWN: Mapping[Kind, str] = {
    "contributions": "what this part adds to the similarity of the pair; 1 is the most in its picture",
    "alike": "cosine with the most similar part of the other picture: what is alike, not what decided",
}
ROUNDING = {"fp32": 1e-3, "bf16": 3e-2}
"""How far a similarity may lie from the recorded one on another device."""

DESCRIPTION = ("family", "model", "weights_sha256", "preprocessing", "precision", "compiled")


def recorded_embedder(record: Record, spec: str, device: str) -> Embedder:
    """The encoder that a record was made with, in the record's geometry and precision.

    Args:
        spec: names it where the record's own name of it does not suffice: records name files without their folders.
            Of an ensemble, one of its members.

    Raises:
        FinerRankError: it cannot be loaded, is an ensemble, or is another encoder than the record's.
    """
    recorded = record.summary["embedder"]
    asked = spec or record.embedder
    if asked.startswith("ensemble:"):
        members = ", ".join(part.split("=")[0] for part in asked.removeprefix("ensemble:").split(","))
        raise FinerRankError(f"{asked}: its members look each elsewhere; name one with --embedder: {members}")
    known = {
        digest_of(description): description
        for each in recorded.get("members", [recorded])
        if (description := {key: each[key] for key in DESCRIPTION if key in each})
    }
    try:
        made = next(iter(known.values()))
        how: Any = {"precision": made["precision"], "is_compiled": made.get("compiled", False), "device": device}
        embedder = load_embedder(asked, **how)
        for description in known.values():
            if _is_same_network(embedder, description) and embedder.fingerprint not in known:
                geometry = _geometry(embedder.description["preprocessing"], description["preprocessing"])
                embedder = load_embedder(asked, **how, **geometry)
        found = embedder.fingerprint
    except FinerRankError as error:
        again = re.sub("(local-dir:|checkpoint:|@)", r"\1FOLDER/", asked, count=1)
        if spec or again == asked:
            raise
        raise FinerRankError(
            f"{error}; the record names its files without their folders: say where they are now, --embedder {again}"
        ) from None
    if found not in known:
        raise FinerRankError(
            f"--embedder {asked}: has the fingerprint {found[:12]}…, but the record is of {record.embedder}, "
            f"{', '.join(f'{each[:12]}…' for each in known)}; name the encoder that was evaluated"
        )
    return embedder


def _is_same_network(embedder: Embedder, description: Mapping[str, Any]) -> bool:
    return bool(embedder.description["weights_sha256"] == description["weights_sha256"])


def _geometry(own: Mapping[str, Any], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The options that turn an encoder's own preprocessing into the recorded one, if any do."""
    changed = {key for key in recorded if digest_of({key: own.get(key)}) != digest_of({key: recorded[key]})}
    interpolation = {"interpolation": recorded.get("interpolation")}
    if changed <= {"interpolation"}:
        return interpolation if changed else {}
    size = {"size": recorded["size"][0]} if "size" in changed else {}
    return {"resize": recorded["resize"], **size, **interpolation}


class Explanation:
    """Two lines below a strip: its photos, and the query once for each of them, as the encoder sees the pair.

    Args:
        embedder: what looks; see `recorded_embedder`. Without one the pictures are drawn as they are.
        matcher: draws lines between points of the query and of its first neighbours.

    Raises:
        FinerRankError: the record is of a region, and masks or the way of cutting are others by now.
    """

    heights = (1.75, 1.75)
    key_height = 1.2

    def __init__(
        self,
        record: Record,
        gallery: Gallery,
        run: Run,
        embedder: Embedder | None = None,
        matcher: KeypointMatcher | None = None,
    ) -> None:
        self._record = record
        self._embedder = embedder
        self._matcher = matcher
        self._photos = {photo.file_name: photo for photo in gallery.photos}
        self._images = {image.file_name: image for image in run.images}
        self._gallery, self._run = gallery, run
        self._kinds: set[Kind] = set()
        self._cuts = {} if record.region == FULL else {**_cuts(record, gallery), **_cuts(record, run)}

    def draw(
        self, lines: Sequence[Sequence["Axes"]], query: Mapping[str, Any], neighbours: Sequence[Mapping[str, Any]]
    ) -> None:
        """Draw below one strip, from its third column on.

        Args:
            lines: axes of the photos and of the query, of as many columns as the strip.
            query, neighbours: rows of the record's tables.

        Raises:
            FinerRankError: a mask is missing, the encoder has no parts, or a similarity is not the recorded one.
        """
        shown = neighbours if self._embedder else neighbours[:N_MATCHED]
        image = self._opened(query, is_query=True)
        photos = [self._opened(neighbour, is_query=False) for neighbour in shown]
        looked = parts_of(self._embedder, [image, *photos]) if self._embedder else None
        _label(lines[0][1], "where the photo is like\nthe generated picture")
        _label(lines[1][1], "where the generated picture\nis like the photo")
        for i, (neighbour, photo) in enumerate(zip(shown, photos, strict=True)):
            above, below = lines[0][2 + i], lines[1][2 + i]
            if looked:
                own, other = looked[0], looked[1 + i]
                maps = self._checked(pair_maps(own, other), neighbour)
                _overlay(above, photo, other, maps.photo)
                _overlay(below, image, own, maps.query)
            else:
                _show(above, photo)
                _show(below, image)
            if self._matcher and i < N_MATCHED:
                _connect(above, photo, below, image, self._matcher(photo, image))

    def draw_key(self, figure: "Figure", axes: Any) -> None:
        """Say below the whole what is shown, once everything is drawn."""
        from matplotlib.cm import ScalarMappable

        said = []
        if self._embedder:
            name = published_spec(self._embedder.spec)
            said += [f"{name}: {WHAT_IS_SHOWN[kind]}" for kind in sorted(self._kinds)]
            said.append("grey: what the encoder saw of the picture")
        if self._matcher:
            said.append(f"lines: at most {MAX_LINES} keypoints, the surest, that {self._matcher.name} finds in both")
        said.append("to look at: this is no score")
        caption = plain("\n".join(said))
        if not self._embedder:
            figure.supxlabel(caption, fontsize=7)
            return
        inch = 1 / figure.get_figheight()
        bar = figure.colorbar(
            ScalarMappable(cmap=COLOURS),
            ax=axes,
            ticks=[0, 0.5, 1],
            location="bottom",
            fraction=0.15 * inch,
            pad=0.1 * inch,
            shrink=0.5,
            aspect=50,
        )
        bar.ax.tick_params(labelsize=7)
        bar.set_label(caption, fontsize=7)

    def _opened(self, scored: Mapping[str, Any], is_query: bool) -> "Image.Image":
        """The picture as it was embedded."""
        of, rows = (self._run, self._images) if is_query else (self._gallery, self._photos)
        row = rows[scored["file_name"]]
        try:
            return ImageFile(row.file_name, row.path, scored["image_sha256"], self._cuts.get(row.path)).open()
        except BadImage as error:
            raise FinerRankError(f"{of.root}: {row.file_name}: {error}") from None

    def _checked(self, maps: PairMaps, neighbour: Mapping[str, Any]) -> PairMaps:
        """What is explained must be what was recorded; of an ensemble's member nothing is."""
        assert self._embedder
        self._kinds.add(maps.kind)
        is_member = "members" in self._record.summary["embedder"]
        if not is_member and abs(maps.similarity - neighbour["similarity"]) > ROUNDING[self._embedder.precision]:
            raise FinerRankError(
                f"{neighbour['file_name']}: similarity {maps.similarity:.4f}, recorded {neighbour['similarity']:.4f}: "
                "packages have changed; evaluate again"
            )
        return maps


def _cuts(record: Record, of: Gallery | Run) -> dict[Path, Treatment]:
    """How each picture of a folder was cut when it was scored."""
    if record.summary["masks"]["treatment"] != TREATMENT:
        raise FinerRankError(f"{record.name}: its pictures were cut by another version; evaluate again")
    name, rows = ("gallery", of.photos) if isinstance(of, Gallery) else ("run", of.images)
    masks, faults = find_masks(of.root, rows, f"finer-rank {name} mask")
    cuts = {path: Treatment(record.region, mask) for path, mask in masks.items()}  # type: ignore[arg-type]
    files = {row.path: ImageFile(row.file_name, row.path, "", cuts[row.path]) for row in rows if row.path in cuts}
    # Of a folder of which images were left out, the record does not say which.
    if not record.summary["n_photos_left_out" if name == "gallery" else "n_images_left_out"]:
        raise_if_any(str(of.root), faults)
        if masks_digest(rows, files) != record.summary[name]["masks_sha256"]:
            raise FinerRankError(f"{of.root}: its masks are not those that were scored; evaluate again")
    return cuts


def _label(ax: "Axes", text: str) -> None:
    ax.text(1, 0.5, text, fontsize=7, ha="right", va="center", transform=ax.transAxes)


def _show(ax: "Axes", picture: "Image.Image") -> None:
    """A picture in coordinates of its own pixels, from the top left."""
    small = picture.copy()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    ax.imshow(small, extent=(0, picture.width, picture.height, 0))
    ax.set_axis_on()
    ax.set_xticks([])
    ax.set_yticks([])


def _overlay(ax: "Axes", picture: "Image.Image", parts: Parts, values: Floats) -> None:
    """A map where the network saw the picture, on grey; the rest of the picture stays as it is."""
    _show(ax, picture)
    left, top, right, bottom = parts.seen
    width, height = picture.size
    inside = max(0, round(left)), max(0, round(top)), min(width, round(right)), min(height, round(bottom))
    grey = picture.crop(inside).convert("L")
    grey.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    ax.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=(inside[0], inside[2], inside[3], inside[1]))
    low, high = OPACITY
    ax.imshow(
        values,
        cmap=COLOURS,
        vmin=0,
        vmax=1,
        alpha=low + (high - low) * values,
        interpolation="bilinear",
        extent=(left, right, bottom, top),
    )
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)


def _connect(above: "Axes", photo: "Image.Image", below: "Axes", image: "Image.Image", points: Floats) -> None:
    from matplotlib.patches import ConnectionPatch

    for x, y, x_below, y_below, _ in points[:MAX_LINES]:
        line = ConnectionPatch(
            (x * photo.width, y * photo.height),
            (x_below * image.width, y_below * image.height),
            "data",
            "data",
            axesA=above,
            axesB=below,
            color="#d55e00",
            linewidth=0.6,
            alpha=0.8,
        )
        line.set_in_layout(False)
        above.figure.add_artist(line)
