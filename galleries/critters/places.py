"""Backgrounds: somewhere with a horizon, out of focus, of a kind and a seed."""

from collections.abc import Callable

import numpy as np

from galleries.critters.fields import Floats, clouds, step
from galleries.critters.scenes import Scene

Rng = np.random.Generator


def background(scene: Scene, size: int) -> Floats:
    """`[size, size, 3]` sRGB in [0, 1], before light and lens."""
    rng = np.random.default_rng([6, scene.place_seed])
    # Drawn wider than the picture, which is a part of it: photos of one encounter pan over the same place.
    wide = int(size * 1.3)
    x = np.linspace(0, 1.3, wide, dtype=np.float32)[None, :]
    y = np.linspace(0, 1, size, dtype=np.float32)[:, None]
    shape = (size, wide)
    picture = _PLACES[scene.place](rng, x, y, np.float32(scene.horizon), shape)
    if scene.place in _CLUTTER:
        picture = _clutter(rng, picture, x, y, scene.horizon, _CLUTTER[scene.place])
    # Light and shade of clouds and trees that are not in the picture.
    dapple = clouds(rng, shape, (2.5, 3.5), 3)
    picture *= np.exp(np.float32(rng.uniform(0.03, 0.17)) * dapple)[..., None]
    left = min(int(scene.pan * size), wide - size)
    return np.asarray(picture[:, left : left + size])


def _rgb(text: str) -> Floats:
    return np.array([int(text[i : i + 2], 16) / 255 for i in (0, 2, 4)], dtype=np.float32)


def _varied(rng: Rng, text: str, spread: float = 0.06) -> Floats:
    rgb = _rgb(text) * np.exp(rng.normal(0, spread) + rng.normal(0, spread / 4, 3))
    return np.clip(rgb, 0, 1).astype(np.float32)


def _mix(low: Floats, high: Floats, t: Floats) -> Floats:
    """Colour, or picture, `low` where t is 0 and `high` where it is 1."""
    result: Floats = low + (high - low) * np.clip(t, 0, 1)[..., None]
    return result


def _sky(rng: Rng, top: str, low: str, y: Floats, horizon: np.float32, shape: tuple[int, int]) -> Floats:
    sky = _mix(
        _varied(rng, top, 0.08),
        _varied(rng, low, 0.05),
        y / np.maximum(horizon, np.float32(0.05)) + np.zeros(shape, np.float32),
    )
    veil = clouds(rng, shape, (3, 3), 4)
    return _mix(sky, _rgb("f4f4f2"), step(veil, rng.uniform(-0.5, 1.0), 2.4) * np.float32(rng.uniform(0.2, 0.9)))


def _ridge(rng: Rng, x: Floats, cells: float, height: float, rough: float = 0.5) -> Floats:
    """A skyline over x: heights in [0, height]."""
    line = np.zeros_like(x)
    for k in range(5):
        f = cells * 2**k
        line += rough**k * np.sin(2 * np.pi * f * x + rng.uniform(0, 6.28)) * np.float32(rng.uniform(0.5, 1))
    result: Floats = np.float32(height) * (0.5 + 0.28 * line)
    return result


def _over(picture: Floats, colour: Floats, edge: Floats, y: Floats, soft: float = 0.012) -> Floats:
    """Fill all that lies below the line `edge`."""
    return _mix(picture, colour, step(y - edge, -soft, soft))


def _ground(
    rng: Rng, near: str, far: str, y: Floats, horizon: np.float32, shape: tuple[int, int], grain: float
) -> Floats:
    """A plain in perspective, mottled finer towards the horizon."""
    depth = np.clip((y - horizon) / (1 - horizon), 0, 1) + np.zeros(shape, np.float32)
    ground = _mix(_varied(rng, far), _varied(rng, near), depth**0.7)
    coarse = clouds(rng, shape, (9, 4), 3)
    rows = (shape[0] - 1) * np.clip(
        1 - (1 - horizon) * 0.35 / (np.clip(y[:, 0] - horizon, 0, 1) + 0.35 * (1 - horizon)), 0, 1
    )
    squeezed = coarse[rows.astype(int)]
    fine = clouds(rng, shape, (shape[0] / 5, shape[1] / 7), 1)
    result: Floats = ground * (1 + grain * (0.7 * squeezed + 0.35 * fine * depth))[..., None]
    return result


