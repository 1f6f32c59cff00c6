"""Image files: which are accepted, and how they are decoded."""

import hashlib
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from galleries.errors import Fault, FinerRankError, printable

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")
R = TypeVar("R")

READABLE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jfif",
    ".png",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".avif",
)
"""File name endings (any case) that a folder is searched for. The content decides how a file is read."""

FOREIGN_SUFFIXES = (
    ".heic",
    ".heif",
    ".svg",
    ".psd",
    ".eps",
    ".raw",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
    ".dng",
    ".jxl",
    ".jp2",
)
"""Endings of pictures that cannot be read here: found all the same, as passing over them would lose photos silently."""

SUFFIXES = (*READABLE_SUFFIXES, *FOREIGN_SUFFIXES)

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
"""Pillow decoders that may touch a file. The others, some of which run external programs, never do."""

NO_FILE = "no such file"

MAX_PIXELS = 80_000_000
MAX_BYTES = 500_000_000


class BadImage(FinerRankError):
    """An image file that cannot be used: `what` is wrong, and the `remedy`."""

    def __init__(self, what: str, remedy: str) -> None:
        self.what = printable(what)
        self.remedy = remedy
        super().__init__(f"{what}; {remedy}")


def read_image_bytes(path: Path) -> bytes:
    """The bytes of an image file.

    Raises:
        BadImage: missing, not a regular file, empty, or over `MAX_BYTES`.
    """
    try:
        if not path.exists():
            raise BadImage(NO_FILE, "put the file there, or remove its row")
        if not path.is_file():
            raise BadImage("not a regular file", "put an image file there, or remove its row")
        n_bytes = path.stat().st_size
        if n_bytes == 0:
            raise BadImage("the file is empty (0 bytes)", "fetch or make it again, or remove it")
        if n_bytes > MAX_BYTES:
            raise BadImage(f"{n_bytes:,} bytes, more than {MAX_BYTES:,}", "save it smaller, or remove it")
        return path.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a loop of links, a NUL
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadImage(f"cannot be read ({reason})", "check its name, its permissions and its disk") from None


def open_image(content: bytes) -> "Image.Image":
    """Open an image without decoding its pixels: the checks that need the header alone.

    Raises:
        BadImage: not an image in one of `FORMATS`, animated, or over `MAX_PIXELS`.
    """
    from PIL import Image, UnidentifiedImageError

    too_large = f"more than {MAX_PIXELS // 1_000_000} megapixels"
    try:
        image = Image.open(io.BytesIO(content), formats=_registered_formats())
        if image.width * image.height > MAX_PIXELS:
            raise BadImage(f"{image.width} × {image.height} pixels, {too_large}", "save it smaller, or remove it")
        n_frames = getattr(image, "n_frames", 1)
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise BadImage("not a readable image", f"convert it to JPEG, PNG or WebP ({known} are read)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(too_large, "save it smaller, or remove it") from None
    except Exception as error:  # a decoder fed with hostile bytes may raise anything
        raise BadImage(f"truncated or damaged ({_reason(error)})", "fetch or make it again, or remove it") from None
    # An MPO (a phone's JPEG with a preview or a second eye) shows its first picture everywhere.
    if image.format != "MPO" and n_frames > 1:
        raise BadImage(f"animated or several pages ({n_frames} frames)", "save the one frame that is meant")
    return image


@cache
def _registered_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with; their plugins are loaded, and no others."""
    from importlib import import_module

    from PIL import Image

    for plugin in ("Avif", "Bmp", "Gif", "Jpeg", "Mpo", "Png", "Ppm", "Tiff", "WebP"):
        import_module(f"PIL.{plugin}ImagePlugin")
    return tuple(name for name in FORMATS if name in Image.OPEN)


def decode_image(content: bytes) -> "Image.Image":
    """Decode image bytes to 8-bit RGB as a person would see the picture; see `as_rgb`.

    Raises:
        BadImage: see `open_image`; also truncated or damaged pixel data.
    """
    return as_rgb(open_image(content))


def as_rgb(image: "Image.Image") -> "Image.Image":
    """A picture in 8-bit RGB as a person would see it.

    EXIF orientation is applied; transparency is laid on white; 16-bit grey is scaled, not clipped;
    palettes are looked up; CMYK goes through its own colour profile where it has one.

    Raises:
        BadImage: truncated or damaged pixel data, or more than 16 bits a channel.
    """
    from PIL import ImageOps

    try:
        transparent = _transparent_colour_at_8_bits(image)
        image.load()
        if transparent is not None:
            image.info["transparency"] = transparent
        return _to_rgb(ImageOps.exif_transpose(image))
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # a decoder fed with hostile bytes may raise anything
        raise BadImage(f"truncated or damaged ({_reason(error)})", "fetch or make it again, or remove it") from None


def _transparent_colour_at_8_bits(image: "Image.Image") -> int | tuple[int, ...] | None:
    """A PNG's transparent colour at the depth of the decoded pixels, where Pillow leaves it at the file's."""
    transparent = image.info.get("transparency")
    tiles = getattr(image, "tile", ())
    raw_mode = str(tiles[0].args) if image.format == "PNG" and tiles else ""
    if isinstance(transparent, int) and raw_mode in ("L;2", "L;4"):
        return transparent * {"L;2": 85, "L;4": 17}[raw_mode]
    if isinstance(transparent, tuple) and "RGB;16" in raw_mode:
        return tuple(value >> 8 for value in transparent)
    return None


def _to_rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        image = _scaled_to_8_bits(image)
    if image.mode == "CMYK":
        image = _cmyk_to_rgb(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it once more


def _scaled_to_8_bits(image: "Image.Image") -> "Image.Image":
    """Grey of 16 bits, or of the 32-bit integers that 16-bit files decode to: Pillow's own conversion clips."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image)
    if image.mode == "F" or (values.size and (values.min() < 0 or values.max() > 65535)):
        raise BadImage("more than 16 bits a channel", "save it with 8 or 16 bits")
    grey = Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _cmyk_to_rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image, ImageCms

    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if isinstance(converted, Image.Image):
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass  # a damaged profile: the plain conversion is what a viewer falls back to
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    return printable(str(error))[:120] or type(error).__name__


def check_file_name(file_name: str) -> str | None:
    """What is wrong with a table's `file_name`, or None: it must be relative and stay inside its folder."""
    if not file_name:
        return "empty file_name"
    if "\\" in file_name or "\0" in file_name:
        return "backslash or NUL in file_name"
    path = PurePosixPath(file_name)
    if max(len(part.encode(errors="replace")) for part in path.parts or ("",)) > 255:
        return "file_name has a part of more than 255 bytes"
    if path.is_absolute() or ".." in path.parts or (len(file_name) > 1 and file_name[1] == ":"):
        return "file_name leaves the folder"
    return None


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def n_decoding_threads() -> int:
    """Threads that decode images: one per usable core; Pillow decodes outside Python's lock."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(function: Callable[[T], R], items: Iterable[T], look_ahead: int = 64) -> Iterator[R]:
    """`map` over threads, in order, with at most `look_ahead` results waiting, so that memory stays bounded."""
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(n_decoding_threads()) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= look_ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def image_fault(where: str, path: Path, decode: bool, content: bytes | None = None) -> Fault | str:
    """The SHA-256 of a usable image file, or what is wrong with it. `decode` looks at the pixels too."""
    try:
        content = read_image_bytes(path) if content is None else content
        if decode:
            decode_image(content)
        else:
            open_image(content)
    except BadImage as error:
        return Fault(where, error.what, error.remedy)
    return sha256_of(content)
