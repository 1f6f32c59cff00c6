"""Two pictures laid over each other: whether their fine detail is that of one picture."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

Floats = npt.NDArray[np.float64]

BANDS_PX = 512
FINE_PX = 96
MARGIN_PX = 14
SAME_PICTURE = 0.955
"""Correlation of fine detail from which two photos are one picture. Chosen on 158 photos of 30 subjects and 660 edits
of 30 of them: copies from 0.96 on, but for some with frames, captions or burnt-out highlights, which are missed
altogether; neighbouring shots of one scene up to 0.95."""
SAME_SCENE = 0.93
"""The same from which a person should look at a pair."""
SAME_COLOURS = 0.5
"""Correlation of colours that is needed besides, where both photos have any."""
SAME_BLOCKS = 0.85
"""Share of the detailed blocks that must agree one by one: a shared background alone does not."""
BLOCK_PX = 12
MIN_BLOCKS = 4
FAINT, DETAILED, CLEAR = 0.5, 3.0, 4.0
"""Grey levels (standard deviation) below which there is no detail, and above which there is some, and plenty."""
N_ITERATIONS = 16
AT_A_GLANCE = 0.3
"""Correlation of coarse detail, without alignment, below which a guess is not looked at."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, as shares of a picture's sides."""

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Overlay:
    """A guess how two photos overlap: `part` of the small one, perhaps mirrored, lies at `window` of the large one."""

    large: int
    small: int
    window: Box
    part: Box
    is_mirrored: bool
    likeness: float


Bands = tuple["Image.Image", "Image.Image", "Image.Image"]
"""Of a picture: brightness and the two of colour."""


def bands(image: "Image.Image") -> Bands:
    from PIL import Image

    small = image.convert("RGB")
    small.thumbnail((BANDS_PX, BANDS_PX), Image.Resampling.BOX)
    brightness, blue, red = small.convert("YCbCr").split()
    return brightness, blue, red


def same_detail(large: Bands, small: Bands, overlay: Overlay) -> float:
    """Correlation of fine detail of two pictures that are one under this guess; 0 where they are not."""
    from PIL import Image, ImageOps

    if overlay.is_mirrored:
        small = (ImageOps.mirror(small[0]), ImageOps.mirror(small[1]), ImageOps.mirror(small[2]))
    target = _cut_out(small[0], overlay.part, FINE_PX, 0)
    coarse_px = FINE_PX // 3
    coarse = np.asarray(
        Image.fromarray(target.astype(np.float32)).resize((coarse_px, coarse_px), Image.Resampling.BOX), np.float64
    )
    margin = MARGIN_PX // 3
    source = _cut_out(large[0], overlay.window, coarse_px, margin)
    likeness, shift = _glance(source, coarse, margin)
    if likeness < AT_A_GLANCE:
        return 0.0
    rough = _alignment(source, coarse, margin, sigmas=(1 / 32, 1 / 64), start=shift)
    if rough.inside.mean() < 0.5 or not _roughly_agree(_warped(source, rough.y, rough.x), coarse, rough.inside):
        return 0.0
    source = _cut_out(large[0], overlay.window, FINE_PX, MARGIN_PX)
    at = _alignment(source, target, MARGIN_PX, sigmas=(1 / 64, 1 / 120), start=rough.affine * FINE_PX / coarse_px)
    if at.inside.mean() < 0.5:
        return 0.0
    detail = _agreement(_warped(source, at.y, at.x), target, at.inside)
    if detail < SAME_SCENE:
        return 0.0
    colours = [
        (_warped(_cut_out(large[band], overlay.window, FINE_PX, MARGIN_PX), at.y, at.x)[at.inside],
         _cut_out(small[band], overlay.part, FINE_PX, 0)[at.inside])
        for band in (1, 2)
    ]  # fmt: skip
    one, other = (np.concatenate([pair[side] - pair[side].mean() for pair in colours]) for side in (0, 1))
    is_coloured = min(one.std(), other.std()) > 3  # of 255: less is grey, or noise
    if is_coloured and _correlation(one[None], other[None])[0] < SAME_COLOURS:
        return 0.0
    return detail


