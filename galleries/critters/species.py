"""Species and individuals: seeds → numbers. Nothing is drawn here."""

import colorsys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from galleries.critters.archetypes import ADDED, ARCHETYPES, PALETTES, PROPORTIONS
from galleries.critters.fields import Floats

GROUPS = ("pattern", "colour", "proportions")
COLOURS = ("coat", "marks", "pale", "horn")
COLOUR_STEPS = ("brightness", "warmth", "saturation")
MARKINGS = (
    "sock near hind", "sock near fore", "sock far hind", "sock far fore",
    "blaze width", "blaze length", "bib", "tail tip", "ear tip", "eye patch", "muzzle", "saddle front", "saddle back",
    "saddle depth",
)  # fmt: skip
"""White or dark parts whose extent differs between individuals."""
SHAPE_STEPS = ("near notch place", "near notch depth", "far notch place", "far notch depth")
COARSE, FINE = (5, 7), (14, 18)
"""Rows and columns of coefficients of an individual's two noise fields."""
LATTICE = 4
"""Numbers of each spot: shift along and across, size, shape."""
N_SPOTS = 420
"""Spots that an individual has numbers for; a species with larger ones uses the first of them."""
N_EYE = 3

_ENDS = np.cumsum([len(MARKINGS), COARSE[0] * COARSE[1], FINE[0] * FINE[1], N_SPOTS * LATTICE]).tolist()
PATTERN_SIZE = _ENDS[-1]
COLOUR_SIZE = len(COLOURS) * len(COLOUR_STEPS) + N_EYE
PROPORTIONS_SIZE = len(PROPORTIONS) + len(SHAPE_STEPS)

_CONSONANTS, _VOWELS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z"), ("a", "e", "i", "o", "u")
_SYLLABLES = tuple(c + v for c in _CONSONANTS for v in _VOWELS)
_N_NAMES = len(_SYLLABLES) ** 3


@dataclass(frozen=True, eq=False)
class Species:
    """What all individuals of a species share. Made by `species(seed)`; compared by identity.

    Attributes:
        name: made up, three syllables, another for every seed below 343 000.
        body: `[28]`, the values of `PROPORTIONS`.
        coat: kind of coat, one of `galleries.critters.coats.KINDS`.
        colours: `[4, 3]` sRGB in [0, 1] of `COLOURS`.
        eye: hue, saturation and value of the iris.
        markings: `[14]`, usual extent of `MARKINGS`; 0 or less is none.
        statistics: numbers of the coat pattern: its scale, how much of the coat it covers, ….
    """

    seed: int
    name: str
    archetype: str
    is_hoofed: bool
    body: Floats
    coat: str
    colours: Floats
    eye: Floats
    markings: Floats
    statistics: dict[str, float] = field(repr=False)

    @cached_property
    def mean(self) -> "Individual":
        return Individual(self, *(np.zeros(n, dtype=np.float32) for n in (PATTERN_SIZE, COLOUR_SIZE, PROPORTIONS_SIZE)))