def _blades(rng: Rng, picture: Floats, colours: tuple[str, str], y: Floats, horizon: np.float32, much: float) -> Floats:
    """Vertical strokes of grass that grow longer towards the viewer."""
    shape = picture.shape[:2]
    depth = np.clip((y - horizon) / (1 - horizon), 0, 1)
    near = clouds(rng, shape, (shape[0] / 14, shape[1] / 2.2), 1)
    far = clouds(rng, shape, (shape[0] / 5, shape[1] / 2.2), 1)
    strokes = near * depth + far * (1 - depth)
    strong = np.float32(much) * step(depth + np.zeros(shape, np.float32), 0.0, 0.25)
    lit = _mix(picture, _varied(rng, colours[0]), strong * step(strokes, 0.2, 1.8))
    return _mix(lit, _varied(rng, colours[1]), strong * step(-strokes, 0.3, 1.8))


def _discs(
    rng: Rng,
    picture: Floats,
    x: Floats,
    y: Floats,
    n: int,
    colours: tuple[str, ...],
    low: float,
    high: float,
    soft: float,
    top: float,
    base: float,
) -> Floats:
    """Round blots: flowers, leaves against the light, pebbles."""
    for _ in range(n):
        r, cx, cy = rng.uniform(low, high), rng.uniform(0, 1.3), rng.uniform(top, max(base, top))
        colour = _varied(rng, str(rng.choice(colours)))
        strong = rng.uniform(0.35, 0.9)
        rows = slice(max(0, int((cy - r - soft) * len(y))), int((cy + r + soft) * len(y)) + 1)
        columns = slice(max(0, int((cx - r - soft) / 1.3 * x.size)), int((cx + r + soft) / 1.3 * x.size) + 1)
        off = np.hypot(x[:, columns] - np.float32(cx), y[rows] - np.float32(cy))
        picture[rows, columns] = _mix(
            picture[rows, columns], colour, np.float32(strong) * step(np.float32(r) - off, -soft, soft)
        )
    return picture


_CLUTTER = {  # what lies about: colours of bushes, rocks, tufts; how many at most
    "meadow": (("54703a", "6d8a45", "3e5a2e", "8a8577"), 7),
    "savanna": (("7d7440", "a48a4c", "8c7b55", "6a5f3c"), 7),
    "forest": (("3f5530", "55442f", "6d7b40", "4a3b2c"), 8),
    "snow": (("6d7a7c", "8f9799", "56605f", "c3ccd4"), 5),
    "sand": (("8f8450", "b08a58", "a2946a", "7f6c4c"), 5),
    "shore": (("7d786f", "9a9284", "6f6a45", "b6a888"), 6),
    "rocks": (("6e6a63", "8b867c", "5c5f4a", "a09a8e"), 9),
}


def _clutter(
    rng: Rng, picture: Floats, x: Floats, y: Floats, horizon: float, what: tuple[tuple[str, ...], int]
) -> Floats:
    """Bushes, rocks and tufts behind the animal."""
    colours, most = what
    rough = clouds(rng, picture.shape[:2], (11, 14), 3)
    start = max(horizon, -0.05)
    feet = np.sort(rng.uniform(start, start + 0.55 * (1 - start), int(rng.integers(0, most + 1))))  # far ones first
    for foot in feet:
        depth = 0.25 + (foot - horizon) / (1 - horizon)
        cx, w = rng.uniform(0, 1.3), depth * rng.uniform(0.05, 0.22)
        h = w * rng.uniform(0.5, 1.3)
        colour = _varied(rng, str(rng.choice(colours)), 0.12)
        rows = slice(max(0, int((foot - 1.25 * h) * len(y))), max(0, int((foot + 0.3 * h) * len(y)) + 1))
        columns = slice(max(0, int((cx - 1.5 * w) / 1.3 * x.size)), max(0, int((cx + 1.5 * w) / 1.3 * x.size) + 1))
        here = picture[rows, columns]
        if not here.size:
            continue
        dx, up = (x[:, columns] - np.float32(cx)) / np.float32(w), (np.float32(foot) - y[rows]) / np.float32(h)
        own = rough[rows, columns]
        inside = 1 - dx * dx - np.where(up > 0, up * up, 30 * up * up) + np.float32(0.35) * own
        lit = (np.float32(0.72) + np.float32(0.42) * np.clip(up, 0, 1) + np.float32(0.12) * own)[..., None]
        picture[rows, columns] = here + (colour * lit - here) * step(inside, -0.05, 0.3)[..., None]
    return picture


