"""Parts of a picture: the subject without its surroundings, or the surroundings without the subject.

A score on the background alone says how much of a ranking the background can explain. So what replaces the subject
must not tell who it was: of some subjects (a vase, a dog's ears) the outline alone is a portrait. Not the mask but the
box around it is replaced, by a smooth continuation of what lies outside the box. Position and proportions of the box
are all that is left of the subject.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from galleries.errors import Fault
from galleries.image_set import ImageRow
from galleries.images import (
    BadImage,
    decode_image,
    image_fault,
    in_threads,
    open_image,
    read_image_bytes,
    sha256_of,
)

if TYPE_CHECKING:
    from PIL import Image

Floats = npt.NDArray[np.float32]
Region = Literal["full", "subject", "background"]

REGIONS: tuple[Region, ...] = ("full", "subject", "background")
FULL: Region = "full"

TREATMENT = "1"
"""Raise it when a change below moves a pixel: it is part of the key that embeddings are stored under."""

NEUTRAL = (124, 116, 104)
"""What surrounds a subject that stands alone: ImageNet's mean colour, one for all embedders."""

THRESHOLD = 128
"""Grey values of a mask from here on are subject."""

MARGIN = 0.05
"""The box around a mask is enlarged on each side by this share of its longer side: hair, shadows, soft edges."""
MIN_MARGIN_PX = 2

FILL_PX = 128
"""Longer side of the reduced picture that a fill is computed on. It is smooth, so that no detail is lost."""
N_RELAXATIONS = 8


@dataclass(frozen=True)
class Mask:
    """Says where in a picture the subject is: its name for messages, its file, and the SHA-256 of its bytes."""

    name: str
    path: Path
    digest: str


@dataclass(frozen=True)
class Treatment:
    """How one picture is cut."""

    region: Region
    mask: Mask

    def key(self, image_digest: str) -> str:
        """What the treated picture is stored under: another mask, region or treatment makes it another picture."""
        return sha256_of("\0".join((image_digest, self.mask.digest, self.region, TREATMENT)).encode())

    def __call__(self, picture: "Image.Image") -> "Image.Image":
        """The picture's region; all else is replaced.

        Raises:
            BadImage: the mask cannot be used for this picture, or leaves nothing of the region.
        """
        try:
            content = read_image_bytes(self.mask.path)
            if sha256_of(content) != self.mask.digest:
                raise BadImage("changed while it was being evaluated", "run again")
            return cut(picture, decode_mask(content, picture.size), self.region)
        except BadImage as error:
            raise BadImage(f"mask {self.mask.name}: {error.what}", error.remedy) from None


def find_masks(
    root: Path, rows: Sequence[ImageRow], maker: str, step: Callable[[int], Any] | None = None
) -> tuple[dict[Path, Mask], list[Fault]]:
    """The usable masks of a folder's images, by the image's path, and what is wrong with the others.

    Only their headers are looked at. Images without a mask are one fault together.

    Args:
        maker: the command that makes masks.
        step: told of each mask done.
    """
    faults = []
    lacking = [row.file_name for row in rows if not row.mask_file_name]
    if lacking:
        what = f"{len(lacking)} of {len(rows)} images have no mask (first {lacking[0]})"
        faults.append(Fault(str(root), what, f"make them with {maker}, or name them in the column mask_file_name"))
    names = dict.fromkeys(row.mask_file_name for row in rows if row.mask_file_name)
    found: dict[str, Mask] = {}
    looked_at = in_threads(lambda name: image_fault(f"{root}: {name}", root / name, decode=False), names)
    for name, digest in zip(names, looked_at, strict=True):
        if isinstance(digest, Fault):
            faults.append(digest)
        else:
            found[name] = Mask(name, root / name, digest)
        if step:
            step(1)
    return {row.path: found[row.mask_file_name] for row in rows if row.mask_file_name in found}, faults


def decode_mask(content: bytes, size: tuple[int, int]) -> "Image.Image":
    """A mask as `L` of 0 and 255 (subject), in the size of its picture.

    Args:
        size: `(width, height)` of the picture in pixels, EXIF orientation applied. A mask of the same aspect ratio is
            scaled to it.

    Raises:
        BadImage: not an image, partly transparent, of another aspect ratio, or without any subject.
    """
    from PIL import Image

    grey = decode_image(content).convert("L")
    if _is_see_through(open_image(content)):
        # Laid on white, as photos are, what a cut-out leaves away would become its subject.
        raise BadImage("is partly transparent", "save it opaque: white subject, black surroundings")
    (width, height), (picture_width, picture_height) = grey.size, size
    # A side may be off by the pixel that rounding takes.
    if abs(width * picture_height - height * picture_width) > picture_width + picture_height:
        what = f"{width} × {height} pixels, but the picture has {picture_width} × {picture_height}"
        raise BadImage(what, "make it of the picture's size, as it is shown upright, or of the same aspect ratio")
    if grey.size != size:
        grey = grey.resize(size, Image.Resampling.BILINEAR)
    brightest = int(grey.getextrema()[1])  # type: ignore[arg-type]
    if brightest < THRESHOLD:
        what = f"shows no subject (its brightest pixel is {brightest}, subject is {THRESHOLD} to 255)"
        raise BadImage(what, "draw the subject white, or leave the picture out")
    return grey.point([255 if value >= THRESHOLD else 0 for value in range(256)])


