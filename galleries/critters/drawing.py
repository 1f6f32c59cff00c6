"""An animal in a scene, as a photo: capsules → relief → coat → light → lens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from galleries.critters.coats import PX, Sheet, coat_of, sheet_of
from galleries.critters.fields import Floats, capsule, step
from galleries.critters.rig import GROUPS, Part, Point, Rig, rig_of
from galleries.critters.scenes import Scene
from galleries.critters.species import Individual, Species

if TYPE_CHECKING:
    from collections.abc import Callable

_NOWHERE = np.float32(1e4)
_FUR = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
_FUR = 0.5 * (_FUR + np.roll(_FUR, 1, 1) + np.roll(_FUR, 2, 1) + np.roll(_FUR, 3, 1))
_DIMMED = {"far leg": 0.66, "far foot": 0.6, "far ear": 0.78, "far horn": 0.75, "tail": 0.92}


@dataclass(frozen=True)
class Layer:
    """The animal alone.

    Attributes:
        colour: `[side, side, 3]` sRGB in [0, 1], multiplied by `cover`.
        cover: `[side, side]` in [0, 1].
    """

    colour: Floats
    cover: Floats


@dataclass(frozen=True)
class _Flat:
    """A part on the picture, in pixels, y down."""

    part: Part
    index: int
    a: tuple[float, float]
    b: tuple[float, float]
    ra: float
    rb: float
    za: float
    zb: float
    smooth: float

    def box(self, side: int, margin: float) -> tuple[int, int, int, int]:
        """Rows and columns: first, past the last."""
        more = margin + self.smooth
        x0, x1 = (
            min(self.a[0] - self.ra, self.b[0] - self.rb) - more,
            max(self.a[0] + self.ra, self.b[0] + self.rb) + more,
        )
        y0, y1 = (
            min(self.a[1] - self.ra, self.b[1] - self.rb) - more,
            max(self.a[1] + self.ra, self.b[1] + self.rb) + more,
        )

        def within(value: float) -> int:
            return min(max(int(value), 0), side)

        return within(y0), within(y1 + 1), within(x0), within(x1 + 1)


class Camera:
    """Where a scene's camera puts places of the body: parallel projection.

    The picture is fitted to the usual animal of the species, so that a large individual is larger in it.
    """

    def __init__(self, species: Species, scene: Scene, side: int) -> None:
        yaw, pitch, roll = (math.radians(angle) for angle in (scene.yaw, scene.pitch, scene.roll))
        cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (math.cos, math.sin))
        turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        tip = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        lean = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        self.matrix = lean @ tip @ turn
        rig = rig_of(species.mean, scene.pose)
        ends = np.array([end for part in rig.parts for end in (part.a, part.b)]) @ self.matrix.T
        radii = np.array([radius for part in rig.parts for radius in (part.ra, part.rb)])
        left, right = float((ends[:, 0] - radii).min()), float((ends[:, 0] + radii).max())
        low, high = float((ends[:, 1] - radii).min()), float((ends[:, 1] + radii).max())
        room = scene.ground - 0.04
        self.scale = side * min(scene.fill / max(right - left, 0.8 * (high - low)), room / (high - low))
        shift = scene.x - 0.5 if scene.viewpoint == "right" else 0.5 - scene.x
        slack = max(0.0, 0.5 - 0.5 * (right - left) * self.scale / side + 0.03)
        self.x0 = side * (0.5 + min(max(shift, -slack), slack)) - self.scale * (left + right) / 2
        self.y0 = side * scene.ground + self.scale * low

    def __call__(self, point: Point) -> tuple[float, float, float]:
        """x and y in pixels, y down; z towards the viewer, in pixels."""
        x, y, z = (float(row[0] * point[0] + row[1] * point[1] + row[2] * point[2]) for row in self.matrix)
        return self.x0 + self.scale * x, self.y0 - self.scale * y, self.scale * z


def draw_layer(
    individual: Individual, scene: Scene, side: int, light: Floats
) -> tuple[Layer, list[tuple[float, float, float]]]:
    """The animal of a scene facing right, on a square of so many pixels.

    Args:
        light: `[3]` direction towards the light: right, up, towards the viewer.

    Returns:
        the animal; x, y and radius of the sole of each foot, in pixels.
    """
    camera = Camera(individual.species, scene, side)
    rig = rig_of(individual, scene.pose)
    flats = [_flat(k, part, camera) for k, part in enumerate(rig.parts)]
    layer = Layer(np.zeros((side, side, 3), dtype=np.float32), np.zeros((side, side), dtype=np.float32))
    painter = _Painter(individual, scene, camera, rig, layer, light)
    for group in GROUPS:
        own = [flat for flat in flats if flat.part.group == group]
        if own:
            painter.paint(group, own)
        if group == "foot":
            painter.face()
    soles = [flat for flat in flats if flat.part.name.endswith(("hoof", "paw"))]
    return layer, [((f.a[0] + f.b[0]) / 2, max(f.a[1] + f.ra, f.b[1] + f.rb) - 0.3 * f.rb, f.rb) for f in soles]


def _flat(index: int, part: Part, camera: Camera) -> _Flat:
    (ax, ay, az), (bx, by, bz) = camera(part.a), camera(part.b)
    scale = camera.scale
    return _Flat(part, index, (ax, ay), (bx, by), part.ra * scale, part.rb * scale, az, bz, part.smooth * scale)


class _Painter:
    def __init__(
        self, individual: Individual, scene: Scene, camera: Camera, rig: Rig, layer: Layer, light: Floats
    ) -> None:
        self.individual, self.scene, self.camera, self.rig, self.layer, self.light = (
            individual, scene, camera, rig, layer, light,
        )  # fmt: skip
        self.side = layer.cover.shape[0]
        self.sheet, self.coat = sheet_of(individual.species), coat_of(individual)
        self.colours = individual.colours

    def paint(self, group: str, flats: Sequence[_Flat]) -> None:
        """Blend the parts of a group, and paint what they cover."""
        boxes = [flat.box(self.side, 2.0) for flat in flats]
        top, bottom = min(b[0] for b in boxes), max(b[1] for b in boxes)
        left, right = min(b[2] for b in boxes), max(b[3] for b in boxes)
        if bottom <= top or right <= left:
            return
        shape = (bottom - top, right - left)
        distance, height = np.full(shape, _NOWHERE), np.full(shape, -_NOWHERE)
        u, v = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
        for flat, (y0, y1, x0, x1) in zip(flats, boxes, strict=True):
            if y1 <= y0 or x1 <= x0:
                continue
            here = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
            x = np.arange(x0, x1, dtype=np.float32)[None, :] + np.float32(0.5)
            y = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5)
            self._blend(flat, x, y, distance[here], height[here], u[here], v[here])
        if group.endswith("ear"):
            self._notch(group.split()[0], distance, top, left)
        rows, columns = np.nonzero(distance < 1.0)
        if not rows.size:
            return
        own_u, own_v = u[rows, columns], v[rows, columns]
        fur = _FUR[(own_v * 170).astype(np.int32) & 255, (own_u * 110).astype(np.int32) & 255]
        is_soft = not group.endswith(("foot", "horn"))
        fuzz = fur * np.float32(0.0014 * self.camera.scale) if is_soft else 0
        cover = np.clip(0.5 - distance[rows, columns] + fuzz, 0, 1)
        colour = self._albedo(group, own_u, own_v, fur)
        lit = self._lit(distance, height, rows, columns, group)
        self._over(rows + top, columns + left, np.clip(colour * lit, 0, 1), cover)

    def _blend(self, flat: _Flat, x: Floats, y: Floats, distance: Floats, height: Floats, u: Floats, v: Floats) -> None:
        """Add a part to a group's fields, in place."""
        own, s, along, across, radius, bulge = capsule(x, y, flat.a, flat.b, flat.ra, flat.rb)
        k = np.float32(max(flat.smooth, 1.0))
        near = np.clip(np.float32(0.5) + (distance - own) * (np.float32(0.5) / k), 0, 1)
        distance += near * (own - distance) - k * near * (1 - near)

        z = (
            np.float32(flat.za)
            + s * np.float32(flat.zb - flat.za)
            + np.sqrt(np.maximum(bulge, 0))
            - 3 * np.maximum(own, 0)
        )
        near = np.clip(np.float32(0.5) + (z - height) * (np.float32(0.5) / k), 0, 1)
        height += near * (z - height) + k * near * (1 - near)

        # Its place on the sheet: as far along and across, stretched towards the rim as on a round limb.
        (ax, ay), (bx, by) = self.sheet.places[flat.index]
        part = flat.part
        t = np.clip(across / radius, -1.3, 1.3)
        t = -t * (np.float32(0.86) + np.float32(0.2) * t * t)  # the picture's y points down, the sheet's up
        rest = max(math.hypot(bx - ax, by - ay), 1e-3)
        wide = t * (np.float32(part.ra) + s * np.float32(part.rb - part.ra)) * np.float32(1 / rest)
        length = max(math.hypot(flat.b[0] - flat.a[0], flat.b[1] - flat.a[1]), 1e-3)
        # Foreshortened ends do not stretch: what lies beyond an end is measured in the body's own lengths.
        along = s + (along - s) * np.float32(length / self.camera.scale / rest)
        u += near * (np.float32(ax) + along * np.float32(bx - ax) - wide * np.float32(by - ay) - u)
        v += near * (np.float32(ay) + along * np.float32(by - ay) + wide * np.float32(bx - ax) - v)

    def _notch(self, side: str, distance: Floats, top: int, left: int) -> None:
        """Cut the individual's notch into the back edge of an ear."""
        places = self.individual.notches
        place, depth = places[:2] if side == "near" else places[2:]
        if depth <= 0:
            return
        (ax, ay, _), (bx, by, _) = (self.camera(self.rig.points[f"{side} ear {end}"]) for end in ("base", "tip"))
        wide = 0.5 * self.individual.body["ear_width"] * self.rig.head * self.camera.scale
        length = max(math.hypot(bx - ax, by - ay), 1e-3)
        nx, ny = (by - ay) / length, -(bx - ax) / length
        if nx > 0:
            nx, ny = -nx, -ny
        x = (
            np.arange(left, left + distance.shape[1], dtype=np.float32)[None, :]
            + 0.5
            - (ax + place * (bx - ax) + nx * wide)
        )
        y = (
            np.arange(top, top + distance.shape[0], dtype=np.float32)[:, None]
            + 0.5
            - (ay + place * (by - ay) + ny * wide)
        )
        cut = np.float32(min(depth, 1.0) * wide) - np.sqrt(x * x + y * y)
        np.maximum(distance, cut, out=distance)

    def _albedo(self, group: str, u: Floats, v: Floats, fur: Floats) -> Floats:
        """Colours of a group's pixels before light."""
        coat, marks, pale, horn = self.colours
        if group in ("foot", "far foot"):
            return np.broadcast_to(horn, (u.size, 3))
        if group.endswith("horn"):
            rings = 1 + 0.12 * np.sin((u + v) * 140)
            return np.asarray(horn * np.float32(0.5) * rings[:, None] + pale * np.float32(0.38))
        if group == "mane":
            return np.asarray(marks * (1 + 0.16 * np.sin(170 * u + 40 * v) + 0.1 * fur)[:, None])
        field = _sampled(self.coat, self.sheet, u, v)
        soft = max(0.9 / self.camera.scale, 0.006)
        white_soft = max(soft, 0.012)
        shade = field[:, 2:3]
        colour = coat + (pale - coat) * np.maximum(shade, 0)
        colour = colour + (0.45 * coat + 0.4 * marks - colour) * np.maximum(-shade, 0)
        colour += (marks - colour) * field[:, 3:4]
        ink = pale if self.individual.species.coat == "dapples" else marks
        wavy = field[:, 0] + np.float32(0.0035) * fur
        colour += (ink - colour) * (np.float32(0.94) * step(wavy, -soft, soft))[:, None]
        colour += (pale - colour) * step(field[:, 1] + np.float32(0.004) * fur, -white_soft, white_soft)[:, None]
        return np.asarray(colour * (1 + np.float32(0.032) * fur)[:, None])

    def _lit(
        self, distance: Floats, height: Floats, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], group: str
    ) -> Floats:
        """`[n, 3]`: how much light a group's pixels send back."""
        h, w = height.shape
        below, above = np.minimum(rows + 1, h - 1), np.maximum(rows - 1, 0)
        after, before = np.minimum(columns + 1, w - 1), np.maximum(columns - 1, 0)
        limit = np.float32(2.6)
        slope_x = np.clip((height[rows, after] - height[rows, before]) * np.float32(0.5), -limit, limit)
        slope_y = np.clip((height[below, columns] - height[above, columns]) * np.float32(0.5), -limit, limit)
        norm = 1 / np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
        nx, ny = -slope_x * norm, slope_y * norm  # y up
        light, scene = self.light, self.scene.light
        direct = np.clip((nx * light[0] + ny * light[1] + norm * light[2]) * np.float32(0.8) + np.float32(0.2), 0, None)
        sky = np.float32(0.66) + np.float32(0.34) * ny
        strength = np.float32(scene.strength)
        warm = np.array([1.06, 1.0, 0.9], dtype=np.float32) * (0.86 * strength)
        cool = np.array([0.96, 1.0, 1.05], dtype=np.float32) * (1.1 - 0.5 * strength)
        lit = direct[:, None] * warm + sky[:, None] * cool
        return np.asarray(lit * np.float32(_DIMMED.get(group, 1.0)))

    def _over(self, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], colour: Floats, cover: Floats) -> None:
        left = 1 - cover
        self.layer.colour[rows, columns] = self.layer.colour[rows, columns] * left[:, None] + colour * cover[:, None]
        self.layer.cover[rows, columns] = self.layer.cover[rows, columns] * left + cover

    def face(self) -> None:
        """Eye, nose and mouth."""
        head = self.rig.head * self.camera.scale
        horn = self.colours[3] * np.float32(0.75)
        self._blob(self.camera(self.rig.points["nose"]), 0.27 * head, 0.22 * head, horn)
        start, end = self.camera(self.rig.points["mouth"]), self.camera(self.rig.points["mouth end"])
        self._line(start, end, 0.035 * head + 0.25, horn * np.float32(0.6))
        eye = self.camera(self.rig.points["eye"])
        size = 0.2 * head * self.individual.body["eye"]
        dark = np.array([0.06, 0.05, 0.05], dtype=np.float32)
        iris = np.array(self.individual.iris, dtype=np.float32)
        self._blob(eye, 1.32 * size, 1.18 * size, dark)
        self._blob(eye, size, size, iris * np.float32(0.95))
        self._blob(eye, 0.56 * size, 0.6 * size, dark)
        shine = (eye[0] + 0.3 * size * (1 if self.light[0] > 0 else -1), eye[1] - 0.38 * size, 0.0)
        self._blob(shine, 0.26 * size, 0.26 * size, np.array([0.97, 0.97, 0.95], dtype=np.float32))

    def _blob(self, at: Point, rx: float, ry: float, colour: Floats) -> None:
        r = max(rx, ry)

        def field(x: Floats, y: Floats) -> Floats:
            return np.asarray((np.hypot((x - at[0]) / rx, (y - at[1]) / ry) - 1) * np.float32(min(rx, ry)))

        self._ink(at[0] - r, at[1] - r, at[0] + r, at[1] + r, field, colour)

    def _line(self, a: Point, b: Point, r: float, colour: Floats) -> None:
        def field(x: Floats, y: Floats) -> Floats:
            return capsule(x, y, a[:2], b[:2], r, 0.6 * r)[0]

        self._ink(min(a[0], b[0]) - r, min(a[1], b[1]) - r, max(a[0], b[0]) + r, max(a[1], b[1]) + r, field, colour)

    def _ink(
        self, x0: float, y0: float, x1: float, y1: float, field: "Callable[[Floats, Floats], Floats]", colour: Floats
    ) -> None:
        """Colour what lies inside a field, on the animal only."""
        left, right = (min(max(int(value), 0), self.side) for value in (x0 - 1, x1 + 2))
        top, bottom = (min(max(int(value), 0), self.side) for value in (y0 - 1, y1 + 2))
        if right <= left or bottom <= top:
            return
        x = np.arange(left, right, dtype=np.float32)[None, :] + np.float32(0.5)
        y = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5)
        here = (slice(top, bottom), slice(left, right))
        cover = self.layer.cover[here]
        strong = np.clip(0.5 - field(x, y), 0, 1) * cover
        self.layer.colour[here] += strong[..., None] * (
            colour - self.layer.colour[here] / np.maximum(cover, 1e-3)[..., None]
        )


def _sampled(coat: Floats, sheet: Sheet, u: Floats, v: Floats) -> Floats:
    """`[n, 4]` the coat at places of the sheet, bilinear."""
    rows, columns = sheet.shape
    x = np.clip((u - np.float32(sheet.left)) * np.float32(PX), 0, columns - 1.001)
    y = np.clip((np.float32(sheet.top) - v) * np.float32(PX), 0, rows - 1.001)
    c, r = x.astype(np.int32), y.astype(np.int32)
    fx, fy = (x - c)[:, None], (y - r)[:, None]
    flat = coat.reshape(-1, 4)
    at = r * columns + c
    upper = flat[at] * (1 - fx) + flat[at + 1] * fx
    lower = flat[at + columns] * (1 - fx) + flat[at + columns + 1] * fx
    return upper * (1 - fy) + lower * fy  # type: ignore[no-any-return]
