"""Pairwise distances of pictures under one interface: perceptual metrics, and the cosine under any embedder.

`METHODS` is the whole registry of those that are no embedders. A method is one module with
`load(request) -> Distance`, and a row here.
"""

import importlib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from benchmark.distances.base import Distance, Resources
from benchmark.distances.embeddings import EmbeddingDistance
from benchmark.embedders import load_embedder
from benchmark.embedders.specs import UnknownEmbedder
from benchmark.store import Root
from galleries.errors import FinerRankError

__all__ = ["METHODS", "Distance", "DistanceRequest", "Resources", "load_distance"]

METHODS: dict[str, str] = {"lpips": "lpips", "dists": "dists", "ssim": "pixels", "psnr": "pixels", "clpips": "clpips"}
"""First word of a spec → module of this package."""


@dataclass(frozen=True)
class DistanceRequest:
    """What the user asked of a method: `method[:variant][@weights]`.

    Attributes:
        size: pictures are squashed to `size` × `size` pixels, bicubic; compared as they are where None.
    """

    spec: str
    variant: str
    weights: Path | None
    size: int | None
    device: str


def load_distance(
    spec: str, *, size: int | None = None, device: str = "auto", precision: str = "fp32", memo: Root | None = None
) -> Distance:
    """The distance of that name: a method of `METHODS`, or the cosine distance under any embedder's spec.

    Args:
        size: squash pictures to so many pixels; for an embedder, in place of its own geometry.
        precision, memo: of embedders, see `load_embedder`.

    Raises:
        FinerRankError: unknown name. Weights are looked at when they are needed.
    """
    method, _, rest = spec.partition("@")[0].partition(":")
    if method not in METHODS:
        try:
            embedder = load_embedder(
                spec, size=size, resize="squash" if size else None, precision=precision, device=device, memo=memo
            )
        except UnknownEmbedder as error:
            near = get_close_matches(method.lower(), METHODS, n=2)
            hint = f"{' or '.join(map(repr, near))} is meant? " if near else ""
            raise FinerRankError(
                f"{spec}: no such metric; {hint}metrics of pictures are {', '.join(METHODS)}; of embedders: {error}"
            ) from None
        return EmbeddingDistance(embedder)
    if size is not None and not 8 <= size <= 4096:
        raise FinerRankError(f"--size {size}: out of range; write 8 to 4096 pixels")
    if precision != "fp32":
        raise FinerRankError(f"{spec}: is computed in fp32 only; leave --precision out")
    weights = spec.partition("@")[2]
    request = DistanceRequest(spec, rest, Path(weights) if weights else None, size, device)
    module: Any = importlib.import_module(f"benchmark.distances.{METHODS[method]}")
    found: Distance = module.load(request)
    return found
