"""Networks that look at one thing alone, as embedders, and judgements made by hand. Importing this imports torch."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from benchmark.distances.base import Floats, Resources
from benchmark.distances.embeddings import EmbeddingDistance
from benchmark.embedders import Embedder
from benchmark.embedders.base import Preprocessing, Request, network_model
from benchmark.human_judgements.judgements import Judgement, Judgements, Kind
from galleries.images import decode_image, read_image_bytes


def seeing(folder: Path, encode: Callable[[torch.Tensor], torch.Tensor], px: int = 32) -> Embedder:
    """An embedder of an own function of `[B, 3, px, px]` in [0, 1]; pictures are squashed."""
    weights = folder / f"{encode.__name__}.bin"
    weights.write_bytes(encode.__name__.encode())
    size = (px, px)
    geometry = Preprocessing(size, "squash", size, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    embedder = Embedder(Request(encode.__name__, "timm", encode.__name__, weights), "cpu", "fp32", None)
    embedder.model = network_model(torch.nn.Identity(), encode, geometry, encode.__name__, weights, "cpu", "fp32")
    return embedder


def as_distance(folder: Path, encode: Callable[[torch.Tensor], torch.Tensor], px: int = 32) -> EmbeddingDistance:
    return EmbeddingDistance(seeing(folder, encode, px))


def coarse(pixels: torch.Tensor) -> torch.Tensor:
    """A linear network: the mean colours of 4 × 4 cells."""
    return torch.nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(1) - 0.5


def luma_of_parts(pixels: torch.Tensor) -> torch.Tensor:
    """Blind to colour."""
    luma = (pixels * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    return torch.nn.functional.adaptive_avg_pool2d(luma, 8).flatten(1) - 0.4


def mean_colour(pixels: torch.Tensor) -> torch.Tensor:
    """Blind to place."""
    return pixels.mean(dim=(2, 3)) - 0.4


def left_half(pixels: torch.Tensor) -> torch.Tensor:
    return coarse(pixels[:, :, :, : pixels.shape[3] // 2])


class Told:
    """A distance of image files that is told by a function."""

    spec = "told"
    description: dict[str, str] = {}  # noqa: RUF012
    fingerprint = "0"
    packages = ()

    def __init__(self, of: Callable[[Path, Path], float]) -> None:
        self.of = of

    def between(self, first: object, second: object, batch_size: int = 32) -> Floats:
        raise AssertionError("pictures in memory have no names to tell of")

    def of_pairs(self, pairs: Sequence[tuple[Path, Path]], resources: Resources) -> Floats:
        return np.array([self.of(*pair) for pair in pairs])


def judged(
    folder: Path, rows: Sequence[tuple[Sequence[str], float, str]], kind: Kind = "2afc", **more: str
) -> Judgements:
    """Rows of names of PNG files, answer and target."""
    made = tuple(
        Judgement(tuple(folder / f"{name}.png" for name in names), answer, target, **more)  # type: ignore[arg-type]
        for names, answer, target in rows
    )
    return Judgements("by hand", kind, folder, made)


def save(pixels: npt.NDArray[np.generic], path: Path) -> Path:
    """`[H, W, 3]` as an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)
    return path


def pixels_of(path: Path) -> Floats:
    return np.asarray(decode_image(read_image_bytes(path)), dtype=np.float64)


def patchwork(seed: int, side: int = 48, n: int = 6) -> npt.NDArray[np.uint8]:
    """A picture of smooth patches of colour."""
    patches = np.random.default_rng(seed).integers(20, 236, (n, n, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(patches).resize((side, side), Image.Resampling.BICUBIC))
