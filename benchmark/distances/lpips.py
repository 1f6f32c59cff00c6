"""LPIPS (Zhang et al. 2018, arXiv 1801.03924): `lpips[:alex|vgg|squeeze][@FILE]`.

The trunk is a classifier of torchvision, whose weights are brought or fetched; torchmetrics ships the published weights
of its channels.
"""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from benchmark.distances.pairs import PictureDistance
from benchmark.embedders import resolve_device
from benchmark.embedders.weights import load_strictly, read_state_dict
from galleries.downloads import url_file
from galleries.errors import FinerRankError

if TYPE_CHECKING:
    from benchmark.distances import DistanceRequest

PACKAGES = ("torch", "torchvision", "torchmetrics")

CHANNELS: dict[str, tuple[int, ...]] = {
    "alex": (64, 192, 384, 256, 256),
    "vgg": (64, 128, 256, 512, 512),
    "squeeze": (64, 128, 256, 384, 384, 512, 512),
}
"""Network → channels of the layers that are compared."""

ARCHITECTURES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
"""Names in torchvision."""

TAPS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29), "squeeze": (1, 4, 7, 9, 10, 11, 12)}
"""Places of those layers in the `features` of torchvision's networks."""

LEAST_SIDE_PX = {"alex": 31, "vgg": 16, "squeeze": 17}
"""Below it, the last layer compared has no position left."""

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of the input in [-1, 1]."""


class Trunk(nn.Module):
    """The layers of a classifier that LPIPS compares: float32, in evaluation, without gradients to its weights.

    Args:
        network: `alex`, `vgg` or `squeeze`.
        features: of torchvision's network of that name, up to the last layer of `TAPS`.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, network: str, features: nn.Sequential) -> None:
        super().__init__()
        self.network = network
        self.features = features
        self.register_buffer("shift", torch.tensor(SHIFT).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).reshape(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    @property
    def digest(self) -> str:
        """SHA-256 of its weights, whatever file they came in."""
        return digest_of_tensors(self.state_dict())

    def unit_features(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """`[B, C, h, w]` of each layer compared, of length 1 over its channels, of RGB pictures `[B, 3, H, W]` in
        [0, 1]."""
        x = (2 * pixels - 1 - self.shift) / self.scale
        found = []
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in TAPS[self.network]:
                found.append(x / (x.square().sum(dim=1, keepdim=True) + 1e-8).sqrt())
        return tuple(found)

    def differences(self, first: Tensor, second: Tensor) -> Tensor:
        """`[B, ΣC]`, at least 0: of each channel the squared difference of the pictures' `unit_features`, averaged
        over positions. LPIPS is `differences @ weights`.

        Args:
            first, second: `[B, 3, H, W]` in [0, 1], RGB.
        """
        both = self.unit_features(torch.cat([first, second]))
        n = len(first)
        return layer_differences([layer[:n] for layer in both], [layer[n:] for layer in both])


def layer_differences(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """`Trunk.differences` of `unit_features` that are there already."""
    return torch.cat([(a - b).square().mean(dim=(2, 3)) for a, b in zip(first, second, strict=True)], dim=1)


def load_trunk(network: str, weights: Path | None, device: str, instead: str = "") -> Trunk:
    """The trunk with weights trained on ImageNet.

    Args:
        network: `alex`, `vgg` or `squeeze`.
        weights: a checkpoint of torchvision's, or the `features` of one; the file that torchvision publishes where
            None.
        instead: what to write to bring them, for the message; the spec of LPIPS where it is not said.

    Raises:
        FinerRankError: unknown network, or weights that are out of reach or of another network.
    """
    check_network(network)
    if device.startswith("cuda"):
        torch.backends.cudnn.allow_tf32 = False  # its 10-bit mantissa would pass for float32
    return Trunk(network, load_features(network, weights, instead or f"lpips:{network}@FILE")).to(device)


def load_features(network: str, weights: Path | None, instead: str) -> nn.Sequential:
    """The `features` of torchvision's classifier, as far as they are compared.

    Args:
        weights: as for `load_trunk`.
        instead: what to write to bring them, for the message.

    Raises:
        FinerRankError: see `load_trunk`.
    """
    from torchvision import models

    name = ARCHITECTURES[network]
    with torch.device("meta"):  # all weights are overwritten, and of vgg16 nine tenths are not needed
        features: nn.Sequential = models.get_model(name, weights=None).features[: TAPS[network][-1] + 1]
    published = models.get_model_weights(name).DEFAULT.url
    path = weights or url_file(
        published,
        Path(torch.hub.get_dir()) / "checkpoints",
        instead,
        Path(published).stem.rpartition("-")[2],  # the first digits of its SHA-256
    )
    state = {key: value for key, value in read_state_dict(path).items() if not key.startswith("classifier.")}
    features.to_empty(device="cpu")
    load_strictly(
        features, {key.removeprefix("features."): v for key, v in state.items()}, path, f"torchvision's {name}"
    )
    return features


def published_weights(network: str) -> Tensor:
    """`[ΣC]` float32, at least 0: the weights of the channels, version 0.1, as torchmetrics ships them."""
    check_network(network)
    state = read_state_dict(shipped(f"lpips_models/{network}.pth"))
    return torch.cat([state[f"lin{layer}.model.1.weight"].flatten() for layer in range(len(CHANNELS[network]))])


def shipped(name: str) -> Path:
    """A weights file of torchmetrics' images' metrics; found without importing the package, which takes seconds."""
    package = find_spec("torchmetrics")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "functional" / "image" / name


def check_network(network: str) -> None:
    """Raises: FinerRankError: none of `CHANNELS`."""
    if network not in CHANNELS:
        raise FinerRankError(f"lpips:{network}: no such network; write {', '.join(f'lpips:{n}' for n in CHANNELS)}")


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and float32 values, whatever the order and the device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Lpips:
    """LPIPS under given weights of the channels.

    Args:
        weights: `[ΣC]`, at least 0.
        description: what the trunk's digest does not say.
    """

    def __init__(self, trunk: Trunk, weights: Tensor, device: str, description: Mapping[str, Any]) -> None:
        self.trunk = trunk
        self.device = device
        self.description = {
            **description,
            "trunk_sha256": trunk.digest,
            "weights_sha256": digest_of_tensors({"": weights}),
        }
        self._weights = weights.double().cpu()

    def features(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return self.trunk.unit_features(pixels)

    def distance(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
        return float(layer_differences(first, second)[0].cpu().double() @ self._weights)


def load(request: "DistanceRequest") -> PictureDistance:
    """`lpips` is `lpips:alex`."""
    network = request.variant or "alex"
    check_network(network)

    def build() -> Lpips:
        device = resolve_device(request.device)
        trunk = load_trunk(network, request.weights, device)
        return Lpips(
            trunk, published_weights(network), device, {"method": "lpips", "network": network, "version": "0.1"}
        )

    return PictureDistance(request, build, PACKAGES, LEAST_SIDE_PX[network])