def _is_see_through(mask: "Image.Image") -> bool:
    if mask.mode in ("RGBA", "LA"):
        return int(mask.getchannel("A").getextrema()[0]) < 255  # type: ignore[arg-type]
    return mask.has_transparency_data


def cut(picture: "Image.Image", mask: "Image.Image", region: Region) -> "Image.Image":
    """One region of an RGB picture. What is replaced has no influence on any pixel of the result.

    Args:
        mask: `L` of 0 and 255 (subject), of the picture's size, not empty.

    Raises:
        BadImage: no background is left around the subject's box.
    """
    from PIL import Image

    if region == "full":
        return picture
    if region == "subject":
        alone = Image.new("RGB", picture.size, NEUTRAL)
        alone.paste(picture, mask=mask)
        return alone
    return _without_subject(picture, mask)


def _without_subject(picture: "Image.Image", mask: "Image.Image") -> "Image.Image":
    from PIL import Image

    width, height = picture.size
    cell = -(-max(width, height) // FILL_PX)
    around = mask.getbbox()
    assert around is not None, "masks show a subject"
    margin = max(MIN_MARGIN_PX, round(MARGIN * max(around[2] - around[0], around[3] - around[1])))
    # To whole cells of the reduced picture, so that none mixes what is replaced with what stays.
    left, top = (max(0, edge - margin) // cell * cell for edge in around[:2])
    right, bottom = (
        min(-(-(edge + margin) // cell) * cell, end) for edge, end in zip(around[2:], (width, height), strict=True)
    )
    if (left, top, right, bottom) == (0, 0, width, height):
        raise BadImage("leaves no background: the box around its subject fills the picture", "leave the picture out")
    bare = picture.copy()
    bare.paste(NEUTRAL, (left, top, right, bottom))
    small = np.asarray(bare.reduce(cell), dtype=np.float32)
    is_known = np.ones(small.shape[:2], dtype=np.bool_)
    is_known[top // cell : -(-bottom // cell), left // cell : -(-right // cell)] = False
    filled = Image.fromarray(np.rint(smoothly_filled(small, is_known)).astype(np.uint8))
    corners = (left / cell, top / cell, right / cell, bottom / cell)
    bare.paste(filled.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=corners), (left, top))
    return bare


def smoothly_filled(colours: Floats, is_known: npt.NDArray[np.bool_]) -> Floats:
    """`[H, W, 3]` colours whose unknown ones continue the known ones smoothly, within the range of these.

    Pull-push (Gortler et al., The Lumigraph, 1996, section 4.3), with some steps of relaxation towards the membrane
    (each unknown colour the mean of its neighbours) at every level.

    Args:
        colours: `[H, W, 3]` float32; unknown ones have no influence.
        is_known: `[H, W]`; at least one is.
    """
    if is_known.all():
        return colours
    height, width = is_known.shape
    weights = is_known.astype(np.float32)[:, :, None]
    n_known = _sums_of_four(weights)
    sums = _sums_of_four(np.where(is_known[:, :, None], colours, np.float32(0)))
    means: Floats = np.divide(sums, np.maximum(n_known, 1), dtype=np.float32)
    coarse = smoothly_filled(means, n_known[:, :, 0] > 0)
    filled = np.where(is_known[:, :, None], colours, _twice_as_large(coarse)[:height, :width])
    for _ in range(N_RELAXATIONS):
        around = np.pad(filled, ((1, 1), (1, 1), (0, 0)), mode="edge")
        mean = (around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]) / np.float32(4)
        filled = np.where(is_known[:, :, None], colours, mean)
    return filled


def _sums_of_four(values: Floats) -> Floats:
    """Sums over squares of 2 × 2, which zeros complete at odd edges."""
    height, width, _ = values.shape
    even = np.pad(values, ((0, height % 2), (0, width % 2), (0, 0)))
    return even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]


def _twice_as_large(values: Floats) -> Floats:
    """Linear interpolation between the centres of pixels, along both axes."""
    for axis in (0, 1):
        ends: Any = ((1, 1), (0, 0)) if axis == 0 else ((0, 0), (1, 1))
        around = np.pad(values, (*ends, (0, 0)), mode="edge")
        n = values.shape[axis]
        before, after = np.take(around, range(n), axis), np.take(around, range(2, n + 2), axis)
        near, far = np.float32(0.75), np.float32(0.25)
        pairs = np.stack([near * values + far * before, near * values + far * after], axis + 1)
        shape = list(values.shape)
        shape[axis] *= 2
        values = pairs.reshape(shape)
    return values