def _meadow(rng: Rng, x: Floats, y: Floats, horizon: np.float32, shape: tuple[int, int]) -> Floats:
    picture = _sky(rng, "7fa9d8", "dbe6ee", y, horizon, shape)
    picture = _over(picture, _varied(rng, "8fa68f"), horizon - _ridge(rng, x, 0.9, 0.09), y)
    picture = _over(
        picture, _varied(rng, "4f6b3c", 0.12), horizon - _ridge(rng, x, 2.3, rng.uniform(0.02, 0.16), 0.65), y
    )
    ground = _ground(rng, "5d7a35", "93a558", y, horizon, shape, 0.10)
    ground = _blades(rng, ground, ("a9bd63", "3f5a26"), y, horizon, 0.7)
    if rng.random() < 0.5:
        colours = ("f2e36a", "f5f0ea", "c9a3d8", "e58a7a")
        two = tuple(str(c) for c in rng.choice(colours, 2))
        ground = _discs(rng, ground, x, y, 60, two, 0.003, 0.008, 0.004, float(horizon) + 0.12, 1.0)
    return _mix(picture, ground, step(y - horizon + np.zeros(shape, np.float32), -0.008, 0.008))


def _savanna(rng: Rng, x: Floats, y: Floats, horizon: np.float32, shape: tuple[int, int]) -> Floats:
    picture = _sky(rng, "9dbbd6", "f0dfc0", y, horizon, shape)
    picture = _over(picture, _varied(rng, "b5a48c"), horizon - _ridge(rng, x, 0.7, 0.07), y)
    for _ in range(int(rng.integers(0, 4))):  # acacias: flat crowns
        cx, w, h = rng.uniform(0, 1.3), rng.uniform(0.08, 0.22), rng.uniform(0.1, 0.24)
        crown = (
            1 - ((x - cx) / w) ** 2 - ((y - (horizon - h)) / (0.22 * w)) ** 2 + 0.35 * clouds(rng, shape, (14, 18), 2)
        )
        trunk = (
            np.minimum(0.009 - np.abs(x - cx - 0.1 * (horizon - y)), np.minimum(y - horizon + h, horizon + 0.01 - y))
            * 60
        )
        picture = _mix(
            picture, _varied(rng, "6f7046", 0.1), step(np.maximum(crown, trunk).astype(np.float32), -0.1, 0.35)
        )
    ground = _ground(rng, "b08f4f", "cdb87c", y, horizon, shape, 0.10)
    ground = _blades(rng, ground, ("dfc98a", "8a6a36"), y, horizon, 0.75)
    return _mix(picture, ground, step(y - horizon + np.zeros(shape, np.float32), -0.008, 0.008))


def _forest(rng: Rng, x: Floats, y: Floats, horizon: np.float32, shape: tuple[int, int]) -> Floats:
    picture = _mix(
        _varied(rng, "33452c", 0.12), _varied(rng, "6f8a4c", 0.12), 0.5 + 0.35 * clouds(rng, shape, (4, 5), 4)
    )
    for _ in range(int(rng.integers(3, 9))):
        cx, w, lean = rng.uniform(0, 1.3), rng.uniform(0.012, 0.05), rng.normal(0, 0.06)
        trunk = np.float32(w) - np.abs(x - np.float32(cx) - np.float32(lean) * y)
        picture = _mix(
            picture, _varied(rng, "3d3128", 0.2), np.float32(rng.uniform(0.4, 0.9)) * step(trunk, -0.012, 0.012)
        )
    lights = ("dfe9a8", "f4f2c8", "b7cf7a", "e8e6d0")
    picture = _discs(
        rng, picture, x, y, int(rng.integers(12, 45)), lights, 0.012, 0.05, 0.006, 0.0, float(horizon) + 0.05
    )
    earth, litter = ("4d5a30", "6d7a44") if rng.random() < 0.5 else ("6b5238", "857049")
    ground = _ground(rng, earth, litter, y, horizon + np.float32(0.08), shape, 0.2)
    return _mix(picture, ground, step(y - horizon - 0.08 + np.zeros(shape, np.float32), -0.04, 0.05))


