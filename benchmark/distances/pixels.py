"""Distances of bare pixels, without a network: `ssim` and `psnr`. Computed in float64, on the CPU."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from benchmark.distances.pairs import PictureDistance
from galleries.errors import FinerRankError

if TYPE_CHECKING:
    from benchmark.distances import DistanceRequest

WINDOW_PX, SIGMA = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
OF_SAME_PSNR = -200.0
"""Where the ratio is infinite. Two 8-bit pictures of 80 megapixels that differ by one level at one place have -132."""


class Ssim:
    """1 - SSIM, in [0, 2] (Wang et al. 2004, doi 10.1109/TIP.2003.819861, equation 13): Gaussian window, mean over all
    windows that lie inside the picture, as in the paper, and over R, G and B.

    torchmetrics also counts windows that reach over the borders, into the mirrored picture.
    """

    description: ClassVar = {"method": "ssim", "window_px": WINDOW_PX, "sigma": SIGMA, "channels": "mean of R, G, B"}
    device = "cpu"

    def __init__(self) -> None:
        x = torch.arange(WINDOW_PX, dtype=torch.float64) - WINDOW_PX // 2
        window = torch.exp(-x.square() / (2 * SIGMA**2))
        self._window = window / window.sum()

    def features(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return (_levels(pixels),)

    def distance(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
        (a,), (b,) = first, second
        means = self._windowed(torch.cat([a, b, a * a, b * b, a * b]))
        mean_a, mean_b = means[0], means[1]
        variances = means[2] + means[3] - mean_a**2 - mean_b**2
        luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
        structure = (2 * (means[4] - mean_a * mean_b) + C2) / (variances + C2)
        return max(0.0, 1 - float((luminance * structure).mean()))

    def _windowed(self, values: Tensor) -> Tensor:
        """Weighted means over all windows of `[B, 3, H, W]`."""
        for side in (2, 3):  # the window is a product of two
            size = values.shape[side] - WINDOW_PX + 1
            # Shifted sums: a convolution of float64 takes three times as long.
            sums = torch.zeros_like(values.narrow(side, 0, size))
            for place, weight in enumerate(self._window.tolist()):
                sums.add_(values.narrow(side, place, size), alpha=weight)
            values = sums
        return values


class Psnr:
    """-PSNR in dB, of all values of both pictures, with the peak 255 of 8 bits."""

    description: ClassVar = {"method": "psnr", "of_same": OF_SAME_PSNR}
    device = "cpu"

    def features(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return (_levels(pixels),)

    def distance(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
        return 10 * math.log10(float((first[0] - second[0]).square().mean()) / 255**2)


def _levels(pixels: Tensor) -> Tensor:
    """The 8-bit values, which are exact."""
    return (pixels.double() * 255).round()


def load(request: "DistanceRequest") -> PictureDistance:
    name = request.spec.partition(":")[0].partition("@")[0]
    if request.spec != name:
        raise FinerRankError(f"{request.spec}: has neither variants nor weights; write {name}")
    if name == "psnr":
        return PictureDistance(request, Psnr, ("torch",), of_same=OF_SAME_PSNR)
    return PictureDistance(request, Ssim, ("torch",), WINDOW_PX)
