"""Small copies of the pictures that a bundle shows, named after the content of the originals."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from galleries.errors import Fault, FinerRankError
from galleries.figures import THUMBNAIL_PX
from galleries.images import BadImage, decode_image, in_threads, open_image, read_image_bytes, sha256_of
from leaderboard.schema import AGAIN

if TYPE_CHECKING:
    from PIL import Image

FOLDER = "thumbnails"
QUALITY = 80
MAX_BYTES = 200_000


def are_allowed(thumbnails: str) -> bool:
    """Whether a gallery's card allows them: `yes`, also under a condition that a page can meet (`yes, with credit`)."""
    return thumbnails.strip().lower().split(",")[0].strip() == "yes"


def thumbnail_name(image_sha256: str) -> str:
    return f"{FOLDER}/{image_sha256}.webp"


def thumbnail_of(path: Path, image_sha256: str) -> bytes:
    """A WebP of an image file, without any of its metadata.

    Raises:
        FinerRankError: the file is no readable image, or not the one that was scored.
    """
    try:
        content = read_image_bytes(path)
        picture = decode_image(content)
    except BadImage as error:
        raise FinerRankError(f"{path}: {error}") from None
    if sha256_of(content) != image_sha256:
        raise FinerRankError(f"{path}: has changed while it was scored; start again")
    return _webp(picture)


def _webp(picture: "Image.Image") -> bytes:
    from PIL import Image

    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    # The pixels alone: profiles, comments and places would be copied along.
    bare = Image.frombytes("RGB", picture.size, picture.tobytes())
    buffer = io.BytesIO()
    bare.save(buffer, "WEBP", quality=QUALITY, method=4)
    return buffer.getvalue()


def write_thumbnails(pictures: Mapping[str, Path], folder: Path) -> None:
    """Write a thumbnail of each picture, SHA-256 → file, below a bundle's folder.

    Raises:
        FinerRankError: see `thumbnail_of`.
    """
    (folder / FOLDER).mkdir()
    items = sorted(pictures.items())
    for (digest, _), content in zip(items, in_threads(lambda item: thumbnail_of(item[1], item[0]), items), strict=True):
        (folder / thumbnail_name(digest)).write_bytes(content)


def thumbnail_fault(path: Path, name: str) -> Fault | None:
    """What is wrong with a thumbnail that a stranger submits, or None."""
    if path.stat().st_size > MAX_BYTES:
        return Fault(name, f"more than {MAX_BYTES:,} bytes", AGAIN)
    try:
        content = read_image_bytes(path)
        picture = open_image(content)
        if picture.format != "WEBP":
            return Fault(name, f"is {picture.format}, not WebP", AGAIN)
        if max(picture.size) > THUMBNAIL_PX:
            return Fault(name, f"{picture.width} × {picture.height} pixels, more than {THUMBNAIL_PX}", AGAIN)
        if {"exif", "icc_profile", "xmp"} & picture.info.keys():
            return Fault(name, "carries metadata", AGAIN)
        decode_image(content)
    except BadImage as error:
        return Fault(name, error.what, AGAIN)
    return None
