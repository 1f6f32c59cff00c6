"""DISTS (Ding et al. 2020, arXiv 2004.07728): `dists[@FILE of vgg16]`. Structure and texture under VGG16.

torchmetrics ships the published weights α and β; its own function builds the network anew at every call.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from benchmark.distances.lpips import PACKAGES, TAPS, digest_of_tensors, load_features, shipped
from benchmark.distances.pairs import PictureDistance
from benchmark.embedders import resolve_device
from benchmark.embedders.weights import read_state_dict
from galleries.errors import FinerRankError

if TYPE_CHECKING:
    from benchmark.distances import DistanceRequest

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
C1, C2 = 1e-6, 1e-6
"""Of equations 5 and 6: what keeps quotients of nothing by nothing at 1."""


class Dists:
    """The distance, at least 0, under VGG16 whose maxima are L2 pools.

    Args:
        features: of VGG16, up to the last layer compared.
    """

    def __init__(self, features: nn.Sequential, device: str) -> None:
        self.device = device
        self._layers = features.eval().requires_grad_(False).to(device)
        self._mean, self._std = (torch.tensor(v, device=device).reshape(1, 3, 1, 1) for v in (MEAN, STD))
        window = torch.tensor([0.5, 1.0, 0.5], device=device)
        self._window = torch.outer(window, window) / window.sum() ** 2
        published = read_state_dict(shipped("dists_models/weights.pt"))
        self._alpha, self._beta = (published[name].flatten().double() for name in ("alpha", "beta"))
        self.description = {
            "method": "dists",
            "trunk_sha256": digest_of_tensors(features.state_dict()),
            "weights_sha256": digest_of_tensors(published),
        }

    def features(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """The picture itself, and five layers of VGG16."""
        found, x = [pixels], (pixels - self._mean) / self._std
        for place, layer in enumerate(self._layers):
            x = self._pooled(x) if isinstance(layer, nn.MaxPool2d) else layer(x)
            if place in TAPS["vgg"]:
                found.append(x)
        return tuple(found)

    def _pooled(self, x: Tensor) -> Tensor:
        """Root of the weighted mean square, at every second position (equation 2)."""
        window = self._window.expand(x.shape[1], 1, 3, 3)
        return (nn.functional.conv2d(x.square(), window, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()

    def distance(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
        texture, structure = [], []
        for a, b in zip(first, second, strict=True):
            mean_a, mean_b = a.mean(dim=(2, 3), keepdim=True), b.mean(dim=(2, 3), keepdim=True)
            texture.append((2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1))
            variances = (a - mean_a).square().mean(dim=(2, 3)) + (b - mean_b).square().mean(dim=(2, 3))
            covariance = ((a - mean_a) * (b - mean_b)).mean(dim=(2, 3))
            structure.append((2 * covariance + C2) / (variances + C2))
        total = self._alpha.sum() + self._beta.sum()
        similarity = sum(
            weights @ torch.cat([part.flatten() for part in parts]).cpu().double()
            for weights, parts in ((self._alpha, texture), (self._beta, structure))
        )
        return max(0.0, 1 - float(similarity / total))  # rounding may bring it below


def load(request: "DistanceRequest") -> PictureDistance:
    if request.variant:
        raise FinerRankError(f"{request.spec}: there is one DISTS; write dists, or dists@FILE of torchvision's vgg16")

    def build() -> Dists:
        device = resolve_device(request.device)
        if device.startswith("cuda"):
            torch.backends.cudnn.allow_tf32 = False
        return Dists(load_features("vgg", request.weights, "dists@FILE"), device)

    return PictureDistance(request, build, PACKAGES)
