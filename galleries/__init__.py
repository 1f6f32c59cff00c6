"""Identity-labelled real photos: what is true."""

from galleries.errors import Fault, Faults, FinerRankError
from galleries.gallery import Gallery, GalleryCard, Photo
from galleries.images import BadImage, decode_image

__all__ = ["BadImage", "Fault", "Faults", "FinerRankError", "Gallery", "GalleryCard", "Photo", "decode_image"]