def _cut_out(image: "Image.Image", box: Box, n: int, margin: int) -> Floats:
    """`[n + 2 · margin]²` float64: a box of a picture at n pixels a side, and what lies around it; the picture's edge
    is repeated where it ends."""
    from PIL import Image

    left, top, right, bottom = box
    step_x, step_y = (right - left) * image.width / n, (bottom - top) * image.height / n
    before = (
        min(margin, int(left * image.width / step_x)),
        min(margin, int(top * image.height / step_y)),
    )
    after = (
        min(margin, int((1 - right) * image.width / step_x + 1e-6)),
        min(margin, int((1 - bottom) * image.height / step_y + 1e-6)),
    )
    area = (
        max(0.0, left * image.width - before[0] * step_x),
        max(0.0, top * image.height - before[1] * step_y),
        min(float(image.width), right * image.width + after[0] * step_x),
        min(float(image.height), bottom * image.height + after[1] * step_y),
    )
    size = (n + before[0] + after[0], n + before[1] + after[1])
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=area), dtype=np.float64)
    around = ((margin - before[1], margin - after[1]), (margin - before[0], margin - after[0]))
    return np.pad(pixels, around, mode="edge")


@dataclass(frozen=True)
class _Alignment:
    """Where each pixel of a target lies in a source: rows, columns, whether inside; and the affine map, `[2, 3]`."""

    y: Floats
    x: Floats
    inside: npt.NDArray[np.bool_]
    affine: Floats


def _alignment(
    source: Floats, target: Floats, margin: int, sigmas: tuple[float, ...], start: Floats | None = None
) -> _Alignment:
    """The affine map that brings two pictures closest, up to brightness and contrast.

    Gauss-Newton with the target's slopes, from coarse to fine (Baker & Matthews 2004).

    Args:
        sigmas: blur of each round, as shares of the target's side.
        start: an affine map found at another size.
    """
    from scipy import ndimage

    n = len(target)
    rows, columns = np.mgrid[0:n, 0:n].astype(np.float64)
    v, u = (rows - (n - 1) / 2) / ((n - 1) / 2), (columns - (n - 1) / 2) / ((n - 1) / 2)
    basis = np.stack([np.ones_like(u), u, v], axis=-1)
    affine = np.zeros((2, 3)) if start is None else start.copy()
    last = len(source) - 1

    def placed() -> _Alignment:
        y, x = rows + margin + basis @ affine[1], columns + margin + basis @ affine[0]
        return _Alignment(y, x, (y >= 0) & (y <= last) & (x >= 0) & (x <= last), affine)

    for sigma in sigmas:
        blurred = ndimage.gaussian_filter(source, sigma * n)
        goal = ndimage.gaussian_filter(target, sigma * n)
        goal = (goal - goal.mean()) / max(float(goal.std()), 1e-6)
        slope_y, slope_x = np.gradient(goal)
        jacobian = np.concatenate([slope_x[..., None] * basis, slope_y[..., None] * basis], axis=-1).reshape(-1, 6)
        inverse = np.linalg.inv(jacobian.T @ jacobian + 1e-6 * len(jacobian) * np.eye(6))
        for _ in range(N_ITERATIONS):
            at = placed()
            if at.inside.mean() < 0.5:
                return at
            here = _warped(blurred, at.y, at.x)
            of_inside = here[at.inside]
            residual = goal - (here - of_inside.mean()) / max(float(of_inside.std()), 1e-6)
            residual = np.where(at.inside, residual - residual[at.inside].mean(), 0.0)
            move = np.clip(inverse @ (jacobian.T @ residual.ravel()), -n / 24, n / 24).reshape(2, 3)
            affine = affine + move
            if np.abs(move).max() < n / 4000:
                break
    return placed()


