"""Photos that are the same picture: resized, re-encoded, cropped, mirrored, recoloured.

Two steps. A coarse one compares small grey thumbnails: the whole of each photo, and corners of it, with windows of the
other, as they are and mirrored; and the perceptual hash of the whole. It proposes pairs. A fine one lays the two
pictures over each other by an affine map and asks whether their fine detail agrees wherever there is any: two photos of
one animal may look alike, but never hair by hair.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from galleries.overlays import SAME_PICTURE, WHOLE, Box, Floats, Overlay, bands, same_detail

if TYPE_CHECKING:
    from PIL import Image

Grey = npt.NDArray[np.uint8]

THUMBNAIL_PX = 48
WINDOW_PX = 12
WINDOW_SIDES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Shares of a side that a window may take: a crop below half of a side is not searched for."""
GUESSES = 5
"""Of how two photos overlap, that are looked at closely."""
ALIKE = 0.75
"""Correlation of two windows from which a pair is looked at closely: crops fall between windows of the search."""
ALIKE_PART = 0.84
"""The same for windows that part of a photo resembles, of which there are more by chance."""
MAX_PAIRS = 10_000
"""Pairs that are looked at closely, a minute or two's work; the most alike, where there are more."""
HASH_BITS = 64
HASH_DISTANCE = 10
"""Bits that the hashes of a proposed pair may differ in."""

PARTS: tuple[Box, ...] = (WHOLE, *((x, y, x + 0.75, y + 0.75) for x in (0.0, 0.25) for y in (0.0, 0.25)))


Progress = Callable[[str, int], Callable[[int], object]]


@dataclass(frozen=True)
class NearDuplicate:
    """Two photos, by their positions, that are the same picture.

    Attributes:
        is_mirrored: left and right are exchanged.
        is_cropped: one shows a part of the other, or both show parts of one picture.
        detail: correlation of their fine detail where they overlap, 0.92 to 1.
    """

    first: int
    second: int
    is_mirrored: bool
    is_cropped: bool
    detail: float

    @property
    def is_same_picture(self) -> bool:
        """Whether the two are one picture; else, perhaps, neighbouring shots of one scene."""
        return self.detail >= SAME_PICTURE

    def __str__(self) -> str:
        if not self.is_same_picture:
            return "almost the same shot"
        kinds = [word for word, holds in (("mirrored", self.is_mirrored), ("cropped", self.is_cropped)) if holds]
        return " and ".join(kinds) or "resized or re-encoded"


def thumbnail(image: "Image.Image") -> Grey:
    """`[48, 48]` uint8: the picture in grey, squashed."""
    from PIL import Image

    grey = image if image.mode == "L" else image.convert("L")
    return np.asarray(grey.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX))


