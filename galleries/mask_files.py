"""Masks that somebody drew: which file belongs to which image, and whether it fits."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
import numpy.typing as npt

from galleries.errors import Fault, FinerRankError
from galleries.images import READABLE_SUFFIXES, BadImage, decode_image, open_image, read_image_bytes

LARGEST_CLASS_NUMBER = 15
"""A mask whose brightest value is no larger holds classes (background 0, subject 1, border 2), not grey values."""


class Named(Protocol):
    @property
    def file_name(self) -> str: ...


def match_masks(images: Sequence[Named], folder: Path) -> tuple[dict[str, Path], list[Fault], list[str]]:
    """The mask file of each image, by `file_name`; faults of images that have none; and files that are no image's.

    A mask has its image's path below `images/`, or its `source_id`, with any image ending; or at least its stem, where
    no other image and no other mask has it.

    Raises:
        FinerRankError: no such folder.
    """
    if not folder.is_dir():
        raise FinerRankError(f"--from {folder}: no such folder; name the one that holds the masks")
    files = _image_files(folder)
    by_name: dict[str, list[str]] = defaultdict(list)
    by_stem: dict[str, list[str]] = defaultdict(list)
    for file in files:
        by_name[_bare(file)].append(file)
        by_stem[PurePosixPath(_bare(file)).name].append(file)
    n_of_stem = Counter(PurePosixPath(_bare(image.file_name)).name for image in images)
    found: dict[str, Path] = {}
    faults = []
    for image in images:
        names = [image.file_name.removeprefix("images/"), str(getattr(image, "source_id", ""))]
        keys = [key for name in names if name for key in (name, _bare(name))]
        own = next((by_name[key] for key in keys if key in by_name), [])
        stem = PurePosixPath(_bare(image.file_name)).name
        if not own and n_of_stem[stem] == 1 and len(by_stem.get(stem, ())) == 1:
            own = by_stem[stem]
        if not own:
            faults.append(
                Fault(
                    image.file_name, f"no mask in {folder}", f"put it there as {_bare(names[0])}.png, or leave it out"
                )
            )
        elif len(own) > 1:
            faults.append(Fault(image.file_name, f"several masks in {folder}: {', '.join(own)}", "keep one of them"))
        else:
            found[image.file_name] = folder / own[0]
    taken = set(found.values())
    return found, faults, [file for file in files if folder / file not in taken]


def _image_files(folder: Path) -> list[str]:
    """Names of image files below a folder, but for hidden ones."""
    files = []
    for below, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith((".", "__MACOSX"))]
        files += [
            Path(below, name).relative_to(folder).as_posix()
            for name in names
            if not name.startswith(".") and name.lower().endswith(READABLE_SUFFIXES)
        ]
    return sorted(files)


def _bare(name: str) -> str:
    """A name without its image ending; other dots are part of it."""
    ending = PurePosixPath(name).suffix
    return name[: -len(ending)] if ending.lower() in READABLE_SUFFIXES else name


def read_mask(path: Path, size: tuple[int, int], threshold: float) -> npt.NDArray[np.bool_]:
    """A mask file, in its image's size. Grey values (votes of several people) above the threshold are subject.

    Args:
        size: `(width, height)` of the image in pixels, EXIF orientation applied.

    Raises:
        BadImage: not an image; coloured, see-through, or of class numbers; of another aspect ratio.
    """
    from PIL import Image

    content = read_image_bytes(path)
    if _is_see_through(open_image(content)):
        raise BadImage("is partly transparent", "save it opaque: white subject, black surroundings")
    picture = decode_image(content)
    red, green, blue = (np.asarray(channel) for channel in picture.split())
    if (red != green).any() or (red != blue).any():
        raise BadImage("is coloured, so that nobody knows which colour is the subject", "save it black and white")
    brightest = int(red.max())
    if 0 < brightest <= LARGEST_CLASS_NUMBER:
        what = f"its values are 0 to {brightest}: class numbers, not black and white"
        raise BadImage(what, "save the subject's as 255 and all others as 0")
    (width, height), (own_width, own_height) = size, picture.size
    # A side may be off by the pixel that rounding takes.
    if abs(own_width * height - own_height * width) > width + height:
        turned = (own_height, own_width) == size
        what = f"{own_width} × {own_height} pixels, but the picture has {width} × {height}"
        raise BadImage(
            what, "turn it as the picture is shown upright" if turned else "is it another picture's? Mend it"
        )
    grey = picture.getchannel(0)
    if grey.size != size:
        grey = grey.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(grey) > threshold * 255


def _is_see_through(image: "object") -> bool:
    from PIL import Image

    assert isinstance(image, Image.Image)
    if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa") and "transparency" not in image.info:
        return False
    alpha = image.convert("RGBA").getchannel("A").getextrema()[0]
    return isinstance(alpha, int | float) and alpha < 255
