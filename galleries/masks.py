"""Masks of the subject: made by a segmentation model, or taken from files that somebody drew.

A mask is a PNG of 8 bits, white where the subject is, of its image's size as a person sees it (EXIF orientation
applied). Masks lie in `masks/SOURCE/`, below the gallery or run that they belong to.
"""

import hashlib
import io
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.images import BadImage, decode_image, in_threads, open_image, read_image_bytes, sha256_of
from galleries.mask_files import match_masks, read_mask
from galleries.rewriting import fill_column, write_whole
from galleries.segmenters import THRESHOLD, Labelled
from galleries.tables import find_metadata

if TYPE_CHECKING:
    from PIL import Image

    from galleries.segmentation import Mask
    from galleries.segmenters import Segmenter

BATCH_SIZE = 4
NOTE = "made-from"
"""The text chunk of a mask that says what it was made from: a mask of another image, or model, is not taken for it."""


class Maskable(Labelled, Protocol):
    """A row of a gallery or run."""

    @property
    def mask_file_name(self) -> str: ...
    @property
    def path(self) -> Path: ...


@dataclass(frozen=True)
class Unmasked:
    """A gallery or run that masks are wanted for.

    Attributes:
        card_name: `gallery.toml` or `run.toml`.
        mask_source: what its card says of the masks that it has already.

    Raises:
        FinerRankError: (on making it) a folder without a table, which could not name masks.
    """

    root: Path
    card_name: str
    rows: Sequence[Maskable]
    mask_source: str = ""

    def __post_init__(self) -> None:
        if find_metadata(self.root) is None:
            make = "run import" if self.card_name == "run.toml" else "gallery build"
            raise FinerRankError(f"{self.root}: no table to name masks in; build one first: finer-rank {make}")


@dataclass
class MaskReport:
    """What the masks of a gallery or run look like.

    Attributes:
        source: what they come from, as the card says it.
        folder: of the masks, relative to the gallery or run.
        shares: of each image, by file name: the part of the picture that is subject, 0 to 1.
        touching: images whose subject touches all four borders: it fills the picture, or the mask is inverted.
        kept: images whose masks were there already.
        unused: mask files that are no image's.
    """

    source: str
    folder: str
    shares: dict[str, float] = field(default_factory=dict)
    touching: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    @property
    def empty(self) -> list[str]:
        """Images in which nothing was found."""
        return [file_name for file_name, share in self.shares.items() if not share]

    def add(self, file_name: str, mask: "Mask") -> None:
        self.shares[file_name] = float(mask.mean())
        if all(border.any() for border in (mask[0], mask[-1], mask[:, 0], mask[:, -1])):
            self.touching.append(file_name)


def make_masks(
    images: Unmasked,
    segmenter: "Segmenter",
    *,
    batch_size: int = BATCH_SIZE,
    force: bool = False,
    step: Callable[[int], Any] | None = None,
) -> MaskReport:
    """Let a model make a mask of every image, and name the masks in table and card.

    A mask that is there already, of the same image and source, is kept. Each is written as soon as it is made; table
    and card are written at the end.

    Args:
        force: make all masks anew, and replace those of another source in the table.
        step: told of each image done.

    Raises:
        Faults: broken images. The masks of the others are kept, table and card stay as they were.
        FinerRankError: masks of another source are there; the model does not load; the folder cannot be written to.
    """
    folder = _MaskFolder(images, segmenter.source, force)
    jobs = list(zip(images.rows, segmenter.subjects(images.rows), strict=True))
    report = MaskReport(segmenter.source, folder.name)
    faults: list[Fault] = []
    predict = None
    waiting: list[tuple[Maskable, frozenset[int], str, Image.Image]] = []

    def look(job: tuple[Maskable, frozenset[int]]) -> "Fault | tuple[str, Mask | None, Image.Image | None]":
        row, classes = job
        try:
            content = read_image_bytes(row.path)
            made_from = _made_from(segmenter.source, classes, sha256_of(content))
            kept = None if force else _kept(folder.path_of(row), made_from, content)
            return made_from, kept, decode_image(content) if kept is None else None
        except BadImage as error:
            return Fault(row.file_name, error.what, error.remedy)

    for i, (job, seen) in enumerate(zip(jobs, in_threads(look, jobs, look_ahead=2 * batch_size), strict=True), start=1):
        row, classes = job
        if isinstance(seen, Fault):
            faults.append(seen)
        elif seen[1] is not None:
            report.add(row.file_name, seen[1])
            report.kept.append(row.file_name)
        elif seen[2] is not None:
            waiting.append((row, classes, seen[0], seen[2]))
        if waiting and (len(waiting) == batch_size or i == len(jobs)):
            predict = predict or segmenter.load()
            masks = predict([image for *_, image in waiting], [classes for _, classes, *_ in waiting])
            for (masked, _, made_from, _), mask in zip(waiting, masks, strict=True):
                folder.write(masked, png_of(mask, made_from))
                report.add(masked.file_name, mask)
            waiting.clear()
        if step:
            step(1)
    raise_if_any(str(images.root), faults)
    folder.name_in_table(report.source)
    return report


