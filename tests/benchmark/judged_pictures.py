"""Triplets of drawn shapes, judged by somebody who sees colour alone, or shape alone.

Of each triplet one image shares the reference's colour and the other its shape, so that the two judges never agree.
"""

import csv
import math
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

Rule = Literal["colour", "shape"]
Drawing = Literal["painted", "inked"]
"""A painted figure on any grey, or a black one on a ground of a pale colour."""

Colour = tuple[int, int, int]
COLOURS = ((215, 60, 50), (50, 160, 70), (60, 90, 210), (225, 190, 50), (150, 70, 190), (60, 190, 200))
SHAPES = ("disc", "square", "triangle", "cross", "bar", "ring")


def write_triplets(
    folder: Path,
    rule: Rule,
    n: int,
    seed: int = 0,
    side: int = 64,
    drawing: Drawing = "painted",
    tint: float = 0.15,
    ground: int = 128,
) -> Path:
    """A plain table `reference, a, b, choice` with its images beside it.

    Args:
        ground: grey of an `inked` drawing; the lighter, the more the black figure stands out from it.
        tint: how much colour that ground has.
    """
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows = []
    for i in range(n):
        draw = _painted if drawing == "painted" else partial(_inked, tint=tint, grey=ground)
        drawn = partial(draw, random=random, side=side)
        colour, other_colour = random.permutation(len(COLOURS))[:2]
        shape, other_shape = random.permutation(len(SHAPES))[:2]
        pictures = {
            "reference": drawn(COLOURS[colour], SHAPES[shape]),
            "same-colour": drawn(COLOURS[colour], SHAPES[other_shape]),
            "same-shape": drawn(COLOURS[other_colour], SHAPES[shape]),
        }
        for name, picture in pictures.items():
            picture.save(folder / f"{i:04d}-{name}.png")
        order = ["same-colour", "same-shape"] if random.random() < 0.5 else ["same-shape", "same-colour"]
        names = [f"{i:04d}-{name}.png" for name in ("reference", *order)]
        rows.append([*names, "ab"[order.index(f"same-{rule}")]])
    path = folder / f"{rule}.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["reference", "a", "b", "choice"], *rows])
    return path


def _painted(colour: Colour, shape: str, random: np.random.Generator, side: int) -> Image.Image:
    grey = int(random.integers(90, 170))
    picture = Image.new("RGB", (side, side), (grey, grey, grey))
    paint = tuple(int(np.clip(c + random.integers(-12, 13), 0, 255)) for c in colour)
    x, y = (side / 2 + float(random.uniform(-0.08, 0.08)) * side for _ in range(2))
    return _with_figure(picture, paint, shape, x, y, float(random.uniform(0.26, 0.36)) * side)


def _inked(colour: Colour, shape: str, random: np.random.Generator, side: int, tint: float, grey: int) -> Image.Image:
    ground = tuple(round(grey + tint * (c - 128)) + int(random.integers(-1, 2)) for c in colour)
    x, y = (side / 2 + float(random.uniform(-0.03, 0.03)) * side for _ in range(2))
    picture = Image.new("RGB", (side, side), ground)
    return _with_figure(picture, (10, 10, 10), shape, x, y, float(random.uniform(0.34, 0.4)) * side)


def _with_figure(picture: Image.Image, paint: tuple[int, ...], shape: str, x: float, y: float, r: float) -> Image.Image:
    draw = ImageDraw.Draw(picture)
    if shape == "disc":
        draw.ellipse([x - r, y - r, x + r, y + r], fill=paint)
    elif shape == "ring":
        draw.ellipse([x - r, y - r, x + r, y + r], outline=paint, width=max(1, round(r / 2.5)))
    elif shape == "square":
        draw.rectangle([x - r, y - r, x + r, y + r], fill=paint)
    elif shape == "bar":
        draw.rectangle([x - r, y - r / 3, x + r, y + r / 3], fill=paint)
    elif shape == "cross":
        draw.rectangle([x - r, y - r / 4, x + r, y + r / 4], fill=paint)
        draw.rectangle([x - r / 4, y - r, x + r / 4, y + r], fill=paint)
    else:
        corners = [math.tau * (k / 3 - 0.25) for k in range(3)]
        draw.polygon([(x + r * math.cos(c), y + r * math.sin(c)) for c in corners], fill=paint)
    return picture
