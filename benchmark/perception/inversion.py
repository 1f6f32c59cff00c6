"""Feature inversion: a picture made from nothing but its embedding (DreamSim, Fig. 9).

What an embedding holds of a picture is seen in the pictures that it cannot tell from that one. Two ways of finding one:

*pixels*: the values of the pixels, with a penalty on total variation (Mahendran & Vedaldi, Understanding Deep Image
Representations by Inverting Them, 2015).

*prior*: the weights of a small convolutional network of fixed noise, whose form alone makes pictures out of it (Ulyanov
et al., Deep Image Prior, 2018). The first finds whatever meets the embedding, patterns that mean nothing to a person
included; the second looks like a picture sooner.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from benchmark.embedders import Embedder, resolve_device
from benchmark.embedders.base import Preprocessing, unit_rows
from benchmark.embedders.pictures import what_is_wrong
from galleries.errors import FinerRankError

if TYPE_CHECKING:
    import torch
    from PIL import Image

Way = Literal["pixels", "prior"]
WAYS: tuple[Way, ...] = get_args(Way)

LEARNING_RATE: dict[Way, float] = {"pixels": 0.05, "prior": 0.001}
"""Of Adam."""
TOTAL_VARIATION: dict[Way, float] = {"pixels": 1.0, "prior": 0.0}
"""Weight of the mean absolute difference of neighbouring values, which lie in [0, 1], beside the cosine distance."""
JITTER = 1 / 32
"""Before each step the picture is shifted by up to this share of its side: no pattern can rely on a grid."""


@dataclass(frozen=True)
class Settings:
    """How a picture is sought.

    Attributes:
        steps: of Adam.
        seed: of the start and the shifts; with the target's embedding it decides them.
    """

    way: Way = "pixels"
    steps: int = 300
    seed: int = 0


@dataclass(frozen=True)
class Inverted:
    """A picture found.

    Attributes:
        pixels: `[height, width, 3]` uint8, of the network's input size.
        row: `[D]` float32, of length 1: the embedding of these very pixels, unshifted and rounded to 8 bits.
        distance: 1 - cosine of `row` and the target, in [0, 2].
        curve: the same before each step, of the shifted picture.
    """

    pixels: npt.NDArray[np.uint8]
    row: npt.NDArray[np.float32]
    distance: float
    curve: tuple[float, ...]


def refuse_without_network(embedder: Embedder) -> None:
    """Refuse an embedder that no gradient goes through.

    Raises:
        FinerRankError: it is an ensemble, has no network of torch, or prepares pictures in a way of its own.
    """
    if embedder.members:
        raise FinerRankError(f"{embedder.spec}: several encoders; name one of its members")
    if embedder.model.encode is None or not isinstance(embedder.model.preprocess, Preprocessing):
        raise FinerRankError(
            f"{embedder.spec}: no network of torch, so that no gradient leads back to the pixels; name one of timm, "
            "open_clip or torchvision"
        )


def invert(
    embedder: Embedder,
    target: npt.NDArray[np.float32],
    settings: Settings,
    step: Callable[[int], Any] | None = None,
) -> Inverted:
    """Seek a picture whose embedding is the target's.

    The same on the same machine whatever else is inverted with it; other hardware rounds otherwise.

    Args:
        target: `[D]` of length 1.
        step: told of each step done.

    Raises:
        FinerRankError: see `refuse_without_network`; or the network's features became infinite.
    """
    import torch
    from torch.nn.functional import cosine_similarity

    refuse_without_network(embedder)
    model = embedder.model
    assert model.encode is not None
    assert isinstance(model.preprocess, Preprocessing)
    device = resolve_device(embedder._device)
    mean, std = (
        torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (model.preprocess.mean, model.preprocess.std)
    )
    wanted = torch.from_numpy(target).to(device)[None]
    own_seed = int(hashlib.sha256(f"{settings.seed} ".encode() + target.tobytes()).hexdigest()[:15], 16)
    random = torch.Generator().manual_seed(own_seed)
    picture, values = _start(settings.way, model.preprocess.size, random, own_seed, device)
    optimizer = torch.optim.Adam(values, lr=LEARNING_RATE[settings.way])
    curve = []
    most = max(1, round(JITTER * min(model.preprocess.size)))
    for _ in range(settings.steps):
        optimizer.zero_grad()
        pixels = picture()
        shift = torch.randint(-most, most + 1, (2,), generator=random).tolist()
        features = model.encode((torch.roll(pixels, shift, dims=(2, 3)) - mean) / std)
        distance = 1 - cosine_similarity(features.float(), wanted)[0]
        if not torch.isfinite(distance):
            raise FinerRankError(f"{embedder.spec}: its embedding is not finite on the way; try another --seed")
        loss = distance + TOTAL_VARIATION[settings.way] * _total_variation(pixels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        curve.append(float(distance.detach()))
        if step:
            step(1)
    with torch.no_grad():
        found = (picture()[0] * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    row = _embedding(embedder, found)
    return Inverted(found, row, max(0.0, 1 - float(row.astype(np.float64) @ target.astype(np.float64))), tuple(curve))


def prepared_picture(embedder: Embedder, picture: "Image.Image") -> npt.NDArray[np.uint8]:
    """`[height, width, 3]`: a picture as the network sees it, to be shown beside what was found."""
    preprocess = embedder.model.preprocess
    assert isinstance(preprocess, Preprocessing)
    pixels = preprocess(picture).transpose(1, 2, 0) * np.array(preprocess.std) + np.array(preprocess.mean)
    shown: npt.NDArray[np.uint8] = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return shown


def _embedding(embedder: Embedder, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """`[D]`: of a picture that has the network's input size already."""
    preprocess = embedder.model.preprocess
    assert isinstance(preprocess, Preprocessing)
    values = pixels.astype(np.float32) / np.float32(255)
    normalised = (values - np.array(preprocess.mean, np.float32)) / np.array(preprocess.std, np.float32)
    row: npt.NDArray[np.float32] = unit_rows(
        embedder.model.forward(np.ascontiguousarray(normalised.transpose(2, 0, 1))[None])
    )[0]
    wrong = what_is_wrong(row)
    if wrong:
        raise FinerRankError(f"{embedder.spec}: {wrong} at the end of the inversion; try another --seed")
    return row


