"""The body: tapered capsules in three dimensions, posed.

x points forward, y up, z to the side that is seen; the back of the torso is at y = 0. Each capsule also has a place in
the *sheet*, the flat side view of the standing species on which the coat is laid out, so that a coat follows the pose.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from galleries.critters.species import Individual, Species

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Pose:
    """How an animal holds itself; angles in degrees, added to those of its build.

    Attributes:
        phase: of the gait, in [0, 1).
        stride: swing of the legs; 0 stands.
        neck: up; grazing is about -80.
        head, head_yaw: nose up; turned towards the viewer.
        tail, curl: up; more bent.
        ear: back.
    """

    phase: float = 0.0
    stride: float = 0.0
    neck: float = 0.0
    head: float = 0.0
    head_yaw: float = 0.0
    tail: float = 0.0
    curl: float = 0.0
    ear: float = 0.0


@dataclass(frozen=True, slots=True)
class Part:
    """A tapered capsule.

    Attributes:
        group: what is drawn together, see `GROUPS`.
        a, b: its ends.
        ra, rb: radii there.
        smooth: how far it blends with the rest of its group.
    """

    name: str
    group: str
    a: Point
    b: Point
    ra: float
    rb: float
    smooth: float = 0.05


@dataclass(frozen=True)
class Rig:
    """A posed body.

    Attributes:
        parts: from back to front within each group; names and order are the same for all individuals and poses.
        points: single places: `eye`, `nose`, `mouth`, `mouth end`, `near ear base`, `near ear tip` and `far ear …`.
        ground: y of the lowest foot.
        head: radius of the head.
    """

    parts: tuple[Part, ...]
    points: dict[str, Point]
    ground: float
    head: float


GROUPS = ("far leg", "far foot", "far ear", "far horn", "tail", "mane", "body", "foot", "near horn", "near ear")
"""In the order of drawing."""

LEGS = ("near hind", "near fore", "far hind", "far fore")
_PHASES = {"near hind": 0.0, "near fore": 0.25, "far hind": 0.5, "far fore": 0.75}
_HIND_HOOFED = ((0.09, -0.40), (-0.13, -0.66), (-0.055, -0.945))
_HIND_PAWED = ((0.13, -0.42), (-0.13, -0.745), (-0.07, -0.955))
_FORE_HOOFED = ((-0.06, -0.36), (0.01, -0.66), (0.005, -0.945))
_FORE_PAWED = ((-0.09, -0.38), (0.02, -0.74), (0.005, -0.955))


def rig_of(individual: Individual, pose: Pose) -> Rig:
    """The body of an individual in a pose."""
    v = individual.body
    half = v["length"] / 2
    chest, belly, rump = v["chest"], v["belly"], v["rump"]
    parts: list[Part] = []
    points: dict[str, Point] = {}
    hip, middle = (-half, -rump, 0.0), (-0.05, -belly - v["sag"], 0.0)
    shoulder = (half, -chest + v["hump"], 0.0)

    ground = 0.0
    for leg in LEGS:
        ground = min(ground, _leg(parts, individual, pose, leg, half))
    _tail(parts, v, pose, half)
    neck = math.radians(v["neck_angle"] + pose.neck)
    base = (half - 0.03 + 0.12 * chest * math.sin(neck), -0.62 * chest + v["hump"], 0.0)
    reach = v["neck"] + 0.55 * chest
    poll = (base[0] + reach * math.cos(neck), base[1] + reach * math.sin(neck), 0.0)
    r = v["head"]
    width = v["neck_width"]
    if v["mane"] > 0.004:
        # From behind the poll to the withers: drawn before the neck, which hides all but its crest.
        up = (-math.sin(neck), math.cos(neck))
        low, high = 0.42 * chest * width + 0.3 * v["mane"], 0.45 * r * width + 0.6 * v["mane"]
        start = (base[0] + low * up[0] - 0.05, base[1] + low * up[1] + 0.02, 0.0)
        end = (poll[0] + high * up[0], poll[1] + high * up[1], 0.0)
        parts.append(Part("mane", "mane", start, end, 0.8 * v["mane"] + 0.02, 0.9 * v["mane"] + 0.012))
    parts += [
        Part("haunch", "body", hip, middle, rump, belly, 0.1),
        Part("barrel", "body", middle, shoulder, belly, chest, 0.1),
        Part("neck", "body", base, poll, 0.74 * chest * min(width, 1.15), 0.72 * r * width, 0.12),
    ]
    _head(parts, points, individual, pose, poll)
    near = [part for part in parts if part.group == "body near leg"]
    others = [part for part in parts if part.group != "body near leg"]
    legs = [Part(p.name, "body", p.a, p.b, p.ra, p.rb, p.smooth) for p in near]
    ordered = sorted([*others, *legs], key=lambda part: GROUPS.index(part.group))
    return Rig(tuple(ordered), points, ground, r)


def _leg(parts: list[Part], individual: Individual, pose: Pose, leg: str, half: float) -> float:
    """Add a leg; returns the y of its sole."""
    v = individual.body
    is_near, is_hind = leg.startswith("near"), leg.endswith("hind")
    hoofed = individual.species.is_hoofed
    side = 1.0 if is_near else -1.0
    radius = v["rump"] if is_hind else v["chest"]
    top = (-half - 0.03, -1.05 * radius) if is_hind else (half - 0.02, -1.15 * radius + v["hump"])
    height = v["height"] + top[1]
    shape = (_HIND_HOOFED if hoofed else _HIND_PAWED) if is_hind else (_FORE_HOOFED if hoofed else _FORE_PAWED)
    phase = 2 * math.pi * (pose.phase + _PHASES[leg])
    # A standing animal never has its legs in line: a little of the stride is always there.
    swing = math.radians(pose.stride * math.sin(phase) + (5 if is_hind else -4) * math.sin(phase + 0.7))
    lift = max(0.0, math.cos(phase)) * min(1.0, pose.stride / 28)
    spread = min(height, 0.85)  # long legs are no more angular than short ones
    chain = [(0.0, 0.0)]
    for k, (x, y) in enumerate(shape):
        bend = lift * (0.0, 0.16, 0.12)[k] * (1 if is_hind else -1)
        chain.append((x * spread - bend * spread * 0.9, y * height + lift * height * (0.02, 0.05, 0.16)[k]))
    turned = [(x * math.cos(swing) - y * math.sin(swing), x * math.sin(swing) + y * math.cos(swing)) for x, y in chain]
    stretch = (chain[-1][1] if lift > 0.05 else shape[-1][1] * height) / turned[-1][1]
    joints = [(top[0] + x, top[1] + y * stretch, side * (0.55 - 0.1 * k) * radius) for k, (x, y) in enumerate(turned)]
    w = v["leg_width"]
    group = "body near leg" if is_near else "far leg"
    thigh = (0.74 if is_hind else 0.58) * radius * min(1.2, 0.5 + 0.5 * w)
    upper, lower, cannon = (0.088, 0.056, 0.041) if is_hind else (0.075, 0.053, 0.041)
    if not hoofed:
        lower, cannon = 0.98 * lower, 1.08 * cannon
    parts.append(Part(f"{leg} thigh", group, joints[0], joints[1], thigh, upper * w, 0.1))
    parts.append(Part(f"{leg} shank", group, joints[1], joints[2], upper * w * 0.96, lower * w, 0.035))
    parts.append(Part(f"{leg} cannon", group, joints[2], joints[3], lower * w * 0.98, cannon * w, 0.02))
    x, y, z = joints[3]
    tilt = 0.6 * swing
    foot_group = ("foot" if is_near else "far foot") if hoofed else group
    if hoofed:
        drop = 0.052 * height
        toe = (x + 0.02 + drop * math.sin(tilt), y - drop * math.cos(tilt), z)
        parts.append(
            Part(f"{leg} hoof", foot_group, (x + 0.004, y - 0.2 * drop, z), toe, 0.95 * cannon * w, 1.18 * cannon * w)
        )
        return toe[1] - 1.0 * cannon * w
    r = 1.12 * cannon * w
    toe = (x + 1.5 * r, y - 0.1 * r + 1.5 * r * tilt * 0.4, z)
    parts.append(Part(f"{leg} paw", foot_group, (x, y, z), toe, r, 0.92 * r, 0.02))
    return min(y, toe[1]) - r


def _tail(parts: list[Part], v: dict[str, float], pose: Pose, half: float) -> None:
    angle = v["tail_angle"] + pose.tail
    at = (-half - 0.78 * v["rump"], -0.42 * v["rump"], 0.0)
    width, bush = v["tail_width"], v["tail_bush"]
    is_tuft = bush > 1.9 and v["tail_width"] < 0.045
    radii = (1.0, 0.85, 0.75, bush, 0.5) if is_tuft else (1.0, 0.5 + 0.5 * bush, bush, 0.9 * bush, 0.35 * bush)
    for k in range(4):
        step = v["tail"] * (0.27 if k else 0.2)
        rad = math.radians(angle)
        end = (at[0] - step * math.cos(rad), at[1] + step * math.sin(rad), 0.0)
        parts.append(Part(f"tail {k}", "tail", at, end, width * radii[k], width * radii[k + 1], 0.012))
        at = end
        angle += v["tail_curl"] + pose.curl


def _head(parts: list[Part], points: dict[str, Point], individual: Individual, pose: Pose, poll: Point) -> None:
    v = individual.body
    r = v["head"]
    pitch, yaw = math.radians(v["head_angle"] + pose.head + 0.35 * pose.neck), math.radians(pose.head_yaw)
    cos_p, sin_p, cos_y, sin_y = math.cos(pitch), math.sin(pitch), math.cos(yaw), math.sin(yaw)

    def at(x: float, y: float, z: float = 0.0) -> Point:
        """A place on the head, in its radii."""
        x, y = x * cos_p - y * sin_p, x * sin_p + y * cos_p
        x, z = x * cos_y - z * sin_y, x * sin_y + z * cos_y
        return (poll[0] + r * x, poll[1] + r * y, poll[2] + r * z)

    long, wide = v["snout"], v["snout_width"]
    tip = 0.40 * wide if long > 1.8 else 0.46 * wide
    parts.append(Part("skull", "body", at(0.0, 0.0), at(0.3, -0.02), r, 0.86 * r, 0.05))
    parts.append(
        Part("jaw", "body", at(0.25, -0.38), at(long - 0.35, -0.52 * wide - 0.06), 0.55 * r, 0.26 * wide * r, 0.03)
    )
    parts.append(Part("snout", "body", at(0.35, -0.12), at(long - tip, -0.28), 0.66 * wide * r, tip * r, 0.03))
    points["eye"] = at(0.52, 0.26, 0.78)
    points["nose"] = at(long - 0.28 * tip, -0.28 + 0.42 * tip, 0.0)
    points["mouth"] = at(long - 0.1 - 0.3 * tip, -0.28 - 0.78 * tip, 0.3)
    points["mouth end"] = at(0.45 * long + 0.15, -0.52 - 0.12 * wide, 0.5)

    ear, width = v["ear"], 0.5 * v["ear_width"]
    usual = individual.species.mean.body  # whether ears are round, pointed or leaves is the species' business
    shape = (0.72, 1.0, 0.7) if usual["ear"] < 0.85 else (0.72, 1.0, 0.2)
    if usual["ear"] >= 0.85 and usual["ear_width"] > 0.68 and usual["ear_angle"] < 150:
        shape = (1.0, 0.66, 0.12)
    for side in ("far", "near"):
        z = 0.5 if side == "near" else -0.5
        angle = math.radians(v["ear_angle"] + pose.ear + (0 if side == "near" else -15))
        root = (-0.28 + (0.0 if side == "near" else 0.26), 0.72)
        cos, sin = math.cos(angle), math.sin(angle)
        middle = at(root[0] + 0.45 * ear * cos, root[1] + 0.45 * ear * sin, 1.25 * z)
        end = at(root[0] + ear * cos, root[1] + ear * sin, 1.4 * z)
        parts.append(
            Part(f"{side} ear", f"{side} ear", at(*root, z), middle, shape[0] * width * r, shape[1] * width * r, 0.02)
        )
        parts.append(
            Part(f"{side} ear tip", f"{side} ear", middle, end, shape[1] * width * r, shape[2] * width * r, 0.02)
        )
        points[f"{side} ear base"], points[f"{side} ear tip"] = at(*root, z), end
        if v["horn"] > 0.1:
            _horn(parts, v, at, side)


def _horn(parts: list[Part], v: dict[str, float], at: Callable[[float, float, float], Point], side: str) -> None:
    r, length, angle = v["head"], v["horn"], v["horn_angle"]
    x, y, z = 0.02 if side == "near" else 0.14, 0.85, 0.34 if side == "near" else -0.34
    thick = 0.17 if length > 1.2 else 0.14
    for k in range(4):
        rad = math.radians(angle)
        step = length / 4
        end = (x + step * math.cos(rad), y + step * math.sin(rad), z * 1.12)
        parts.append(
            Part(
                f"{side} horn {k}",
                f"{side} horn",
                at(x, y, z),
                at(*end),
                r * thick * (1 - 0.22 * k),
                r * thick * (0.78 - 0.22 * k),
                0.01,
            )
        )
        x, y, z = end
        angle += v["horn_curl"]


@lru_cache(maxsize=64)
def standing(species: Species) -> Rig:
    """The usual body of a species, standing: where the sheet is laid out."""
    return rig_of(species.mean, Pose())
