"""What species are made of: body plans, coats, palettes. Lengths are in units of about a torso's."""

from dataclasses import dataclass

PROPORTIONS = (
    "length", "chest", "belly", "rump", "sag", "height", "leg_width", "neck", "neck_width", "neck_angle",
    "head", "snout", "snout_width", "head_angle", "ear", "ear_width", "ear_angle",
    "tail", "tail_width", "tail_bush", "tail_angle", "tail_curl", "horn", "horn_angle", "horn_curl",
    "mane", "hump", "eye",
)  # fmt: skip
"""Names of the numbers that make a body: joint to joint, radii, degrees; snout, ear and horn in radii of the head.

Line by line as below: torso, legs and neck; head and ears; the rest.
"""

ADDED = ("sag", "neck_angle", "head_angle", "ear_angle", "tail_angle", "tail_curl", "horn_angle", "horn_curl", "hump")
"""Proportions of an individual that are added to the species'; the others are factors."""


@dataclass(frozen=True)
class Archetype:
    """A body plan, with the coats and palettes that suit it.

    Attributes:
        body: the values of `PROPORTIONS`.
        is_hoofed: hooves, else paws.
        coats: kinds of coat that it may wear, see `galleries.critters.coats`.
        palettes: names from `PALETTES`.
    """

    name: str
    body: tuple[float, ...]
    is_hoofed: bool
    coats: tuple[str, ...]
    palettes: tuple[str, ...]


# fmt: off
ARCHETYPES = (
    Archetype(
        "horse",
        (0.95, 0.27, 0.25, 0.26, 0.01, 1.38, 1, 0.66, 1.05, 52,
         0.135, 3.3, 1, -40, 1.15, 0.42, 80,
         0.8, 0.05, 2.4, -62, -12, 0, 0, 0, 0.085, 0.01, 1),
        True, ("stripes", "patches", "dapples", "saddle"), ("zebra", "bay", "grey", "palomino", "pinto"),
    ),
    Archetype(
        "deer",
        (0.88, 0.215, 0.19, 0.2, -0.01, 1.3, 0.78, 0.56, 0.72, 58,
         0.118, 2.85, 0.82, -28, 1.6, 0.62, 122,
         0.22, 0.045, 1.4, -35, -8, 0, 0, 0, 0, 0, 1.15),
        True, ("dapples", "spots", "stripes", "saddle"), ("fawn", "russet", "umber", "slate"),
    ),
    Archetype(
        "antelope",
        (0.85, 0.235, 0.205, 0.2, 0, 1.3, 0.75, 0.54, 0.78, 56,
         0.115, 2.95, 0.8, -32, 1.35, 0.46, 130,
         0.42, 0.03, 2.2, -70, -6, 4.2, 108, 6, 0.03, 0.02, 1.1),
        True, ("stripes", "saddle", "spots", "dapples"), ("sand", "russet", "umber", "bay"),
    ),
    Archetype(
        "cattle",
        (1.05, 0.325, 0.325, 0.29, 0.015, 1.36, 1.1, 0.42, 1.35, 26,
         0.16, 2.65, 1.15, -38, 1.05, 0.55, 172,
         0.72, 0.03, 2.6, -84, -2, 1.5, 62, 22, 0, 0.02, 0.85),
        True, ("patches", "patches", "saddle", "spots"), ("holstein", "hereford", "grey", "umber"),
    ),
    Archetype(
        "giraffe",
        (0.72, 0.27, 0.225, 0.2, -0.02, 1.72, 0.85, 1.3, 0.8, 66,
         0.118, 3.05, 0.85, -32, 1, 0.42, 140,
         0.6, 0.03, 2.4, -78, -4, 1.05, 95, 0, 0.035, 0.05, 1.1),
        True, ("cells", "cells", "patches", "rosettes"), ("giraffe", "sand", "umber"),
    ),
    Archetype(
        "big cat",
        (1, 0.235, 0.205, 0.22, 0.02, 1.06, 1.25, 0.34, 1.25, 30,
         0.165, 1.75, 1.25, -22, 0.72, 0.72, 100,
         1.05, 0.052, 1.15, -48, 16, 0, 0, 0, 0, -0.01, 1),
        False, ("rosettes", "spots", "stripes", "rosettes"), ("leopard", "tiger", "snow", "sand"),
    ),
    Archetype(
        "cat",
        (0.76, 0.2, 0.195, 0.19, 0.01, 0.88, 1.05, 0.25, 1.1, 42,
         0.165, 1.52, 1.05, -18, 1.05, 0.85, 92,
         0.92, 0.045, 1.2, 30, 12, 0, 0, 0, 0, 0, 1.35),
        False, ("stripes", "patches", "spots", "stripes"), ("tabby", "silver", "ginger", "calico"),
    ),
    Archetype(
        "dog",
        (0.82, 0.25, 0.19, 0.205, -0.03, 1.1, 1.05, 0.36, 1.15, 50,
         0.168, 2.6, 1.08, -18, 1, 0.75, 205,
         0.58, 0.045, 1.25, 42, 12, 0, 0, 0, 0, 0, 1.1),
        False, ("saddle", "patches", "spots", "saddle"), ("beagle", "dalmatian", "husky", "russet"),
    ),
    Archetype(
        "fox",
        (0.82, 0.185, 0.16, 0.17, 0, 0.93, 0.85, 0.28, 1.15, 42,
         0.135, 2.75, 0.9, -16, 1.35, 0.82, 90,
         0.78, 0.055, 2.3, -12, 6, 0, 0, 0, 0, 0, 1.2),
        False, ("saddle", "spots", "patches"), ("fox", "husky", "slate", "silver"),
    ),
    Archetype(
        "bear",
        (0.8, 0.33, 0.33, 0.33, 0.02, 1.12, 1.75, 0.3, 1.65, 22,
         0.185, 2.15, 1.12, -24, 0.5, 0.62, 95,
         0.08, 0.06, 1, -30, 0, 0, 0, 0, 0, 0.05, 0.75),
        False, ("saddle", "patches", "stripes"), ("umber", "panda", "grey", "ginger"),
    ),
    Archetype(
        "tapir",
        (0.88, 0.29, 0.31, 0.29, 0.02, 0.98, 1.25, 0.33, 1.6, 28,
         0.155, 2.8, 1.1, -34, 0.75, 0.6, 105,
         0.1, 0.04, 1, -50, 0, 0, 0, 0, 0.02, -0.01, 0.8),
        True, ("saddle", "dapples", "spots", "patches"), ("panda", "grey", "slate", "umber"),
    ),
    Archetype(
        "long dog",
        (1.12, 0.2, 0.17, 0.185, 0, 0.74, 1.05, 0.27, 1.15, 48,
         0.15, 2.6, 0.98, -16, 1.35, 0.8, 108,
         0.5, 0.045, 1.5, 28, 14, 0, 0, 0, 0, 0, 1.2),
        False, ("saddle", "patches", "dapples"), ("beagle", "ginger", "husky", "pinto"),
    ),
)
# fmt: on