@dataclass(frozen=True, eq=False)
class Individual:
    """How one individual differs from the mean of its species, in standard deviations. Compared by identity.

    Attributes:
        pattern: `[1981]`: extent of `MARKINGS`, coefficients of a `COARSE` and a `FINE` noise field, and for each
            spot of a lattice its shift, size and shape.
        colour: `[15]`: `COLOUR_STEPS` of each of `COLOURS`, then the iris' hue, saturation and value.
        proportions: `[32]`: `PROPORTIONS`, then place and depth of a notch in either ear.
    """

    species: Species = field(repr=False)
    pattern: Floats = field(repr=False)
    colour: Floats = field(repr=False)
    proportions: Floats = field(repr=False)

    @property
    def markings(self) -> Floats:
        """`[14]`, extent of `MARKINGS`, the species' own included."""
        return self.species.markings + MARKING_STEPS * self.pattern[: _ENDS[0]]

    @property
    def coarse(self) -> Floats:
        """`[5, 7]`"""
        return self.pattern[_ENDS[0] : _ENDS[1]].reshape(COARSE)

    @property
    def fine(self) -> Floats:
        """`[14, 18]`"""
        return self.pattern[_ENDS[1] : _ENDS[2]].reshape(FINE)

    @property
    def spots(self) -> Floats:
        """`[420, 4]`"""
        return self.pattern[_ENDS[2] :].reshape(N_SPOTS, LATTICE)

    @cached_property
    def body(self) -> dict[str, float]:
        """The values of `PROPORTIONS`, those of the species with the individual's own in them."""
        steps = self.proportions[: len(PROPORTIONS)]
        values = np.where(_IS_ADDED, self.species.body + _STEPS * steps, self.species.body * np.exp(_STEPS * steps))
        return dict(zip(PROPORTIONS, map(float, values), strict=True))

    @property
    def notches(self) -> tuple[float, float, float, float]:
        """Of the near and the far ear: place along the edge in [0, 1], depth in widths of the ear; 0 is none."""
        place_1, depth_1, place_2, depth_2 = map(float, self.proportions[len(PROPORTIONS) :])
        return (
            0.5 + 0.35 * float(np.tanh(place_1)), max(0.0, 0.55 * depth_1 - 0.15),
            0.5 + 0.35 * float(np.tanh(place_2)), max(0.0, 0.55 * depth_2 - 0.15),
        )  # fmt: skip

    @cached_property
    def colours(self) -> Floats:
        """`[4, 3]` sRGB in [0, 1] of `COLOURS`."""
        steps = self.colour[: len(COLOURS) * 3].reshape(len(COLOURS), 3)
        brightness, warmth, saturation = 0.05 * steps[:, :1], 0.03 * steps[:, 1:2], 0.09 * steps[:, 2:]
        rgb = self.species.colours * np.exp(brightness + warmth * np.array([1, 0.1, -1], dtype=np.float32))
        grey = rgb.mean(axis=1, keepdims=True)
        result: Floats = np.clip(grey + (rgb - grey) * np.exp(saturation), 0.02, 0.98).astype(np.float32)
        return result

    @cached_property
    def iris(self) -> tuple[float, float, float]:
        """sRGB in [0, 1]."""
        hue, saturation, value = map(float, self.species.eye + np.array([0.014, 0.08, 0.09]) * self.colour[-N_EYE:])
        return colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0.0), 1.0), min(max(value, 0.1), 0.95))


_IS_ADDED = np.array([name in ADDED for name in PROPORTIONS])
_WIDE = {"neck_angle": 2.5, "head_angle": 2.5, "ear_angle": 5, "tail_angle": 4, "tail_curl": 2, "horn_angle": 4}
_OWN_STEPS = _WIDE | {
    "horn_curl": 2.5,
    "sag": 0.008,
    "hump": 0.008,
    "ear": 0.07,
    "horn": 0.08,
    "tail": 0.06,
    "eye": 0.03,
}
_STEPS = np.array([_OWN_STEPS.get(name, 0.035) for name in PROPORTIONS], dtype=np.float32)
"""One standard deviation between individuals: a factor's logarithm, degrees, or lengths."""
MARKING_STEPS = np.array([0.14] * 4 + [0.25, 0.25, 0.22, 0.2, 0.2, 0.25, 0.2, 0.1, 0.1, 0.18], dtype=np.float32)


def species(seed: int) -> Species:
    """The species of a seed: body plan, palette, and kind and statistics of its coat.

    >>> species(7).name == species(7).name != species(8).name
    True
    """
    rng = np.random.default_rng([1, seed])
    kind = ARCHETYPES[int(rng.integers(len(ARCHETYPES)))]
    like = ARCHETYPES[int(rng.integers(len(ARCHETYPES)))]
    body = np.array(kind.body, dtype=np.float32)
    # A little of a second body plan makes species that no zoo has; ears, horns and angles stay as they are.
    keep = np.array([name.startswith(("ear", "horn", "tail_", "neck_angle", "head_a", "mane")) for name in PROPORTIONS])
    mix = np.where(keep, 0, rng.uniform(0, 0.14))
    body = body + mix * (np.array(like.body, dtype=np.float32) - body)
    body = np.where(
        _IS_ADDED, body + 0.8 * _STEPS * rng.normal(size=body.size), body * np.exp(0.06 * rng.normal(size=body.size))
    )
    coat = str(rng.choice(kind.coats))
    palette = PALETTES[str(rng.choice(kind.palettes))]
    colours = np.array([[int(c[i : i + 2], 16) / 255 for i in (0, 2, 4)] for c in palette])
    colours = colours.mean(axis=1, keepdims=True) * 0.16 + colours * 0.84
    colours = np.clip(colours * np.exp(0.05 * rng.normal(size=(4, 1)) + 0.025 * rng.normal(size=(4, 3))), 0.05, 0.97)
    eye = np.array(
        [rng.choice([0.05, 0.07, 0.09, 0.11, 0.14, 0.2, 0.27, 0.56]), rng.uniform(0.5, 0.85), rng.uniform(0.4, 0.8)]
    )
    return Species(
        seed, name_of(seed), kind.name, kind.is_hoofed, body.astype(np.float32), coat, colours.astype(np.float32),
        eye.astype(np.float32), _usual_markings(rng, coat), _coat_statistics(rng, coat),
    )  # fmt: skip


