"""Pixels to train on: decoded photos, and how each is varied."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from galleries.console import Progress
from galleries.errors import Fault, FinerRankError, raise_if_any
from galleries.gallery import Photo
from galleries.images import BadImage, decode_image, in_threads, read_image_bytes

if TYPE_CHECKING:
    from PIL import Image

MEMORY_BYTES = 2 << 30
"""Decoded pictures are kept up to this; more are decoded each time."""
ROOM_TO_CROP = 1.25
"""Side of the pictures that crops are cut out of, as a multiple of the input's."""


class Pictures:
    """Photos decoded and squashed to `side_px`, kept in memory as bytes where they fit.

    Raises:
        Faults: photos that cannot be decoded; all of them.
    """

    def __init__(self, photos: Sequence[Photo], side_px: int, memory_bytes: int, progress: Progress | None) -> None:
        self._photos = photos
        self._side_px = side_px
        shape = (len(photos), side_px, side_px, 3)
        self._kept = np.empty(shape, dtype=np.uint8) if math.prod(shape) <= memory_bytes else None
        step = progress("decoding photos", len(photos)) if progress else None
        faults = []
        for i, decoded in enumerate(in_threads(self._decoded, photos)):
            if isinstance(decoded, Fault):
                faults.append(decoded)
            elif self._kept is not None:
                self._kept[i] = np.asarray(decoded)
            if step:
                step(1)
        raise_if_any("photos to train on", faults)

    @property
    def n_bytes(self) -> int:
        return 0 if self._kept is None else self._kept.nbytes

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, i: int) -> "Image.Image":
        from PIL import Image

        if self._kept is not None:
            return Image.fromarray(self._kept[i])
        decoded = self._decoded(self._photos[i])
        if isinstance(decoded, Fault):
            raise FinerRankError(f"{decoded}: it could be decoded when training began")
        return decoded

    def _decoded(self, photo: Photo) -> "Image.Image | Fault":
        from PIL import Image

        try:
            picture = decode_image(read_image_bytes(photo.path))
            if 0 in picture.size:
                raise BadImage(f"{picture.width} × {picture.height} pixels: nothing to see", "fetch or make it again")
            return picture.resize((self._side_px, self._side_px), Image.Resampling.BICUBIC)
        except BadImage as error:
            return Fault(photo.file_name, error.what, error.remedy)


def varied(picture: "Image.Image", size: int, random: np.random.Generator, flip: bool) -> "Image.Image":
    """Another view of a picture, `size` pixels wide and high: a part of it, in other light, mirrored, out of focus.

    Hue stays as it is, saturation nearly so: colours tell individuals apart.
    """
    from torchvision.transforms.v2 import InterpolationMode, functional

    side = picture.width
    area, ratio = random.uniform(0.5, 1.0), math.exp(random.uniform(-0.16, 0.16))
    width, height = (min(side, max(1, round(side * math.sqrt(part)))) for part in (area * ratio, area / ratio))
    left, top = int(random.integers(side - width + 1)), int(random.integers(side - height + 1))
    view: Any = functional.resized_crop(
        picture, top, left, height, width, [size, size], interpolation=InterpolationMode.BICUBIC
    )
    if random.random() < 0.5 and flip:
        view = functional.horizontal_flip(view)
    view = functional.adjust_brightness(view, random.uniform(0.7, 1.3))
    view = functional.adjust_contrast(view, random.uniform(0.7, 1.3))
    view = functional.adjust_saturation(view, random.uniform(0.85, 1.15))
    sigma = random.uniform(0.1, max(0.2, size / 64))
    if random.random() < 0.2:
        view = functional.gaussian_blur(view, [2 * math.ceil(2 * sigma) + 1] * 2, [sigma] * 2)
    return view  # type: ignore[no-any-return]


def erased(pixels: npt.NDArray[np.float32], random: np.random.Generator) -> npt.NDArray[np.float32]:
    """Now and then a rectangle of the mean colour over part of the pixels, `[3, height, width]` after normalisation."""
    height, width = pixels.shape[1:]
    share, ratio = random.uniform(0.02, 0.15), math.exp(random.uniform(-0.7, 0.7))
    high, wide = round(height * math.sqrt(share * ratio)), round(width * math.sqrt(share / ratio))
    top, left = int(random.integers(height - high + 1)), int(random.integers(width - wide + 1))
    if random.random() < 0.25:
        pixels[:, top : top + high, left : left + wide] = 0
    return pixels