def copy_masks(
    images: Unmasked,
    masks: Path,
    source: str,
    *,
    threshold: float = THRESHOLD,
    force: bool = False,
    step: Callable[[int], Any] | None = None,
) -> MaskReport:
    """Take masks that somebody drew, for every image, and name them in table and card.

    Args:
        masks: folder of the mask files; see `match_masks`.
        source: who or what drew them.
        threshold: share of white above which grey (votes of several people) is subject.
        force: replace masks of another source in the table.
        step: told of each image done.

    Raises:
        Faults: images that are broken or without a mask, masks that do not fit. Nothing is written then.
        FinerRankError: masks of another source are there; no such folder; the gallery or run cannot be written to.
    """
    said = source if threshold == THRESHOLD else f"{source} threshold {threshold:g}"
    folder = _MaskFolder(images, said, force)
    found, faults, unused = match_masks(images.rows, masks)
    report = MaskReport(said, folder.name, unused=unused)

    def read(row: Maskable) -> "Fault | Mask":
        where = row.file_name
        try:
            size = decode_image(read_image_bytes(row.path)).size
            where = f"{found[row.file_name]} (of {row.file_name})"
            return read_mask(found[row.file_name], size, threshold)
        except BadImage as error:
            return Fault(where, error.what, error.remedy)

    with folder.staged():
        matched = [row for row in images.rows if row.file_name in found]
        for row, mask in zip(matched, in_threads(read, matched), strict=True):
            if isinstance(mask, Fault):
                faults.append(mask)
            else:
                folder.write(row, png_of(mask, said))
                report.add(row.file_name, mask)
            if step:
                step(1)
        raise_if_any(str(images.root), faults)
    folder.name_in_table(said)
    return report


def png_of(mask: "Mask", made_from: str) -> bytes:
    """A mask as a file: 8 bits, white where the subject is."""
    import numpy as np
    from PIL import Image, PngImagePlugin

    note = PngImagePlugin.PngInfo()
    note.add_text(NOTE, made_from)
    file = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(file, "PNG", pnginfo=note)
    return file.getvalue()


def _made_from(source: str, classes: Collection[int], digest: str) -> str:
    return f"{source}\nclasses {' '.join(map(str, sorted(classes)))}\nimage {digest}"


def _kept(path: Path, made_from: str, content: bytes) -> "Mask | None":
    """The mask that is there already, if it belongs to this image and source.

    Raises:
        BadImage: it was changed by hand, and does not fit its image any more.
    """
    if path.is_symlink() or not path.is_file():
        return None
    try:
        mask = open_image(read_image_bytes(path))
    except BadImage:
        return None
    # Image editors drop the note: a mask without one was retouched, and is worth more than a new one.
    note = mask.info.get(NOTE)
    if note not in (None, made_from):
        return None
    try:
        return read_mask(path, mask.size if note else decode_image(content).size, THRESHOLD)
    except BadImage as error:
        if note:
            return None
        raise BadImage(f"its mask {path}, changed by hand: {error.what}", f"{error.remedy}; or delete it") from None


class _MaskFolder:
    """Where the masks of one source are written. Nothing outside its gallery or run ever is."""

    def __init__(self, images: Unmasked, source: str, force: bool) -> None:
        self.images = images
        short = re.sub(r"[^A-Za-z0-9._@-]+", "-", source).strip("-.")[:80]
        self.name = f"masks/{short}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"
        self._path = images.root / self.name
        # The folder that copies keep below `images/` is not repeated.
        in_images = all(row.file_name.startswith("images/") for row in images.rows)
        self._prefix = "images/" if in_images else ""
        others = [row for row in images.rows if row.mask_file_name and row.mask_file_name != self._name_of(row)]
        if others and not force:
            whose = f"of {images.mask_source!r}" if images.mask_source else "of its own"
            raise FinerRankError(
                f"{images.root}: has masks {whose} (of {len(others)} images, first {others[0].file_name}); "
                "to name the new ones in their place add --force"
            )

    def _name_of(self, row: Maskable) -> str:
        return f"{self.name}/{PurePosixPath(row.file_name.removeprefix(self._prefix))}.png"

    def path_of(self, row: Maskable) -> Path:
        return self._path / Path(self._name_of(row)).relative_to(self.name)

    def write(self, row: Maskable, content: bytes) -> None:
        path = self.path_of(row)
        self._refuse_outside(path.parent)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
        except OSError as error:
            raise FinerRankError(f"{path}: cannot be written ({error.strerror}); check permissions and disk") from None

    @contextmanager
    def staged(self) -> Iterator[None]:
        """Masks that are written in this block take their places when it ends well, and vanish when it does not."""
        place = self._path
        self._path = place.with_name(f".{place.name}.partial")
        self._refuse_outside(self._path)
        shutil.rmtree(self._path, ignore_errors=True)
        try:
            yield
            written = [
                (self.path_of(row), place / self.path_of(row).relative_to(self._path)) for row in self.images.rows
            ]
            for path, target in written:
                self._refuse_outside(target.parent)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
        except OSError as error:
            raise FinerRankError(f"{place}: cannot be written ({error.strerror}); check permissions and disk") from None
        finally:
            shutil.rmtree(self._path, ignore_errors=True)
            with suppress(OSError):  # not empty: of use
                place.parent.rmdir()
            self._path = place

    def _refuse_outside(self, folder: Path) -> None:
        if not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(self.images.root)):
            raise FinerRankError(
                f"{folder}: is a link that leaves {self.images.root}; remove it, or name another folder"
            )

    def name_in_table(self, source: str) -> None:
        table = find_metadata(self.images.root)
        if table is None:
            raise FinerRankError(f"{self.images.root}: its table is gone; put it back, and run again")
        names = {row.file_name: self._name_of(row) for row in self.images.rows}
        card = self.images.root / self.images.card_name
        fill_column(table, "mask_file_name", names, card, "mask_source", source)