def _warped(source: Floats, y: Floats, x: Floats) -> Floats:
    from scipy import ndimage

    warped: Floats = ndimage.map_coordinates(source, [y, x], order=1, mode="nearest")
    return warped


def _glance(source: Floats, target: Floats, margin: int) -> tuple[float, Floats]:
    """Highest correlation of detail over the shifts that the margin allows, roughly and fast; and that shift, as an
    affine map."""
    a, b = _detail(source, 0.7, 2.5), _detail(target, 0.7, 2.5)
    spread = float(a.std() * b.std())
    if spread < 1e-6:
        return 0.0, np.zeros((2, 3))
    product = np.fft.irfft2(np.fft.rfft2(a) * np.fft.rfft2(b, a.shape).conj(), a.shape)
    allowed = product[: 2 * margin + 1, : 2 * margin + 1]
    down, across = np.unravel_index(int(allowed.argmax()), allowed.shape)
    shift = np.zeros((2, 3))
    shift[:, 0] = across - margin, down - margin
    return float(allowed.max()) / (b.size * spread), shift


def _detail(picture: Floats, near: float, far: float) -> Floats:
    """What is finer than `far` and coarser than `near`, in pixels."""
    from scipy import ndimage

    detail: Floats = ndimage.gaussian_filter(picture, near) - ndimage.gaussian_filter(picture, far)
    return detail


def _roughly_agree(warped: Floats, target: Floats, inside: npt.NDArray[np.bool_]) -> bool:
    a, b = _detail(warped, 0.7, 2.5)[inside], _detail(target, 0.7, 2.5)[inside]
    return bool(min(a.std(), b.std()) >= FAINT and _correlation(a[None], b[None])[0] >= 0.7)


def _agreement(warped: Floats, target: Floats, inside: npt.NDArray[np.bool_]) -> float:
    """Correlation of the fine detail of two pictures; 0 where too few of their blocks agree, and below `SAME_PICTURE`
    where one of them flatly contradicts: another animal before the same camera."""
    from scipy import ndimage

    inside = ndimage.binary_erosion(inside, iterations=4, border_value=1)
    a, b = _detail(warped, 1, 4), _detail(target, 1, 4)
    if min(a[inside].std(), b[inside].std()) < FAINT:
        return 0.0
    # Of equal weight wherever it is: one hard edge, a horizon or a frame, would outweigh all that differs.
    even_a, even_b = (p / np.sqrt(ndimage.gaussian_filter(p * p, 8) + DETAILED**2) for p in (a, b))
    overall = float(_correlation(even_a[inside][None], even_b[inside][None])[0])
    n = len(target) // BLOCK_PX * BLOCK_PX
    whole = _blocks(inside[:n, :n].astype(np.float64)).min(axis=1) > 0
    blocks_a, blocks_b = _blocks(a[:n, :n])[whole], _blocks(b[:n, :n])[whole]
    spread = np.maximum(blocks_a.std(axis=1), blocks_b.std(axis=1))
    is_detailed = spread > DETAILED
    if is_detailed.sum() < MIN_BLOCKS:
        return 0.0
    agreement = _correlation(blocks_a, blocks_b)
    if np.mean(agreement[is_detailed] > 0.8) < SAME_BLOCKS:
        return 0.0
    contradicts = (spread > CLEAR) & (agreement < 0.5)
    return min(overall, SAME_PICTURE - 0.001) if contradicts.any() else overall


def _blocks(values: Floats) -> Floats:
    n = len(values) // BLOCK_PX
    return values.reshape(n, BLOCK_PX, n, BLOCK_PX).swapaxes(1, 2).reshape(n * n, BLOCK_PX**2)


def _correlation(a: Floats, b: Floats) -> Floats:
    """Of each row of a with that of b."""
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    product: Floats = (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1) + 1e-12)
    return product
