"""Identity-labelled real photos: what is true."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from galleries.errors import Fault, Faults, FinerRankError
    from galleries.gallery import Gallery, GalleryCard, Photo
    from galleries.images import BadImage, decode_image

__all__ = ["BadImage", "Fault", "Faults", "FinerRankError", "Gallery", "GalleryCard", "Photo", "decode_image"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: every command comes through here, and few need all of it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    modules = (import_module(f"galleries.{each}") for each in ("errors", "gallery", "images"))
    return next(getattr(module, name) for module in modules if hasattr(module, name))
