"""Drawn animals for the demonstration: two species, whose individuals differ in coat, markings and ears."""

import colorsys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

SPECIES = ("dapple", "tabby")
SIDE_PX = 192
_CANVAS_PX = 2 * SIDE_PX  # drawn twice as large, then scaled down: smooth edges


@dataclass(frozen=True)
class Creature:
    """What stays the same in every picture of one individual.

    Attributes:
        coat, marking: colours.
        markings: spots (dapple) or stripes (tabby), as (along the body, across the body, size), each in [0, 1].
        ear: length of the ears relative to the head.
        blaze: whether a white line runs down the face.
    """

    species: str
    coat: tuple[int, int, int]
    marking: tuple[int, int, int]
    markings: tuple[tuple[float, float, float], ...]
    ear: float
    blaze: bool


def creature(species: str, seed: int) -> Creature:
    """An individual of a species."""
    rng = np.random.default_rng([SPECIES.index(species), seed])
    hue = (0.09 if species == "dapple" else 0.06) + rng.uniform(-0.05, 0.07)
    coat = _rgb(hue, rng.uniform(0.25, 0.75), rng.uniform(0.6, 0.95))
    marking = _rgb(hue + rng.uniform(-0.05, 0.05), rng.uniform(0.2, 0.9), rng.uniform(0.12, 0.45))
    n = int(rng.integers(3, 9))
    markings = tuple((rng.uniform(0.08, 0.92), rng.uniform(0.1, 0.9), rng.uniform(0.4, 1.0)) for _ in range(n))
    return Creature(species, coat, marking, markings, rng.uniform(0.5, 1.5), bool(rng.random() < 0.5))


def draw(animal: Creature, seed: int) -> "Image.Image":
    """A picture of an animal in a place, pose and light of its own, `SIDE_PX` square RGB."""
    from PIL import Image, ImageEnhance, ImageFilter, ImageOps

    rng = np.random.default_rng(seed)
    scene = _background(rng)
    layer = _animal_layer(animal)
    if rng.random() < 0.5:
        layer = ImageOps.mirror(layer)
    side = int(_CANVAS_PX * rng.uniform(0.75, 1.1))
    layer = layer.rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC).resize((side, side))
    shift = rng.integers(-25, 26, size=2)
    place = tuple(int((_CANVAS_PX - side) / 2 + s) for s in shift)
    scene.paste(layer, (place[0], place[1]), layer)
    scene = ImageEnhance.Brightness(scene).enhance(rng.uniform(0.75, 1.2))
    scene = scene.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.5))).resize((SIDE_PX, SIDE_PX))
    noisy = np.asarray(scene, dtype=np.float64) + rng.normal(0, 4, (SIDE_PX, SIDE_PX, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _background(rng: np.random.Generator) -> "Image.Image":
    from PIL import Image, ImageDraw, ImageFilter

    sky, ground = (_rgb(rng.random(), rng.uniform(0.1, 0.5), rng.uniform(0.5, 0.95)) for _ in range(2))
    scene = Image.new("RGB", (_CANVAS_PX, _CANVAS_PX), sky)
    pen = ImageDraw.Draw(scene)
    pen.rectangle((0, int(_CANVAS_PX * rng.uniform(0.45, 0.75)), _CANVAS_PX, _CANVAS_PX), fill=ground)
    for _ in range(int(rng.integers(3, 9))):
        x, y, r = rng.uniform(0, _CANVAS_PX), rng.uniform(0, _CANVAS_PX), rng.uniform(10, 50)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=_rgb(rng.random(), rng.uniform(0.1, 0.5), rng.uniform(0.4, 0.9)))
    return scene.filter(ImageFilter.GaussianBlur(6))


def _animal_layer(animal: Creature) -> "Image.Image":
    """The animal alone, facing right, on a transparent canvas."""
    from PIL import Image, ImageDraw

    layer = Image.new("RGBA", (_CANVAS_PX, _CANVAS_PX))
    pen = ImageDraw.Draw(layer)
    pen.arc((30, 120, 110, 230), 120, 280, fill=animal.coat, width=16)
    for leg in (105, 140, 215, 250):
        pen.rounded_rectangle((leg, 230, leg + 24, 330), 10, fill=animal.coat)
    body = (80, 135, 290, 270)
    pen.ellipse(body, fill=animal.coat)
    inside = Image.new("L", layer.size)
    ImageDraw.Draw(inside).ellipse(body, fill=255)
    marks = Image.new("L", layer.size)
    mark_pen = ImageDraw.Draw(marks)
    for along, across, size in animal.markings:
        x, y = body[0] + along * (body[2] - body[0]), body[1] + across * (body[3] - body[1])
        if animal.species == "dapple":
            r = 8 + 16 * size
            mark_pen.ellipse((x - r, y - 0.8 * r, x + r, y + 0.8 * r), fill=255)
        else:
            mark_pen.line((x - 8, body[1], x + 14 * (across - 0.5), body[3]), fill=255, width=round(5 + 9 * size))
    visible = Image.fromarray(np.minimum(np.asarray(inside), np.asarray(marks)))
    layer.paste(Image.new("RGB", layer.size, animal.marking), (0, 0), visible)
    for ear in (262, 308):
        pen.polygon(((ear, 110), (ear + 34, 110), (ear + 17, 105 - 45 * animal.ear)), fill=animal.marking)
    pen.ellipse((248, 90, 352, 190), fill=animal.coat)
    if animal.blaze:
        pen.ellipse((294, 95, 308, 165), fill=(250, 248, 240))
    for eye in (278, 318):
        pen.ellipse((eye - 7, 125, eye + 7, 139), fill=(25, 20, 20))
    pen.ellipse((290, 155, 312, 172), fill=(60, 40, 40))
    return layer
