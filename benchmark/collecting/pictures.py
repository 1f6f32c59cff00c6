"""Pictures as people are shown them: upright, in sRGB, small, and without a trace of where they are from."""

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

from galleries.images import as_rgb, open_image, read_image_bytes, sha256_of

if TYPE_CHECKING:
    from PIL import Image


def shown_picture(path: Path, longest_px: int) -> tuple[str, bytes, str]:
    """Name and content of the lossless WebP that is shown of a file, and the SHA-256 of the file itself.

    The name is a digest of the pixels. A colour profile of an RGB picture is applied; metadata are left behind.

    Raises:
        BadImage: see `galleries.images.decode_image`.
    """
    from PIL import Image

    content = read_image_bytes(path)
    opened = open_image(content)
    profile = opened.info.get("icc_profile") if opened.mode in ("RGB", "RGBA", "P") else None
    picture = as_rgb(opened)
    if isinstance(profile, bytes):
        picture = _in_srgb(picture, profile)
    scale = longest_px / max(picture.size)
    if scale < 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    picture = Image.frombytes("RGB", picture.size, picture.tobytes())  # a picture of its pixels alone
    digest = hashlib.sha256(f"{picture.width} {picture.height} ".encode() + picture.tobytes()).hexdigest()
    encoded = io.BytesIO()
    picture.save(encoded, "WEBP", lossless=True, quality=20, method=2)
    return f"{digest[:32]}.webp", encoded.getvalue(), sha256_of(content)


def _in_srgb(picture: "Image.Image", profile: bytes) -> "Image.Image":
    from PIL import Image, ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return picture  # a damaged profile, or one of another kind of colours: what a viewer falls back to
    return converted if isinstance(converted, Image.Image) else picture