PALETTES = {  # coat, marks, pale parts, horns hooves and nose; sRGB
    "zebra": ("e6ddcb", "2e2722", "f3eee2", "2b2724"),
    "bay": ("8e5630", "2c1d16", "e9dcc8", "2e2622"),
    "grey": ("a09c96", "45423f", "e2dfd9", "3a3735"),
    "palomino": ("cfa063", "7e5530", "f3e8d2", "4a3b30"),
    "pinto": ("ece3d3", "7a4426", "f7f2e8", "3b302a"),
    "fawn": ("b07a48", "f1e2c6", "efe2cd", "352a25"),
    "russet": ("a4582c", "3b2218", "f0dfc6", "2e2320"),
    "umber": ("6b4b35", "2d2019", "d9c3a3", "2a2320"),
    "slate": ("70727a", "2f3138", "d8d9dc", "2a2a2e"),
    "sand": ("cfa873", "6b4325", "f2e6cf", "3b2f28"),
    "holstein": ("eee9df", "26221f", "f6f2ea", "8d746a"),
    "hereford": ("efe5d4", "8b4224", "f8f1e4", "b08f79"),
    "giraffe": ("ecd6a6", "9a5a26", "f3e6c8", "4a382c"),
    "leopard": ("d5a35c", "33231a", "f4e8d2", "4a3430"),
    "tiger": ("d0772f", "2a1c15", "f6ecdc", "7a4f48"),
    "snow": ("cfc8bb", "4a4440", "f3f0ea", "5a4a47"),
    "tabby": ("a38a6b", "3e3126", "e8dcc7", "7d544a"),
    "silver": ("b3b3b3", "47474b", "eeeeec", "6b5450"),
    "ginger": ("d08a48", "96501f", "f6e8d2", "a86f62"),
    "calico": ("efe7da", "c2743a", "f8f3ea", "b98378"),
    "beagle": ("c08a52", "322720", "f6efe3", "2a2422"),
    "dalmatian": ("eeeae2", "2b2826", "f7f4ee", "262322"),
    "husky": ("8b8a8a", "363538", "f0efec", "262426"),
    "fox": ("c46a2c", "3a241b", "f4e9da", "241f1e"),
    "panda": ("e9e5db", "2b2a2b", "f4f1ea", "252425"),
}  # fmt: skip
