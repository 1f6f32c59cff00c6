"""Changes of one aspect of a picture, of any wanted size in pixel values.

What two changes do to a distance can be compared when both move the pixels equally far. So each has one strength, and
the smallest strength is sought at which the root mean square difference to the original, over all sRGB values in
[0, 1], is the wanted one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Aspect:
    """An aspect of a picture that can be changed.

    Attributes:
        does: what the change does, in words.
        unit: of its strength.
        most: strength up to which is sought.
        needs_mask: whether it needs to know where the subject is.
    """

    does: str
    unit: str
    most: float
    needs_mask: bool = False


ASPECTS: Mapping[str, Aspect] = {
    "orientation": Aspect("turned about its centre; corners are filled by mirroring", "degrees", 180.0),
    "colour": Aspect("all colours moved in one direction at equal luma", "of 1", 2.0),
    "shading": Aspect("light that falls off across the picture; hues stay", "stops", 8.0),
    "structure": Aspect("bent by a smooth random field", "% of the side", 15.0),
    "foreground": Aspect("another photo blended into the subject", "of 1", 1.0, needs_mask=True),
    "background": Aspect("the same photo blended into all but the subject", "of 1", 1.0, needs_mask=True),
}
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Of ITU-R BT.601."""
FIELD_POINTS = 5
N_DOUBLINGS = 7
N_STEPS = 20
TOLERANCE = 0.005
"""How far a change may miss its size, as a share of it. Rounding to 8 bits adds up to half a grey level (0.002)."""


@dataclass(frozen=True)
class Subject:
    """A square picture to change.

    Attributes:
        pixels: `[S, S, 3]` in [0, 1].
        is_subject: `[S, S]`, or None where it is not known.
        other: `[S, S, 3]` of an unrelated photo, to blend in.
        seed: of directions and fields.
    """

    pixels: Floats
    is_subject: npt.NDArray[np.bool_] | None
    other: Floats
    seed: int


def changed(subject: Subject, aspect: str, rms: float) -> tuple[npt.NDArray[np.uint8], float] | None:
    """The picture, `[S, S, 3]` uint8, with one aspect changed by `rms`, and the strength that this took; None where no
    strength changes so much (a picture of one colour is the same however it is turned).
    """
    with_strength = _change(subject, aspect)
    most = ASPECTS[aspect].most

    def difference(strength: float) -> float:
        return float(np.sqrt(np.mean(np.square(with_strength(strength) - subject.pixels), dtype=np.float64)))

    below, of_below, above, of_above = 0.0, 0.0, most / 2**N_DOUBLINGS, 0.0
    while (of_above := difference(above)) < rms:
        if above >= most:
            return None
        below, of_below, above = above, of_above, 2 * above
    for _ in range(N_STEPS):
        # Where a straight line through both ends reaches the wanted size, but well between them.
        share = min(max((rms - of_below) / (of_above - of_below), 0.05), 0.95)
        middle = below + share * (above - below)
        of_middle = difference(middle)
        if abs(of_middle - rms) <= TOLERANCE * rms:
            return np.rint(with_strength(middle) * 255).astype(np.uint8), middle
        if of_middle < rms:
            below, of_below = middle, of_middle
        else:
            above, of_above = middle, of_middle
    return np.rint(with_strength(above) * 255).astype(np.uint8), above


def _change(subject: Subject, aspect: str) -> Callable[[float], Floats]:
    """From a strength to the changed picture, `[S, S, 3]` in [0, 1]; at strength 0 the picture itself."""
    random = np.random.default_rng(subject.seed)
    angle = float(random.uniform(0, 2 * np.pi))
    pixels = subject.pixels
    side = len(pixels)
    y, x = (np.mgrid[:side, :side].astype(np.float32) + np.float32(0.5)) / side * 2 - 1
    if aspect == "orientation":
        sign = 1 if angle < np.pi else -1

        def turned(strength: float) -> Floats:
            turn = sign * np.radians(strength)
            return _sampled(pixels, x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn))

        return turned
    if aspect == "colour":
        return lambda strength: _recoloured(pixels, strength * _chroma(angle))
    if aspect == "shading":
        ramp = (np.cos(angle) * x + np.sin(angle) * y).astype(np.float32)

        def lit(strength: float) -> Floats:
            found: Floats = np.clip(pixels * np.exp2(np.float32(strength / 2) * ramp)[:, :, None], 0, 1)
            return found

        return lit
    if aspect == "structure":
        field = _smooth_field(random, side)
        return lambda strength: _sampled(pixels, x + strength / 50 * field[0], y + strength / 50 * field[1])
    assert subject.is_subject is not None, "aspects of masks are asked of pictures with masks alone"
    where = (subject.is_subject if aspect == "foreground" else ~subject.is_subject)[:, :, None]
    step: Floats = np.where(where, subject.other - pixels, np.float32(0))

    def blended(strength: float) -> Floats:
        found: Floats = pixels + np.float32(strength) * step
        return found

    return blended


def _chroma(angle: float) -> Floats:
    """`[3]`: a direction of colour without luma, of length 1."""
    first = np.array([1, 0, -LUMA[0] / LUMA[2]])
    second = np.cross(LUMA, first)
    unit = [axis / np.linalg.norm(axis) for axis in (first, second)]
    direction: Floats = (np.cos(angle) * unit[0] + np.sin(angle) * unit[1]).astype(np.float32)
    return direction


def _recoloured(pixels: Floats, shift: Floats) -> Floats:
    """Each colour moved by `shift`, or as far in that direction as there are colours: luma stays, which clipping would
    change."""
    room = [(1 - pixels[:, :, i]) / s if s > 0 else pixels[:, :, i] / -s for i, s in enumerate(shift.tolist()) if s]
    share = np.minimum(np.minimum.reduce(room), 1) if room else np.zeros(pixels.shape[:2], np.float32)
    moved: Floats = np.clip(pixels + share[:, :, None].astype(np.float32) * shift, 0, 1)
    return moved


def _smooth_field(random: np.random.Generator, side: int) -> Floats:
    """`[2, side, side]`: a random displacement of root mean square length 1, without its mean."""
    import torch
    from torch.nn.functional import interpolate

    points = torch.from_numpy(random.normal(size=(1, 2, FIELD_POINTS, FIELD_POINTS)).astype(np.float32))
    field = interpolate(points, size=(side, side), mode="bicubic", align_corners=True)[0].numpy()
    field = field - field.mean(axis=(1, 2), keepdims=True)
    scaled: Floats = field / np.sqrt(np.mean((field**2).sum(axis=0)))
    return scaled


def _sampled(pixels: Floats, x: Floats, y: Floats) -> Floats:
    """The picture looked up at places in [-1, 1] (left to right, top to bottom), bicubic, mirrored beyond its edges."""
    import torch
    from torch.nn.functional import grid_sample

    picture = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
    grid = torch.from_numpy(np.stack([x, y], axis=-1).astype(np.float32))[None]
    found = grid_sample(picture, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return found[0].clamp(0, 1).numpy().transpose(1, 2, 0)