def near_duplicates(
    thumbnails: Sequence[Grey],
    groups: Iterable[tuple[Sequence[int], Sequence[int]]],
    hashed: Iterable[tuple[Sequence[int], Sequence[int]]],
    picture: Callable[[int], "Image.Image"],
    proposed: Iterable[tuple[int, int]] = (),
    progress: Progress | None = None,
    warn: Callable[[str], object] | None = None,
) -> list[NearDuplicate]:
    """The near-duplicates between groups of photos, and those that might be, sorted by position.

    Args:
        thumbnails: of all photos.
        groups: pairs of groups, by position, of which each photo of the first is compared with each of the second in
            every way. Groups may overlap.
        hashed: pairs of groups that are compared by their hash alone: linear in memory, and fast at any size.
        picture: the photo at a position, in RGB or grey; asked for candidates only.
        proposed: further pairs to look at closely, found by other means.
        progress: called with a label and a total; returns what to call with the number of photos, or pairs, done.
        warn: told if more than `MAX_PAIRS` pairs are alike, of which only the most alike are looked at closely.
    """
    candidates: dict[tuple[int, int], list[Overlay]] = {}

    def add(overlays: Iterable[Overlay]) -> None:
        for overlay in overlays:
            if overlay.large != overlay.small:
                key = (min(overlay.large, overlay.small), max(overlay.large, overlay.small))
                guesses = candidates.setdefault(key, [])
                guesses.append(overlay)
                guesses.sort(key=_best_first)
                del guesses[GUESSES:]

    pairs_of_groups = list(groups)
    n_compared = sum(len(first) + len(second) for first, second in pairs_of_groups)
    step = progress("comparing photos", n_compared) if progress else None
    for first, second in pairs_of_groups:
        add(_alike_windows(thumbnails, first, second, step))
    for first, second in hashed:
        add(_alike_hashes(thumbnails, first, second))
    for i, j in proposed:
        add(_best_overlays(thumbnails, i, j))

    most_alike = sorted(candidates, key=lambda pair: (_best_first(candidates[pair][0]), pair))[:MAX_PAIRS]
    if len(most_alike) < len(candidates) and warn:
        warn(f"{len(candidates)} pairs of photos are alike; the {MAX_PAIRS} most alike were looked at closely")
    look = progress("looking closely", len(most_alike)) if progress else None
    fine = lru_cache(maxsize=256)(lambda position: bands(picture(position)))
    found = []
    for i, j in sorted(most_alike):
        best: NearDuplicate | None = None
        for overlay in candidates[i, j]:
            detail = same_detail(fine(overlay.large), fine(overlay.small), overlay)
            if detail > (best.detail if best else 0.0):
                is_cropped = overlay.window != WHOLE or overlay.part != WHOLE
                best = NearDuplicate(i, j, overlay.is_mirrored, is_cropped, detail)
            if best and best.is_same_picture:
                break
        if best:
            found.append(best)
        if look:
            look(1)
    return found


def _best_first(overlay: Overlay) -> tuple[float, bool, Box, Box]:
    return -overlay.likeness, overlay.is_mirrored, overlay.window, overlay.part


@cache
def _windows() -> tuple[npt.NDArray[np.float32], list[Box], npt.NDArray[np.int64]]:
    """Averaging matrices `[spans, 12, 48]` of the spans of a side; all windows; and their pairs of spans `[W, 2]`."""
    spans = []
    for side in WINDOW_SIDES:
        n = 1 if side == 1 else max(2, round((1 - side) / (0.12 * side)) + 1)
        spans += [(float(start), float(start) + side) for start in np.linspace(0, 1 - side, n)]
    matrices = np.stack([_averaging(start, end) for start, end in spans])
    pairs = [
        (i, j)
        for i, (top, bottom) in enumerate(spans)
        for j, (left, right) in enumerate(spans)
        if 0.6 < (right - left) / (bottom - top) < 1.67
    ]
    boxes = [(spans[j][0], spans[i][0], spans[j][1], spans[i][1]) for i, j in pairs]
    return matrices.astype(np.float32), boxes, np.array(pairs)


def _averaging(start: float, end: float) -> Floats:
    """`[12, 48]` weights that average a span of 48 pixels into 12."""
    edges = np.linspace(start, end, WINDOW_PX + 1) * THUMBNAIL_PX
    pixels = np.arange(THUMBNAIL_PX)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.clip(overlap, 0, None)
    averaging: Floats = weights / weights.sum(axis=1, keepdims=True)
    return averaging


def _window_rows(thumb: Grey) -> npt.NDArray[np.float32]:
    """`[W, 144]` float32: each window of a thumbnail, of mean 0 and length 1; 0 where it is plain."""
    matrices, _, pairs = _windows()
    n, size = len(matrices), WINDOW_PX
    flat = matrices.reshape(n * size, THUMBNAIL_PX)
    grid = (flat @ thumb.astype(np.float32) @ flat.T).reshape(n, size, n, size)
    return _unit(grid[pairs[:, 0], :, pairs[:, 1], :].reshape(len(pairs), size * size))