def _start(
    way: Way, size: tuple[int, int], random: "torch.Generator", seed: int, device: str
) -> "tuple[Callable[[], torch.Tensor], list[torch.Tensor]]":
    """What makes the picture, `[1, 3, height, width]` in [0, 1], and the values that it is made of."""
    import torch

    if way == "pixels":
        start = 0.1 * torch.randn((1, 3, *size), generator=random)
        logits = start.to(device).requires_grad_(True)
        return lambda: torch.sigmoid(logits), [logits]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _prior().to(device)
    noise = torch.randn((1, 32, *size), generator=random).to(device)
    return lambda: network(noise), list(network.parameters())


def _prior() -> Any:
    """A network of an hourglass's form with skips: `[1, 32, H, W]` to `[1, 3, H, W]` in [0, 1], for any H and W."""
    import torch
    from torch import nn
    from torch.nn.functional import interpolate

    def block(n_in: int, n_out: int, stride: int = 1) -> nn.Module:
        convolution = nn.Conv2d(n_in, n_out, 3, stride, padding=1, padding_mode="replicate")
        return nn.Sequential(convolution, nn.GroupNorm(4, n_out), nn.LeakyReLU(0.2))

    class Prior(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = (16, 32, 64, 64)
            self.down = nn.ModuleList(block(n, m, 2) for n, m in zip((32, *widths), widths, strict=False))
            self.skips = nn.ModuleList(nn.Conv2d(n, 8, 1) for n in (32, *widths[:-1]))
            self.up = nn.ModuleList(block(n + 8, m) for n, m in zip((64, 64, 32, 32), (64, 32, 32, 32), strict=True))
            self.last = nn.Conv2d(32, 3, 1)

        def forward(self, noise: torch.Tensor) -> torch.Tensor:
            features, passed = noise, []
            for down, skip in zip(self.down, self.skips, strict=True):
                passed.append(skip(features))
                features = down(features)
            for up, skipped in zip(self.up, reversed(passed), strict=True):
                grown = interpolate(features, size=skipped.shape[2:], mode="bilinear", align_corners=False)
                features = up(torch.cat([grown, skipped], dim=1))
            return torch.sigmoid(self.last(features))

    return Prior()


def _total_variation(pixels: "torch.Tensor") -> "torch.Tensor":
    down = (pixels[:, :, 1:] - pixels[:, :, :-1]).abs().mean()
    right = (pixels[:, :, :, 1:] - pixels[:, :, :, :-1]).abs().mean()
    return down + right
