"""A photo: background, cast shadow, animal, what stands in front, light, lens and sensor."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from galleries.critters.drawing import draw_layer
from galleries.critters.fields import Floats
from galleries.critters.foregrounds import foreground
from galleries.critters.places import background
from galleries.critters.scenes import Scene
from galleries.critters.species import Individual, Species


@dataclass(frozen=True, eq=False)
class Drawn:
    """A photo and its truth.

    Attributes:
        image: `size` x `size`, RGB.
        mask: `[size, size]` uint8, 255 where the animal is seen and 0 elsewhere; what hides it is cut out.
        bbox: x, y, width, height of what is seen of it, in pixels; zeros where nothing is.
        hidden: share of it, in [0, 1], that something in front hides.
    """

    image: Image.Image
    mask: npt.NDArray[np.uint8]
    bbox: tuple[int, int, int, int]
    hidden: float


def draw(species: Species, individual: Individual, scene: Scene, size: int = 160) -> Drawn:
    """Draw an individual of a species in a scene, `size` pixels square. The same numbers give the same bytes.

    Raises:
        ValueError: an individual of another species, or a size outside [16, 2048].
    """
    if individual.species.seed != species.seed:
        raise ValueError(f"the individual is a {individual.species.name}, not a {species.name}")
    if not 16 <= size <= 2048:
        raise ValueError(f"size {size}: from 16 to 2048 pixels")
    over = 2 if size <= 256 else 1
    side = size * over
    faces_right = scene.viewpoint == "right"
    towards = _direction(scene)
    seen = towards * np.array([1 if faces_right else -1, 1, 1], dtype=np.float32)
    layer, feet = draw_layer(individual, scene, side, seen)
    colour, cover = _reduced(layer.colour, over), _reduced(layer.cover, over)
    feet = [(x / over, y / over, r / over) for x, y, r in feet]
    if not faces_right:
        colour, cover = colour[:, ::-1], cover[:, ::-1]
        feet = [(size - x, y, r) for x, y, r in feet]

    picture = background(scene, size)
    picture = picture * _shadow(cover, scene, towards, feet)[..., None]
    picture = picture * (1 - cover[..., None]) + colour
    front = foreground(scene, size)
    visible = cover
    if front is not None:
        front_colour, front_cover = front
        picture = picture * (1 - front_cover[..., None]) + front_colour
        visible = cover * (1 - front_cover)
    image = _photographed(picture, scene, size)
    mask = np.where(visible > 0.5, 255, 0).astype(np.uint8)
    hidden = 1 - float(visible.sum()) / max(float(cover.sum()), 1e-6)
    return Drawn(image, mask, _bbox(mask), min(max(hidden, 0.0), 1.0))


def _direction(scene: Scene) -> Floats:
    azimuth, elevation = math.radians(scene.light.azimuth), math.radians(scene.light.elevation)
    flat = math.cos(elevation)
    return np.array([flat * math.cos(azimuth), math.sin(elevation), flat * math.sin(azimuth)], dtype=np.float32)


def _reduced(picture: Floats, over: int) -> Floats:
    if over == 1:
        return picture
    result: Floats = 0.25 * (picture[::2, ::2] + picture[1::2, ::2] + picture[::2, 1::2] + picture[1::2, 1::2])
    return result


def _shadow(cover: Floats, scene: Scene, towards: Floats, feet: list[tuple[float, float, float]]) -> Floats:
    """How much light the ground gets: the outline, laid on the ground away from the light, and what feet hide."""
    size = cover.shape[0]
    ground = scene.ground * size
    long = 0.22 / max(math.tan(math.radians(scene.light.elevation)), 0.35)
    lean = float(np.clip(-towards[0] / max(towards[1], 0.25), -2.0, 2.0)) * 0.55
    # A row y of the shadow, `rise` pixels over the ground line, is the outline's row that lies rise / long over it.
    forward = 0.55 if towards[2] < 0.1 else 1.0
    outline = Image.fromarray((255 * cover).astype(np.uint8))
    tall = long * forward
    data = (1.0, lean / tall, -lean * ground / tall * 1.0, 0.0, 1 / tall, ground - (ground + 0.012 * size) / tall)
    laid = outline.transform(outline.size, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
    cast = np.asarray(laid.filter(ImageFilter.GaussianBlur(0.009 * size)), dtype=np.float32) / 255
    columns = np.nonzero((cover > 0.5).any(axis=0))[0]
    contact = np.zeros_like(cover)
    if columns.size:  # the sky that the body hides
        left, right = float(columns.min()), float(columns.max())
        x = (np.arange(size, dtype=np.float32)[None, :] - (left + right) / 2) / (0.46 * (right - left) + 1)
        y = (np.arange(size, dtype=np.float32)[:, None] - ground + 0.012 * size) / np.float32(0.045 * size)
        contact = 0.3 * np.exp(-1.8 * (x * x + y * y) ** 1.5)
    for foot_x, foot_y, r in feet:
        x = (np.arange(size, dtype=np.float32)[None, :] - np.float32(foot_x)) / np.float32(2.2 * r)
        y = (np.arange(size, dtype=np.float32)[:, None] - np.float32(foot_y)) / np.float32(0.8 * r)
        contact = np.maximum(contact, 0.62 * np.exp(-(x * x + y * y)))
    strength = scene.light.strength
    light: Floats = (1 - 0.5 * strength * cast) * (1 - contact)
    return light.astype(np.float32)


def _photographed(picture: Floats, scene: Scene, size: int) -> Image.Image:
    """Light's colour, lens and sensor."""
    light = scene.light
    tint = np.array([light.red, light.green, light.blue], dtype=np.float32) * np.float32(light.exposure)
    at = np.linspace(-1, 1, size, dtype=np.float32)
    dark = 1 - 0.09 * (at[None, :] ** 2 + at[:, None] ** 2)
    values = np.clip(picture * tint, 0, None) * dark[..., None]
    # A soft shoulder instead of burnt-out lights.
    values = np.where(values > 0.8, 0.8 + 0.2 * np.tanh((values - 0.8) / 0.2), values)
    sigma = scene.blur * size
    rng = np.random.default_rng([8, scene.seed])
    if sigma > 0.25:
        soft = Image.fromarray((values * 255 + 0.5).astype(np.uint8)).filter(ImageFilter.GaussianBlur(sigma))
        values = np.asarray(soft, dtype=np.float32) / 255
    grain = rng.standard_normal((size, size, 3), dtype=np.float32) * np.float32(scene.noise)
    grain = 0.5 * grain + 0.6 * grain.mean(axis=2, keepdims=True)  # sensors' noise is mostly grey after demosaicing
    return Image.fromarray(np.clip(values * 255 + grain * (1.2 - 0.5 * values) + 0.5, 0, 255).astype(np.uint8))


def _bbox(mask: npt.NDArray[np.uint8]) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    if not rows.size:
        return 0, 0, 0, 0
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1
