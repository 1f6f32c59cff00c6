"""Critters for tests: photos, and animals cut out of theirs."""

from PIL import Image

from galleries.critters import Drawn, draw, individual, scene, species

SPOTTED, STRIPED = 0, 1
SIZE = 192


def drawn(kind: int, number: int, photo: int, encounter: int | None = None) -> Drawn:
    """An individual of a species in a photo of its own, or of an encounter."""
    own = species(kind)
    return draw(own, individual(own, number), scene(photo, encounter), SIZE)


def critter(kind: int, number: int, photo: int, encounter: int | None = None) -> Image.Image:
    """The same as a picture, 192 x 192 RGB."""
    return drawn(kind, number, photo, encounter).image


def cut_out(kind: int, number: int, photo: int = 4) -> Image.Image:
    """The animal alone on a transparent ground, 192 x 192 RGBA; all of one photo stand alike."""
    found = drawn(kind, number, photo)
    image = found.image.convert("RGBA")
    image.putalpha(Image.fromarray(found.mask))
    return image