def _usual_markings(rng: np.random.Generator, coat: str) -> Floats:
    """Each species has some kinds of marking and lacks others; what it lacks, no usual individual has."""
    values = np.full(len(MARKINGS), -0.6)
    chance = {"saddle": 0.8, "cells": 0.15}.get(coat, 0.35)
    if rng.random() < chance:
        values[:4] = rng.uniform(0.1, 0.35)  # socks
    if rng.random() < chance:
        values[4:6] = rng.uniform(0.4, 0.8), rng.uniform(0.5, 0.9)  # blaze
    for marking, usual in (("bib", 0.4), ("tail tip", 0.5), ("ear tip", 0.5), ("eye patch", 0.5), ("muzzle", 0.6)):
        likely = {"saddle": 0.6, "patches": 0.5, "cells": 0.0 if marking == "bib" else 0.3}.get(coat, 0.3)
        if rng.random() < likely:
            values[MARKINGS.index(marking)] = usual * rng.uniform(0.7, 1.4)
    values[-3:] = rng.uniform(0.1, 0.35), rng.uniform(0.0, 0.25), rng.uniform(0.4, 0.7)
    return values.astype(np.float32)


def _coat_statistics(rng: np.random.Generator, coat: str) -> dict[str, float]:
    scale = {"spots": (0.105, 0.17), "dapples": (0.11, 0.16), "rosettes": (0.14, 0.2), "cells": (0.17, 0.25)}
    low, high = scale.get(coat, (0.1, 0.17))
    return {
        "scale": rng.uniform(low, high),
        "cover": rng.uniform(0, 1),
        "slant": rng.uniform(-0.35, 0.35),
        "break": rng.uniform(0, 1),
        "belly": rng.uniform(0.1, 0.9) if coat not in ("patches", "cells") else rng.uniform(0, 0.3),
        "dorsal": rng.uniform(0, 0.5),
        "points": rng.uniform(0.3, 1) if rng.random() < 0.4 and coat in ("saddle", "dapples", "rosettes") else 0.0,
        "ruddy": rng.uniform(0, 0.6),
        "grid_seed": float(rng.integers(2**31)),
    }


def name_of(seed: int) -> str:
    """The made-up name of the species of a seed.

    >>> name_of(1000) != name_of(1001)
    True
    """
    rest, number = divmod(abs(seed), _N_NAMES)
    number = number * 150_001 % _N_NAMES  # coprime: neighbouring seeds get unlike names, no two the same
    syllables = []
    for _ in range(3):
        number, which = divmod(number, len(_SYLLABLES))
        syllables.append(_SYLLABLES[which])
    return "".join(syllables) + (str(rest) if rest else "") + ("x" if seed < 0 else "")


def individual(of: Species, seed: int) -> Individual:
    """An individual: its species, and details of its own drawn from a seed."""
    rng = np.random.default_rng([2, of.seed, seed])

    def usual(n: int) -> Floats:
        return np.clip(rng.normal(size=n), -2.5, 2.5).astype(np.float32)

    return Individual(of, usual(PATTERN_SIZE), usual(COLOUR_SIZE), usual(PROPORTIONS_SIZE))


def mean_individual(of: Species) -> Individual:
    """The individual with no details of its own: regular spots, usual colours, usual body."""
    return of.mean


def mixed(a: Individual, b: Individual, d: float, groups: Iterable[str] = GROUPS) -> Individual:
    """`a` moved towards `b` by `d` in [0, 1]: linear in the numbers of these groups; the other groups stay `a`'s.

    At 0 it is `a` and at 1, with all groups, `b`, to the bit. Halfway the pattern keeps its contrast: spots keep their
    size and noise fields are brought back to their own spread when they are drawn.

    Raises:
        ValueError: individuals of two species, an unknown group, or `d` outside [0, 1].
    """
    if a.species is not b.species and a.species.seed != b.species.seed:
        raise ValueError(f"{a.species.name} and {b.species.name} are two species")
    chosen = set(groups)
    if not chosen <= set(GROUPS) or not 0 <= d <= 1:
        raise ValueError(f"groups {sorted(chosen)}, d = {d}: groups are {GROUPS}, and d is in [0, 1]")
    moved = {
        group: (1 - np.float32(d)) * getattr(a, group) + np.float32(d) * getattr(b, group) for group in sorted(chosen)
    }
    return replace(a, **moved)
