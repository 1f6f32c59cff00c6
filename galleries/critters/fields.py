"""Smooth noise, tapered capsules: what pictures are made of. Float32 throughout."""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.floating[Any]]


def grown(grid: npt.ArrayLike, shape: tuple[int, int]) -> Floats:
    """A coarse grid as a smooth field of `shape` (rows, columns)."""
    image = Image.fromarray(np.asarray(grid, dtype=np.float32))
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


def clouds(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[float, float], octaves: int = 4) -> Floats:
    """Noise of unit spread, of `shape`, with so many cells down and across in the coarsest octave."""
    own = np.random.default_rng(int(rng.integers(2**62)))  # what comes after does not depend on the shape
    total = np.zeros(shape, dtype=np.float32)
    norm = 0.0
    for k in range(octaves):
        rows, columns = (max(2, round(n * 2**k)) for n in cells)
        strength = 0.55**k
        noise = own.standard_normal((rows, columns), dtype=np.float32)
        if rows > 2 * shape[0] or columns > 2 * shape[1]:
            break
        total += strength * grown(noise, shape)
        norm += strength**2
    result: Floats = total / np.float32(0.7 * norm**0.5)
    return result


def step(x: Floats, low: float, high: float) -> Floats:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((x - low) * np.float32(1 / (high - low)), 0, 1)
    result: Floats = t * t * (3 - 2 * t)
    return result


def capsule(
    x: Floats, y: Floats, a: tuple[float, float], b: tuple[float, float], ra: float, rb: float
) -> tuple[Floats, Floats, Floats, Floats, Floats, Floats]:
    """A tapered capsule, seen from points (x, y), broadcast together.

    Returns:
        signed distance to its outline; place along it in [0, 1]; the same, unclamped; signed distance from its axis,
        positive to the left of a → b as y points up; radius at that place; squared height of its surface towards the
        viewer over the axis, negative outside.
    """
    dx, dy = b[0] - a[0], b[1] - a[1]
    length = max((dx * dx + dy * dy) ** 0.5, 1e-3)
    ux, uy = np.float32(dx / length), np.float32(dy / length)
    px, py = x - np.float32(a[0]), y - np.float32(a[1])
    along = px * ux + py * uy
    across = py * ux - px * uy
    squared = across * across
    slope = min(max((rb - ra) / length, -0.95), 0.95)
    taper, unit = np.float32(slope * length), np.float32(length)
    # The nearest point of the axis lies where the outline's normal meets it, not straight below ...
    lean = np.float32(slope / (1 - slope * slope) ** 0.5)
    nearest = np.clip((along + lean * np.abs(across)) * (1 / unit), 0, 1)
    off = along - nearest * unit
    distance = np.sqrt(off * off + squared) - (np.float32(ra) + nearest * taper)
    # ... and the ball of the axis that reaches highest here is another one.
    s = np.clip((along + np.float32(ra * slope)) * np.float32(1 / (length * (1 - slope * slope))), 0, 1)
    radius = np.float32(ra) + s * taper
    off = along - s * unit
    return distance, s, along * (1 / unit), across, radius, radius * radius - off * off - squared