def _snow(rng: Rng, x: Floats, y: Floats, horizon: np.float32, shape: tuple[int, int]) -> Floats:
    picture = _sky(rng, "a9bccd", "e3e8ec", y, horizon, shape)
    picture = _over(picture, _varied(rng, "b9c6d1"), horizon - _ridge(rng, x, 0.8, 0.16), y)
    teeth = np.abs(((x * rng.uniform(14, 24) + rng.uniform()) % 1) - 0.5)
    firs = horizon + 0.02 - _ridge(rng, x, 1.6, 0.07) - np.float32(rng.uniform(0, 0.16)) * (0.5 - teeth)
    picture = _over(picture, _varied(rng, "55686a", 0.12), firs, y)
    ground = _ground(rng, "dde3ea", "eef1f4", y, horizon, shape, 0.035)
    return _mix(picture, ground, step(y - horizon - 0.02 + np.zeros(shape, np.float32), -0.012, 0.012))


def _sand(rng: Rng, x: Floats, y: Floats, horizon: np.float32, shape: tuple[int, int]) -> Floats:
    picture = _sky(rng, "8fb3d9", "e9dcc3", y, horizon, shape)
    for k in range(3):
        edge = horizon - 0.1 + 0.06 * k - _ridge(rng, x, 0.5, 0.1, 0.35)
        lit = 0.5 + 0.5 * np.sin(2 * np.pi * (x * rng.uniform(0.8, 1.6) + rng.uniform()) + 6 * y)
        dune = _mix(_varied(rng, "b98d57"), _varied(rng, "e0bd86"), lit)
        picture = _mix(picture, dune, step(y - edge, -0.006, 0.006))
    ground = _ground(rng, "cfa56c", "dab883", y, horizon, shape, 0.045)
    ripples = np.sin(
        2 * np.pi * (x * 2 + 60 * np.sqrt(np.clip(y - horizon, 0, 1)) + 0.5 * clouds(rng, shape, (4, 3), 2))
    )
    ground = ground * (1 + 0.035 * ripples)[..., None]
    return _mix(picture, ground, step(y - horizon - 0.02 + np.zeros(shape, np.float32), -0.02, 0.02))


def _indoor(rng: Rng, x: Floats, y: Floats, horizon: np.float32, shape: tuple[int, int]) -> Floats:
    floor = horizon + np.float32(0.16)
    wall = _varied(rng, str(rng.choice(["d8d0c0", "a9b7ae", "c9a98f", "8d9bab", "e3dfd6", "b98d84"])), 0.08)
    picture = np.broadcast_to(wall, (*shape, 3)) * (1.05 - 0.12 * y + 0.015 * clouds(rng, shape, (5, 6), 3))[..., None]
    if rng.random() < 0.6:  # a window, or a picture
        cx, w, h = rng.uniform(0.1, 1.2), rng.uniform(0.1, 0.2), rng.uniform(0.1, 0.2)
        inside = np.minimum(w - np.abs(x - cx), h - np.abs(y - horizon * 0.4)).astype(np.float32)
        picture = _mix(picture, _varied(rng, "f3efe6", 0.03), step(inside, -0.03, -0.02))
        panes = inside - 0.02 * (np.abs(x - cx) < 0.008)
        picture = _mix(
            picture, _varied(rng, str(rng.choice(["bfd3e6", "53606b", "9db08c"])), 0.1), step(panes, 0, 0.008)
        )
    if rng.random() < 0.6:  # a sofa, a chest, a curtain
        cx, w, top = rng.uniform(0, 1.3), rng.uniform(0.12, 0.4), floor - rng.uniform(0.12, 0.4)
        inside = np.minimum(w - np.abs(x - cx), y - top).astype(np.float32)
        stuff = _varied(rng, str(rng.choice(["7a4f3a", "4d5d70", "8a8f6f", "6b3f45", "b59b74"])), 0.1)
        picture = _mix(picture, stuff, step(inside, -0.01, 0.01))
    picture = _over(picture, _varied(rng, "e8e3da", 0.04), np.zeros_like(x) + floor - 0.035, y, 0.004)
    boards = _varied(rng, str(rng.choice(["a97b4f", "7d5a3c", "c2a27a", "8d8a86"])), 0.08)
    depth = np.clip(y - floor, 0, 1) + np.float32(0.12)
    planks = (x - 0.65) / depth * np.float32(0.42) + 50
    number = np.floor(planks).astype(int)
    tone = rng.normal(1, 0.05, 200).astype(np.float32)[number % 200]
    seams = 1 - 0.25 * step(np.abs(planks - number - 0.5), 0.47, 0.5)
    ground = boards * (tone * seams * (1 + 0.03 * clouds(rng, shape, (30, 5), 2)))[..., None]
    if rng.random() < 0.5:
        rug = _varied(rng, str(rng.choice(["8a3f3a", "44566b", "c9bda6", "5f6f55"])), 0.1)
        inside = 1 - ((x - rng.uniform(0.4, 0.9)) / 0.5) ** 2 - ((y - 0.9) / 0.13) ** 2
        ground = _mix(ground, rug, 0.95 * step(inside.astype(np.float32), 0, 0.06))
    return _mix(
        picture.astype(np.float32),
        ground.astype(np.float32),
        step(y - floor + np.zeros(shape, np.float32), -0.004, 0.004),
    )


