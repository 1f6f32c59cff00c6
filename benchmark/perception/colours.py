"""How far a distance follows colours alone: its alignment with histograms (DreamSim, Table 7).

A histogram is taken of all pixels of a picture, reduced to 256 on its longer side, and smoothed over its bins (standard
deviation one bin), so that a colour near the edge of a bin counts for both. Two histograms are compared by what they do
not share, 1 - their intersection (Swain & Ballard 1991), in [0, 1]. Where in the picture a colour is does not count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmark.distances import Distance, Resources
from benchmark.distances.base import Floats
from benchmark.human_agreement.compared import COMPARED, distances_of
from benchmark.human_agreement.correlations import PooledSpearman
from benchmark.human_agreement.intervals import OfRows, bounds_of, drawn, value_of
from benchmark.human_agreement.measures import two_afc_scores
from benchmark.human_judgements.judgements import Judgements
from benchmark.statistics import Estimate, estimate_mean
from galleries.errors import Fault, raise_if_any
from galleries.images import BadImage, decode_image, in_threads, read_image_bytes

HISTOGRAMS: Mapping[str, str] = {
    "rgb": "8 × 8 × 8 equal bins of sRGB",
    "lab": "CIE Lab: 10 bins of lightness × 16 × 16 of a* and b* in [-128, 128]",
    "luminance": "32 equal bins of CIE L*",
}
LONGER_SIDE_PX = 256
PEOPLE = "people"


@dataclass(frozen=True)
class Alignment:
    """How often a distance, or people, choose as a histogram does; or how far two distances order pairs alike.

    Attributes:
        metric: the distance's spec, or `people`.
        alignment: with each histogram: of triplets the share of choices in common, where an undecided one counts half,
            in [0, 1], one half is chance; of pairs Spearman's correlation of the two distances, in [-1, 1]. None where
            it is undefined, of which `notes` say why.
    """

    metric: str
    fingerprint: str | None
    alignment: Mapping[str, Estimate | None]
    notes: tuple[str, ...] = ()


def align(judgements: Judgements, distances: Sequence[Distance], resources: Resources) -> list[Alignment]:
    """Hold distances, and of triplets people too, against each of `HISTOGRAMS`; intervals are over targets.

    Args:
        judgements: two targets or more. Answers count for the row `people` alone.

    Raises:
        Faults: images that cannot be used; all of them.
    """
    histograms = _histogram_distances(judgements, resources)
    targets = [row.target for row in judgements.rows]
    found = []
    if judgements.kind == "2afc":
        answers = np.array([row.answer for row in judgements.rows])
        own = {name: two_afc_scores(to[:, 0], to[:, 1], answers) for name, to in histograms.items()}
        found.append(
            Alignment(PEOPLE, None, {name: estimate_mean(each.tolist(), targets) for name, each in own.items()})
        )
    for distance in distances:
        to = distances_of(judgements, distance, resources)
        notes: list[str] = []
        alignment: dict[str, Estimate | None] = {}
        for name, histogram in histograms.items():
            if judgements.kind == "2afc":
                choices = 0.5 + 0.5 * np.sign(histogram[:, 0] - histogram[:, 1])
                scores = two_afc_scores(to[:, 0], to[:, 1], choices)
                alignment[name] = estimate_mean(scores.tolist(), targets)
            else:
                alignment[name] = _spearman(to, histogram, targets)
                if alignment[name] is None:
                    which = distance.spec if np.ptp(to) == 0 else f"the {name} histogram"
                    notes.append(f"{distance.spec}, {name}: {which} is the same for all pairs")
        found.append(Alignment(distance.spec, distance.fingerprint, alignment, tuple(notes)))
    return found


def histograms_of(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """The histograms of an image file, flat; each adds up to 1.

    Raises:
        BadImage: it cannot be used.
    """
    from PIL import Image
    from scipy.ndimage import gaussian_filter
    from skimage.color import rgb2lab

    picture = decode_image(read_image_bytes(path))
    picture.thumbnail((LONGER_SIDE_PX, LONGER_SIDE_PX), Image.Resampling.BOX)
    pixels = np.asarray(picture)
    lab = rgb2lab(pixels).reshape(-1, 3)
    counts = {
        "rgb": np.histogramdd(pixels.reshape(-1, 3), bins=(8, 8, 8), range=[(0, 256)] * 3)[0],
        "lab": np.histogramdd(lab, bins=(10, 16, 16), range=[(0, 100.001), (-128, 128), (-128, 128)])[0],
        "luminance": np.histogram(lab[:, 0], bins=32, range=(0, 100.001))[0],
    }
    smooth = {name: gaussian_filter(count.astype(np.float64), 1.0).ravel() for name, count in counts.items()}
    return {name: (each / each.sum()).astype(np.float32) for name, each in smooth.items()}


def _histogram_distances(judgements: Judgements, resources: Resources) -> dict[str, Floats]:
    """For each histogram `[rows, K]`, as `distances_of`."""
    held: dict[Path, dict[str, npt.NDArray[np.float32]]] = {}
    faults = []
    step = resources.progress("counting colours", len(judgements.images)) if resources.progress else None

    def counted(path: Path) -> dict[str, npt.NDArray[np.float32]] | Fault:
        try:
            return histograms_of(path)
        except BadImage as error:
            return Fault(str(path), error.what, error.remedy)

    for path, result in zip(judgements.images, in_threads(counted, judgements.images), strict=True):
        if isinstance(result, Fault):
            faults.append(result)
        else:
            held[path] = result
        if step:
            step(1)
    raise_if_any("images", faults)
    sides = COMPARED[judgements.kind]

    def unshared(name: str, one: Path, other: Path) -> float:
        return float(np.abs(held[one][name] - held[other][name]).sum(dtype=np.float64) / 2)

    return {
        name: np.array(
            [[unshared(name, row.images[i], row.images[j]) for i, j in sides] for row in judgements.rows]
        ).reshape(-1, len(sides))
        for name in HISTOGRAMS
    }


def _spearman(to: Floats, histogram: Floats, targets: Sequence[str]) -> Estimate | None:
    """Rank correlation over all pairs, pooled, with an interval over targets; None where one side is constant."""
    names, groups = np.unique(np.repeat(np.array(targets), to.shape[1]), return_inverse=True)
    one, other = to.ravel(), histogram.ravel()
    # Sorted, so that sums come out the same in any order of the judgements.
    order = np.lexsort((other, one, groups))
    pooled = PooledSpearman(one[order], other[order])
    statistic = OfRows(groups[order], np.ones(len(one)), pooled)
    value = value_of(statistic, len(names))
    if not np.isfinite(value):
        return None
    low, high = bounds_of(drawn([statistic], len(names), len(one))[:, 0]) or (None, None)
    return Estimate(value, low, high)