def _part_rows(thumb: Grey) -> npt.NDArray[np.float32]:
    """`[2 · parts, 144]`: each part of a thumbnail as it is, and then mirrored."""
    flipped = thumb[:, ::-1]
    rows = []
    for picture in (thumb, flipped):
        for left, top, right, bottom in PARTS:
            block = _averaging(top, bottom) @ picture.astype(np.float64) @ _averaging(left, right).T
            rows.append(block.ravel())
    return _unit(np.array(rows, dtype=np.float32))


def _unit(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    centred = rows - rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    # Less than half a grey level of variation is a plain area, of which nothing can be said.
    return np.where(norms > 0.5 * WINDOW_PX, centred / np.maximum(norms, 1e-6), 0).astype(np.float32)


def _alike_windows(
    thumbnails: Sequence[Grey],
    first: Sequence[int],
    second: Sequence[int],
    step: Callable[[int], object] | None,
) -> Iterator[Overlay]:
    """Pairs of which a window of one resembles a part of the other, either way round."""
    for larges, smalls in ((first, second), (second, first)):
        if not len(smalls):
            continue
        parts = np.concatenate([_part_rows(thumbnails[i]) for i in smalls])
        for large in larges:
            likeness = _window_rows(thumbnails[large]) @ parts.T
            yield from _best_windows(likeness, large, smalls)
            if step:
                step(1)


def _best_windows(likeness: npt.NDArray[np.float32], large: int, smalls: Sequence[int]) -> Iterator[Overlay]:
    """The best window of `large` for each part of each small photo, where it is alike enough."""
    _, boxes, _ = _windows()
    best = likeness.argmax(axis=0)
    value = likeness[best, np.arange(likeness.shape[1])]
    enough = np.tile([ALIKE if part == WHOLE else ALIKE_PART for part in PARTS], 2 * len(smalls))
    for column in np.flatnonzero(value >= enough):
        small, mirrored, part = np.unravel_index(column, (len(smalls), 2, len(PARTS)))
        window = boxes[int(best[column])]
        yield Overlay(large, smalls[int(small)], window, PARTS[int(part)], bool(mirrored), float(value[column]))


def _best_overlays(thumbnails: Sequence[Grey], i: int, j: int) -> Iterator[Overlay]:
    """The six best guesses for a pair, however little alike."""
    _, boxes, _ = _windows()
    guesses = []
    for large, small in ((i, j), (j, i)):
        likeness = _window_rows(thumbnails[large]) @ _part_rows(thumbnails[small]).T
        best = likeness.argmax(axis=0)
        for column, row in enumerate(best):
            mirrored, part = divmod(column, len(PARTS))
            value = float(likeness[row, column])
            guesses.append(Overlay(large, small, boxes[int(row)], PARTS[part], bool(mirrored), value))
    yield from sorted(guesses, key=lambda o: -o.likeness)[:6]


def perceptual_hash(thumb: Grey) -> int:
    """64 bits: which of the 64 lowest frequencies of a picture (but its mean) are above their median."""
    from scipy.fft import dctn

    low = dctn(thumb.astype(np.float64))[:8, :8].ravel()
    return int(np.packbits(low > np.median(low[1:])).view(">u8")[0])


def _alike_hashes(thumbnails: Sequence[Grey], first: Sequence[int], second: Sequence[int]) -> Iterator[Overlay]:
    if not len(first) or not len(second):
        return
    ones = np.array([perceptual_hash(thumbnails[i]) for i in first], dtype=np.uint64)
    for mirrored in (False, True):
        step = -1 if mirrored else 1
        others = np.array([perceptual_hash(thumbnails[i][:, ::step]) for i in second], dtype=np.uint64)
        for i, one in zip(first, ones, strict=True):
            distance = np.bitwise_count(one ^ others)
            for k in np.flatnonzero(distance <= HASH_DISTANCE):
                likeness = 1 - int(distance[k]) / HASH_BITS
                yield Overlay(i, second[int(k)], WHOLE, WHOLE, mirrored, likeness)