def _shore(rng: Rng, x: Floats, y: Floats, horizon: np.float32, shape: tuple[int, int]) -> Floats:
    picture = _sky(rng, "88aed6", "e6e4dc", y, horizon, shape)
    picture = _over(
        picture, _varied(rng, "7f92a0"), horizon + 0.004 - np.maximum(0, _ridge(rng, x, 0.6, 0.1) - 0.04), y
    )
    water = _ground(rng, "5f8fa0", "7fa3b5", y, horizon, shape, 0.06)
    glints = clouds(rng, shape, (shape[0] / 3, shape[1] / 16), 1)
    water = _mix(water, _rgb("e6f0f2"), 0.5 * step(glints, 1.0, 2.2))
    picture = _mix(picture, water, step(y - horizon + np.zeros(shape, np.float32), -0.004, 0.004))
    edge = horizon + np.float32(rng.uniform(0.1, 0.22)) + _ridge(rng, x, 0.7, 0.04)
    picture = _over(picture, _rgb("eef3f2"), edge - 0.012, y, 0.008)
    ground = _ground(rng, "c2ab86", "a08c6c", y, horizon, shape, 0.06)
    if rng.random() < 0.5:
        ground = _discs(
            rng, ground, x, y, 40, ("8d8880", "b8b2a6", "6a665f"), 0.004, 0.012, 0.003, float(horizon) + 0.3, 1.0
        )
    return _mix(picture, ground, step(y - edge, -0.006, 0.006))


def _rocks(rng: Rng, x: Floats, y: Floats, horizon: np.float32, shape: tuple[int, int]) -> Floats:
    picture = _sky(rng, "8ea6bd", "d5dadc", y, horizon, shape)
    peaks = horizon - _ridge(rng, x, 1.1, rng.uniform(0.2, 0.4), 0.6)
    face = _mix(_varied(rng, "6f7178"), _varied(rng, "a3a19d"), 0.5 + 0.4 * clouds(rng, shape, (5, 9), 4))
    picture = _mix(picture, face, step(y - peaks, -0.01, 0.01))
    if rng.random() < 0.5:
        picture = _over(picture, _varied(rng, "5d6b4a", 0.1), horizon - _ridge(rng, x, 1.9, 0.06, 0.6), y)
    ground = _ground(rng, "7d766b", "938d82", y, horizon, shape, 0.16)
    ground = _discs(
        rng, ground, x, y, 30, ("8f8a80", "6c675f", "a7a196"), 0.008, 0.035, 0.006, float(horizon) + 0.06, 1.0
    )
    if rng.random() < 0.4:
        ground = _blades(rng, ground, ("8d9160", "565c3a"), y, horizon, 0.4)
    return _mix(picture, ground, step(y - horizon + np.zeros(shape, np.float32), -0.012, 0.012))


_PLACES: dict[str, Callable[[Rng, Floats, Floats, np.float32, tuple[int, int]], Floats]] = {
    "meadow": _meadow, "savanna": _savanna, "forest": _forest, "snow": _snow, "sand": _sand, "indoor": _indoor,
    "shore": _shore, "rocks": _rocks,
}  # fmt: skip
