"""Coats: what a species' kind of coat makes of an individual's numbers, on a sheet that the body wears.

A sheet is a flat side view of the standing animal. It holds smooth fields, not colours: a pixel of any size finds a
crisp edge where a field changes its sign.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from galleries.critters.fields import Floats, capsule, grown, step
from galleries.critters.rig import Part, standing
from galleries.critters.species import COARSE, FINE, MARKINGS, N_SPOTS, Individual, Species

KINDS = ("spots", "dapples", "rosettes", "cells", "stripes", "patches", "saddle")
PX = 64
"""Pixels of the sheet per unit of length."""
_FAR = 1e3


@dataclass(frozen=True, eq=False)
class Sheet:
    """Where a species' coat is laid out.

    Attributes:
        left, top: x and y of the sheet's corner.
        places: of each part of the rig, its ends on the sheet. The far legs have a place of their own below.
        shape: rows, columns.
        x, y: of each pixel; y points up.
        part: index of the part that each pixel belongs to.
        inside: distance into the body, negative outside.
        along, across: of that part, along in [0, 1], across in its radii, positive upwards or forwards.
        leg: how far down a leg, 0 to 1; -1 elsewhere.
        phase: length along the body, of which stripes are the level lines.
        detail: size of the pattern there, 1 on the torso, less on head and legs.
        lattice: `[n, 3]` x, y and detail of regular spots.
    """

    left: float
    top: float
    places: tuple[tuple[tuple[float, float], tuple[float, float]], ...]
    shape: tuple[int, int]
    x: Floats
    y: Floats
    part: Floats
    inside: Floats
    along: Floats
    across: Floats
    leg: Floats
    phase: Floats
    detail: Floats
    lattice: Floats


@lru_cache(maxsize=32)
def sheet_of(species: Species) -> Sheet:
    """The sheet of a species."""
    rig = standing(species)
    below = -float(species.mean.body["height"]) - 0.12
    places = []
    for part in rig.parts:
        drop = below if part.name.startswith("far") and part.group in ("far leg", "far foot") else 0.0
        places.append(((part.a[0], part.a[1] + drop), (part.b[0], part.b[1] + drop)))
    margin = 0.12
    ends = [(p, r) for (a, b), part in zip(places, rig.parts, strict=True) for p, r in ((a, part.ra), (b, part.rb))]
    left, right = min(p[0] - r for p, r in ends) - margin, max(p[0] + r for p, r in ends) + margin
    low, top = min(p[1] - r for p, r in ends) - margin, max(p[1] + r for p, r in ends) + margin
    shape = (int((top - low) * PX) + 1, int((right - left) * PX) + 1)
    x = (left + np.arange(shape[1], dtype=np.float32) / PX)[None, :] + np.zeros((shape[0], 1), dtype=np.float32)
    y = (top - np.arange(shape[0], dtype=np.float32) / PX)[:, None] + np.zeros((1, shape[1]), dtype=np.float32)

    nearest = np.full(shape, _FAR, dtype=np.float32)
    fields = {name: np.zeros(shape, dtype=np.float32) for name in ("part", "along", "across", "leg", "phase", "detail")}
    weight = np.zeros(shape, dtype=np.float32)
    for k, (part, (a, b)) in enumerate(zip(rig.parts, places, strict=True)):
        distance, s, along, across, radius, _ = capsule(x, y, a, b, part.ra, part.rb)
        start, rate, leg, detail = _phase_of(part, species)
        length = float(np.hypot(b[0] - a[0], b[1] - a[1]))
        own = np.exp(np.clip(-distance / 0.05, -40, 9)) + 1e-30
        weight += own
        fields["phase"] += own * (start + rate * (x - a[0] if part.name in ("haunch", "barrel") else along * length))
        fields["detail"] += own * detail
        is_nearer = distance < nearest
        nearest[is_nearer] = distance[is_nearer]
        values = {"part": k, "along": s, "across": across / radius, "leg": leg[0] + s * (leg[1] - leg[0])}
        for name, value in values.items():
            fields[name] = np.where(is_nearer, np.asarray(value, dtype=np.float32), fields[name])
    fields["phase"] /= weight
    fields["detail"] /= weight
    lattice = _lattice(species, -nearest, fields["detail"], left, top)
    return Sheet(left, top, tuple(places), shape, x, y, fields.pop("part"), -nearest, lattice=lattice, **fields)


def _phase_of(part: Part, species: Species) -> tuple[float, float, tuple[float, float], float]:
    """Stripe phase at a part's beginning, its rate, how far down a leg it reaches, and its pattern's size."""
    body = species.mean.body
    torso, reach = body["length"], body["neck"] + 0.55 * body["chest"]
    kind = part.name.split()[-1]
    if kind in ("thigh", "shank", "cannon", "hoof", "paw"):
        start = {"thigh": 0.0, "shank": 0.28, "cannon": 0.68, "hoof": 1.0, "paw": 1.0}[kind] * 1.6
        from_to = {"thigh": (0, 0.4), "shank": (0.4, 0.72), "cannon": (0.72, 0.98), "hoof": (1, 1), "paw": (0.98, 1)}[
            kind
        ]
        return start + (0.0 if "hind" in part.name else torso), 1.6, from_to, (0.85 if kind == "thigh" else 0.6)
    starts = {
        "haunch": (0.0, 1.0, 1.0), "barrel": (torso / 2 - 0.05, 1.0, 1.0), "neck": (torso - 0.03, 1.15, 0.9),
        "skull": (torso + reach, 1.7, 0.55), "snout": (torso + reach, 1.7, 0.5), "jaw": (torso + reach, 1.7, 0.5),
    }  # fmt: skip
    if part.name in starts:
        start, rate, detail = starts[part.name]
        return start, rate, (-1, -1), detail
    return -0.3 * (1 + int(part.name[-1]) if part.group == "tail" else 0), -1.3, (-1, -1), 0.6


def _lattice(species: Species, inside: Floats, detail: Floats, left: float, top: float) -> Floats:
    """Regular places of spots, denser where they are smaller."""
    scale = species.statistics["scale"]
    found = []
    for size, low, high in ((1.0, 0.78, 9.0), (0.62, 0.0, 0.78)):
        pitch = scale * size
        rows, columns = np.mgrid[0 : inside.shape[0] / PX : 0.87 * pitch, 0 : inside.shape[1] / PX : pitch]
        columns = columns + 0.5 * pitch * (np.arange(len(rows)) % 2)[:, None]
        r = np.minimum((rows * PX).astype(int), inside.shape[0] - 1).ravel()
        c = np.minimum((columns * PX).astype(int), inside.shape[1] - 1).ravel()
        is_on = (inside[r, c] > -0.3 * pitch) & (detail[r, c] >= low) & (detail[r, c] < high)
        found.append(np.stack([left + columns.ravel(), top - rows.ravel(), np.full(r.size, size)], axis=1)[is_on])
    return np.concatenate(found)[:N_SPOTS].astype(np.float32)


@lru_cache(maxsize=48)
def coat_of(individual: Individual) -> Floats:
    """`[rows, columns, 4]`: the coat of an individual on the sheet of its species.

    Marks where the first field is positive, white where the second is (both about distances); the third darkens from
    -1 and pales up to 1; the fourth, in [0, 1], is how far the coat turns to the colour of the marks.
    """
    sheet = sheet_of(individual.species)
    coarse, fine = grown(individual.coarse, sheet.shape), grown(individual.fine, sheet.shape)
    marks, shade = _PATTERNS[individual.species.coat](individual, sheet, coarse, fine)
    white, dark, more = _markings(individual, sheet, fine)
    return np.stack([marks, white, np.clip(shade + more, -1, 1), dark], axis=-1).astype(np.float32)


def _spots(individual: Individual, sheet: Sheet, coarse: Floats, fine: Floats) -> tuple[Floats, Floats]:
    """Spots, dapples and rosettes: a lattice that each individual jitters in its own way."""
    species = individual.species
    scale, cover = species.statistics["scale"], species.statistics["cover"]
    own = individual.spots[: len(sheet.lattice)]
    pitch = scale * sheet.lattice[:, 2]
    is_ring = species.coat == "rosettes"
    x = sheet.lattice[:, 0] + (0.17 if is_ring else 0.24) * pitch * own[:, 0]
    y = sheet.lattice[:, 1] + (0.17 if is_ring else 0.24) * pitch * own[:, 1]
    usual = 0.39 if is_ring else 0.23 + 0.1 * cover
    radius = (
        usual
        * pitch
        * np.exp((0.14 if is_ring else 0.3) * own[:, 2])
        * np.minimum(1, 0.55 + 0.45 * sheet.lattice[:, 2])
    )
    if species.coat == "dapples":  # flanks and back, fading downwards
        depth = -y / (2 * individual.species.mean.body["chest"])
        radius = radius * np.clip(1.25 - 0.55 * depth, 0.0, 1.0) * (sheet.lattice[:, 2] == 1)
    n = int(2.3 * usual * scale * PX) + 2
    offsets = np.arange(-n, n + 1)
    row, column = np.rint((sheet.top - y) * PX).astype(int), np.rint((x - sheet.left) * PX).astype(int)
    rows = np.clip(row[:, None, None] + offsets[None, :, None], 0, sheet.shape[0] - 1)
    columns = np.clip(column[:, None, None] + offsets[None, None, :], 0, sheet.shape[1] - 1)
    rows, columns = np.broadcast_arrays(rows, columns)
    wobble = fine[rows, columns] * np.float32(0.012)
    long = np.exp(0.22 * own[:, 3])[:, None, None]
    dx = (columns / np.float32(PX) + np.float32(sheet.left) - x[:, None, None] + wobble) / long
    dy = (np.float32(sheet.top) - rows / np.float32(PX) - y[:, None, None] + wobble) * long
    distance = np.sqrt(dx * dx + dy * dy)
    solid = (radius[:, None, None] - distance).astype(np.float32)
    field = solid
    shade = np.zeros(sheet.shape, dtype=np.float32)
    if is_ring:
        angle = np.arctan2(dy, dx)
        blots = (
            0.12 * np.cos(3 * angle + 3 * own[:, 3, None, None])
            + 0.22 * np.cos(angle + 2 * own[:, 0, None, None])
            - 0.06
        )
        r = radius[:, None, None]
        # Small rosettes, on head and legs, are filled.
        ring = r * (0.34 + blots) - np.abs(distance - 0.72 * r)
        field = np.where(r > 0.3 * scale, ring, 0.7 * r - distance).astype(np.float32)
        inner = np.full(sheet.shape, -1.0, dtype=np.float32)
        np.maximum.at(inner, (rows, columns), solid)
        shade -= (0.25 + 0.3 * species.statistics["ruddy"]) * step(inner, -0.01, 0.015)
    marks = np.full(sheet.shape, -0.1, dtype=np.float32)
    np.maximum.at(marks, (rows, columns), field)
    return marks, shade


def _cells(individual: Individual, sheet: Sheet, coarse: Floats, fine: Floats) -> tuple[Floats, Floats]:
    """Dark cells between light seams, as on a giraffe."""
    statistics = individual.species.statistics
    own = individual.spots[: len(sheet.lattice)]
    pitch = statistics["scale"] * sheet.lattice[:, 2:]
    centres = sheet.lattice[:, :2] + 0.22 * pitch * own[:, :2]
    body = np.nonzero(sheet.inside > -0.05)
    places = np.stack([sheet.x[body] + 0.012 * fine[body], sheet.y[body] - 0.012 * fine[body]], axis=1)
    distance, index = cKDTree(centres).query(places, k=3)
    distance = np.sort(distance - 0.1 * pitch[index, 0] * own[index, 2], axis=1)
    seam = statistics["scale"] * (0.05 + 0.07 * statistics["break"]) * (0.6 + 0.4 * sheet.detail[body])
    marks = np.full(sheet.shape, -0.05, dtype=np.float32)
    marks[body] = 0.5 * (distance[:, 1] - distance[:, 0]) - seam - 0.08 * np.maximum(sheet.leg[body] - 0.55, 0)
    return marks, np.zeros(sheet.shape, dtype=np.float32)


def _stripes(individual: Individual, sheet: Sheet, coarse: Floats, fine: Floats) -> tuple[Floats, Floats]:
    """Stripes across body and limbs, bent, forked and broken by noise."""
    statistics = individual.species.statistics
    wave = statistics["scale"] * 0.85
    phase = sheet.phase + statistics["slant"] * 0.35 * sheet.y + 0.09 * coarse + 0.25 * wave * fine
    broken = 0.25 + 0.75 * statistics["break"]
    # A quarter wave's field under the stripes' own makes them end and fork.
    field = np.cos(phase * np.float32(2 * np.pi / wave)) + broken * 0.55 * np.sin(
        3 * fine + 2 * coarse + sheet.phase * 9
    )
    depth = np.clip(-sheet.y / (2 * individual.species.mean.body["chest"]), 0, 1)
    cover = (
        -0.35 + 0.4 * statistics["cover"] - 0.9 * statistics["break"] * np.where(sheet.leg < 0, depth, sheet.leg) ** 2
    )
    marks = (field + cover) * np.float32(wave / (2 * np.pi))
    return marks.astype(np.float32), np.zeros(sheet.shape, dtype=np.float32)


def _patches(individual: Individual, sheet: Sheet, coarse: Floats, fine: Floats) -> tuple[Floats, Floats]:
    """Large blots of any form."""
    species = individual.species
    rng = np.random.default_rng(int(species.statistics["grid_seed"]))
    usual_coarse = grown(rng.standard_normal(COARSE), sheet.shape)
    usual_fine = grown(rng.standard_normal(FINE), sheet.shape)
    field = 0.45 * (usual_coarse + 0.35 * usual_fine) + coarse + 0.42 * fine
    body = sheet.inside > 0
    field = field / max(float(field[body].std()), 1e-3)
    return (0.12 * (field + 0.45 * (species.statistics["cover"] - 0.55))).astype(np.float32), np.zeros(
        sheet.shape, dtype=np.float32
    )


def _saddle(individual: Individual, sheet: Sheet, coarse: Floats, fine: Floats) -> tuple[Floats, Floats]:
    """A plain coat with a dark back."""
    body = individual.species.mean.body
    front, back, depth = individual.markings[-3:]
    half, chest = body["length"] / 2, body["chest"]
    edge = 0.045 * coarse + 0.022 * fine
    start, end = -half - 0.9 * chest + back, half + 0.9 * chest - front * 0.8
    # Deepest in the middle, drawn in towards shoulder and rump.
    way = np.clip((sheet.x - start) / (end - start) * 2 - 1, -1, 1)
    low = -2 * chest * (0.12 + 0.75 * np.clip(depth, 0.05, 1.1) * np.sqrt(np.clip(1 - way**4, 0, 1)))
    field = _both(_both(sheet.y - low, end - sheet.x), sheet.x - start) + edge
    field = np.where(sheet.leg >= 0, np.minimum(field, 0.5 * (0.3 - sheet.leg) + edge), field)
    return field.astype(np.float32), np.zeros(sheet.shape, dtype=np.float32)


def _both(a: Floats, b: Floats, round_by: float = 0.16) -> Floats:
    """Where both fields are positive, with corners rounded."""
    near = np.clip(0.5 + 0.5 * (b - a) / np.float32(round_by), 0, 1)
    result: Floats = b + (a - b) * near - np.float32(round_by) * near * (1 - near)
    return result


_PATTERNS = {
    "spots": _spots, "dapples": _spots, "rosettes": _spots, "cells": _cells, "stripes": _stripes, "patches": _patches,
    "saddle": _saddle,
}  # fmt: skip


def _markings(individual: Individual, sheet: Sheet, fine: Floats) -> tuple[Floats, Floats, Floats]:
    """White markings, dark points, and shading from back to belly."""
    species = individual.species
    rig, body = standing(species), species.mean.body
    of = dict(zip(MARKINGS, map(float, individual.markings), strict=True))
    index = {part.name: k for k, part in enumerate(rig.parts)}

    def on(*names: str) -> npt.NDArray[np.bool_]:
        return np.isin(sheet.part, [k for name, k in index.items() if any(word in name for word in names)])

    white = np.full(sheet.shape, -0.1, dtype=np.float32)
    wobble = 0.018 * fine
    for leg in ("near hind", "near fore", "far hind", "far fore"):
        height = min(of[f"sock {leg}"], 0.62)
        if height > 0.02:
            field = (sheet.leg - (1 - height)) * np.float32(body["height"] * 0.7) + wobble
            white = np.where(on(leg), np.maximum(white, field), white)
    head = body["head"]
    if of["blaze width"] > 0 and of["blaze length"] > 0:
        top = (sheet.across - (0.95 - 0.85 * min(of["blaze width"], 1.3))) * head * 0.7 + 0.5 * wobble
        reach = np.where(on("snout"), sheet.along - 1 + 1.1 * of["blaze length"], 1)
        white = np.where(on("snout", "skull"), np.maximum(white, np.minimum(top, reach * head)), white)
    if of["muzzle"] > 0:
        field = (sheet.along - 1 + 0.5 * min(of["muzzle"], 1.4)) * head * (body["snout"] - 1) + wobble
        white = np.where(on("snout", "jaw"), np.maximum(white, field), white)
    if of["bib"] > 0:
        x, y = body["length"] / 2 + 0.9 * body["chest"], -0.9 * body["chest"]
        field = np.float32(0.42 * min(of["bib"], 1.3) * body["chest"] / 0.25) - np.hypot(
            sheet.x - x, 0.8 * (sheet.y - y)
        )
        white = np.where(on("barrel", "neck", "thigh"), np.maximum(white, field + wobble), white)
    if of["tail tip"] > 0:
        n = 4 * (1 - 0.4 * min(of["tail tip"], 1.5))
        at = sum((on(f"tail {k}") * (k + sheet.along) for k in range(4)), np.zeros(sheet.shape, dtype=np.float32))
        white = np.where(on("tail"), np.maximum(white, 0.08 * (at - n) + 0.3 * wobble), white)

    points = species.statistics["points"]
    dark = points * np.clip(1.6 * sheet.leg - 0.75, 0, 1) * (sheet.leg >= 0)
    dark = np.maximum(dark, points * 0.8 * on("snout", "jaw") * step(sheet.along, 0.35, 1.0))
    if of["ear tip"] > 0:
        dark = np.maximum(dark, on("ear tip") * step(sheet.along, 1 - min(of["ear tip"], 1.2), 1.1) * 0.9)
    dark = np.maximum(
        dark, on("near ear") * 0.55 * step(0.75 - np.abs(sheet.across), 0.0, 0.4) * (1 - sheet.along * on("tip"))
    )
    if of["eye patch"] > 0:
        x, y, _ = rig.points["eye"]
        off = np.hypot(sheet.x - x + 0.1 * head, 1.15 * (sheet.y - y + 0.1 * head)) + 0.6 * wobble
        dark = np.maximum(dark, 0.92 * step(np.float32(head * (0.25 + 0.5 * of["eye patch"])) - off, -0.012, 0.012))

    depth = -sheet.y / (2 * body["chest"])
    belly = step(depth.astype(np.float32), 0.55, 1.05) * on("haunch", "barrel", "neck", "jaw", "near hind", "near fore")
    belly = belly * np.where(sheet.leg < 0, 1, np.clip(1 - 1.6 * sheet.leg, 0.15, 1))
    shade = 0.9 * species.statistics["belly"] * belly
    shade = shade - 0.3 * species.statistics["dorsal"] * step(sheet.across, 0.4, 1.0) * on("haunch", "barrel")
    return white.astype(np.float32), gaussian_filter(dark, 1.0), gaussian_filter(shade, 3.0)  # no seams between parts
