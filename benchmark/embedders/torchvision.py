"""Classifiers of torchvision: `torchvision:NAME`; the embedding is what enters the last layer."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.embedders.base import LoadedModel, Preprocessing, Request, network_model
from benchmark.embedders.weights import load_strictly, read_state_dict
from galleries.downloads import url_file
from galleries.errors import FinerRankError

if TYPE_CHECKING:
    import torch

PACKAGES = ("torchvision", "torch")


def load(request: Request, device: str, precision: str) -> LoadedModel:
    """The network up to its last linear or convolutional layer, averaged over positions."""
    import torch
    from torchvision import models

    if request.model not in models.list_models(module=models):
        raise FinerRankError(
            f"{request.spec}: torchvision has no such classifier; torchvision.models.list_models() lists them"
        )
    with warnings.catch_warnings():  # of slow random weights, which are overwritten
        warnings.simplefilter("ignore")
        module: torch.nn.Module = models.get_model(request.model, weights=None)
    published = models.get_model_weights(request.model).DEFAULT
    transform = published.transforms()
    checkpoints = Path(torch.hub.get_dir()) / "checkpoints"
    weights = request.weights_or(lambda: url_file(published.url, checkpoints, f"{request.spec}@FILE"))
    last = _last_layer(module)
    state = {key: value for key, value in read_state_dict(weights).items() if not key.startswith(f"{last}.")}
    module.set_submodule(last, torch.nn.Identity())
    load_strictly(module, state, weights, request.model)

    crop, short = transform.crop_size[0], transform.resize_size[0]
    own = Preprocessing(
        (crop, crop),
        "crop",
        (short, short),
        transform.interpolation.value,
        tuple(transform.mean),
        tuple(transform.std),
    )
    preprocessing = (request.preprocessing or own).overridden(request.resize, request.size, request.interpolation)

    fixed = getattr(module, "image_size", None)  # a transformer's grid of positions
    if fixed and preprocessing.size != (fixed, fixed):
        raise FinerRankError(f"{request.spec}: takes {fixed} × {fixed} pixels only; leave --size out")

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = module(pixels)
        return features.mean(dim=(2, 3)) if features.ndim == 4 else features

    return network_model(module, encode, preprocessing, request.model, weights, device, precision)


def _last_layer(module: "torch.nn.Module") -> str:
    import torch

    layers: list[str] = [
        name for name, layer in module.named_modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
    ]
    return layers[-1]
