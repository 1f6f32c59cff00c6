"""CLPIPS (arXiv 2604.01234), LPIPS with weights tuned to people: `clpips:FOLDER[@FILE]`.

The folder, which `finer-rank agreement tune --recipe clpips` writes, holds the weights of the channels alone; the trunk
is the one that they were tuned on, torchvision's published one or in a file.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmark.distances.lpips import CHANNELS, LEAST_SIDE_PX, PACKAGES, Lpips, load_trunk
from benchmark.distances.pairs import PictureDistance
from benchmark.embedders import resolve_device
from benchmark.embedders.weights import read_state_dict
from galleries.errors import FinerRankError, printable
from galleries.image_set import new_folder

if TYPE_CHECKING:
    from benchmark.distances import DistanceRequest

DESCRIPTION, WEIGHTS = "distance.toml", "model.safetensors"
FORMAT = 1
ENTRIES = ("format", "method", "network", "trunk_sha256", "size", "training")
"""Of `distance.toml`; the last is for people to read."""


def load(request: "DistanceRequest") -> PictureDistance:
    """The distance of a folder. The side that pictures were squashed to in tuning stands unless another is asked for.

    Raises:
        FinerRankError: no such folder, or one that describes no such distance.
    """
    folder = Path(request.variant)
    described = _described(request.spec, folder)
    network: str = described["network"]

    def build() -> Lpips:
        weights = _read_weights(folder, network)
        device = resolve_device(request.device)
        trunk = load_trunk(network, request.weights, device, "clpips:FOLDER@FILE")
        if trunk.digest != described["trunk_sha256"]:
            raise FinerRankError(
                f"{request.spec}: was tuned on another trunk of {network}; write clpips:FOLDER@FILE with the file of "
                "weights that it was tuned on"
            )
        return Lpips(trunk, weights, device, {"method": "clpips", "network": network})

    size = request.size or described["size"]
    return PictureDistance(replace(request, size=size), build, PACKAGES, LEAST_SIDE_PX[network])


def write(
    out: Path, weights: Tensor, *, network: str, trunk_sha256: str, size: int, training: Mapping[str, Any]
) -> None:
    """Write a folder that `clpips:` reads; all of it or nothing.

    Args:
        weights: `[ΣC]` ≥ 0.
        training: for people to read.

    Raises:
        FinerRankError: `out` exists already, or cannot be written.
    """
    import tomli_w
    from safetensors.torch import save_file

    entries = {
        "format": FORMAT, "method": "clpips", "network": network, "trunk_sha256": trunk_sha256, "size": size,
        "training": dict(training),
    }  # fmt: skip
    with new_folder(out) as partial:
        save_file({"weights": weights.float().cpu().contiguous()}, partial / WEIGHTS)
        (partial / DESCRIPTION).write_text(tomli_w.dumps(entries), encoding="utf-8")


def _described(spec: str, folder: Path) -> Mapping[str, Any]:
    path = folder / DESCRIPTION
    if not str(folder) or folder == Path() or not path.is_file():
        raise FinerRankError(f"{spec}: no {DESCRIPTION} there; write clpips:FOLDER of a tuned distance")
    try:
        described = tomllib.loads(path.read_text(encoding="utf-8"))
        if described["format"] != FORMAT:
            raise FinerRankError(f"{path}: format {described['format']}, this program reads {FORMAT}; tune it again")
        foreign = sorted(described.keys() - set(ENTRIES))
        if foreign:
            raise ValueError(f"unknown entry {foreign[0]!r}; known: {', '.join(ENTRIES)}")
        if described["method"] != "clpips":
            raise ValueError("method is not clpips")
        if described["network"] not in CHANNELS:
            raise ValueError(f"network is none of {', '.join(CHANNELS)}")
        digest, size = described["trunk_sha256"], described["size"]
        if not isinstance(digest, str) or len(digest) != 64:
            raise ValueError("trunk_sha256 is no digest")
        if type(size) is not int or not LEAST_SIDE_PX[described["network"]] <= size <= 4096:
            raise ValueError(f"size is none of {LEAST_SIDE_PX[described['network']]} to 4096 pixels")
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else printable(str(error).splitlines()[0])
        raise FinerRankError(f"{path}: does not describe a tuned distance ({reason}); tune it again") from None
    return described


def _read_weights(folder: Path, network: str) -> Tensor:
    path = folder / WEIGHTS
    if not path.is_file():
        raise FinerRankError(f"{path}: is missing; tune it again")
    state = read_state_dict(path)
    n_channels = sum(CHANNELS[network])
    weights = state.get("weights")
    if set(state) != {"weights"} or weights is None or weights.shape != (n_channels,):
        raise FinerRankError(f"{path}: holds other tensors than weights of {n_channels} channels; tune it again")
    if not weights.is_floating_point() or not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
        raise FinerRankError(f"{path}: a weight is below 0 or no number; tune it again")
    if not bool(weights.any()):
        raise FinerRankError(f"{path}: all weights are 0; tune it again")
    return weights.float()
