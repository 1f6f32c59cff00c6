"""Photos to try a distance on: of a gallery, or of any folder."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.regions import decode_mask
from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.images import BadImage, decode_image, image_fault, in_threads, read_image_bytes

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class TriedPhoto:
    """A photo.

    Attributes:
        identity: who it shows; of a folder without labels the photo itself.
        mask: file that says where its subject is, if there is one.
        digest: SHA-256 of its bytes.
    """

    name: str
    path: Path
    identity: str
    mask: Path | None
    digest: str

    def open(self) -> "tuple[Image.Image, Image.Image | None]":
        """The picture in RGB, and its mask (`L` of 0 and 255) in the same size.

        Raises:
            BadImage: one of the two cannot be used.
        """
        picture = decode_image(read_image_bytes(self.path))
        if self.mask is None:
            return picture, None
        try:
            return picture, decode_mask(read_image_bytes(self.mask), picture.size)
        except BadImage as error:
            raise BadImage(f"mask {self.mask.name}: {error.what}", error.remedy) from None


def photos_at(path: Path) -> tuple[TriedPhoto, ...]:
    """The photos of a gallery, of a tree of identities' folders or of a folder of images, or an image file; each
    content once, sorted by digest, so that names do not matter.

    Raises:
        Faults: what is wrong with the gallery, and files that cannot be used.
        FinerRankError: no such file or folder, or no image in it.
    """
    from galleries.gallery import Gallery
    from galleries.sources.folder import image_files
    from galleries.tables import find_metadata

    if not path.exists():
        raise FinerRankError(f"{path}: no such file or folder; check the path")
    if path.is_file():
        return _digested(path, [(str(path), path, "", None)])
    if path.is_dir() and find_metadata(path) is None:
        found, _, faults = image_files(path, True)
        if not faults and all(file.parent == path for file in found):
            return _digested(path, [(file.name, file, "", None) for file in found])
    gallery = Gallery.open(path)
    return _digested(
        path,
        [
            (photo.file_name, photo.path, photo.identity, photo.mask_path if photo.mask_file_name else None)
            for photo in gallery.photos
        ],
    )


def chosen(photos: Sequence[TriedPhoto], n: int, seed: int) -> tuple[TriedPhoto, ...]:
    """So many photos, drawn from identities in turn; the same whatever their names and order."""
    of: dict[str, list[TriedPhoto]] = defaultdict(list)
    for photo in sorted(photos, key=lambda photo: draw_of(seed, photo.digest)):
        of[photo.identity].append(photo)
    in_turn = sorted(
        (number, draw_of(seed, photo.digest), photo) for own in of.values() for number, photo in enumerate(own)
    )
    return tuple(sorted((photo for _, _, photo in in_turn[:n]), key=lambda photo: photo.digest))


def draw_of(seed: int, digest: str) -> int:
    """A number that depends on a seed and on an image's content alone."""
    return int(hashlib.sha256(f"{seed} {digest}".encode()).hexdigest()[:16], 16)


def _digested(root: Path, rows: Sequence[tuple[str, Path, str, Path | None]]) -> tuple[TriedPhoto, ...]:
    ordered = sorted(rows)
    found = in_threads(lambda row: image_fault(row[0], row[1], decode=False), ordered)
    photos: dict[str, TriedPhoto] = {}
    faults = []
    for (name, path, identity, mask), digest in zip(ordered, found, strict=True):
        if isinstance(digest, Fault):
            faults.append(digest)
        else:
            photos.setdefault(digest, TriedPhoto(name, path, identity or digest, mask, digest))
    raise_if_any(str(root), faults)
    if not photos:
        raise FinerRankError(f"{root}: no photos; name a folder of images, or a gallery")
    return tuple(photos[digest] for digest in sorted(photos))
