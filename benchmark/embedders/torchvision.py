"""Classifiers of torchvision: `torchvision:NAME`; the embedding is what enters the last layer."""

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.embedders.base import LoadedModel, Preprocessing, Request, network_model
from benchmark.embedders.weights import load_strictly, read_state_dict
from galleries.downloads import url_file
from galleries.errors import FinerRankError

if TYPE_CHECKING:
    import torch
    from torch.fx import Node

PACKAGES = ("torchvision", "torch")
OWN_NORMALISATION = {"transform_input": True}
NORMALISED_WITHIN = ("googlenet", "inception_v3")
"""Networks that turn ImageNet's normalisation into their own; torchvision does so with its own weights only."""


def load(request: Request, device: str, precision: str) -> LoadedModel:
    """The network up to its last linear or convolutional layer, averaged over positions."""
    import torch
    from torchvision import models

    if request.model not in models.list_models(module=models):
        raise FinerRankError(
            f"{request.spec}: torchvision has no such classifier; torchvision.models.list_models() lists them"
        )
    options = OWN_NORMALISATION if request.model in NORMALISED_WITHIN else {}
    with warnings.catch_warnings():  # of slow random weights, which are overwritten
        warnings.simplefilter("ignore")
        module: torch.nn.Module = models.get_model(request.model, weights=None, **options)
    published = models.get_model_weights(request.model).DEFAULT
    transform = published.transforms()
    checkpoints = Path(torch.hub.get_dir()) / "checkpoints"
    # Their names end in the first digits of their SHA-256.
    digits = Path(published.url).stem.rpartition("-")[2]
    weights = request.weights_or(lambda: url_file(published.url, checkpoints, f"{request.spec}@FILE", digits))
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

    @cache  # traced when it is first looked at, on the device where the network is by then
    def looker() -> Callable[[torch.Tensor], torch.Tensor]:
        return _feature_map(module)

    def feature_map(pixels: torch.Tensor) -> torch.Tensor:
        return looker()(pixels)

    architecture = ", ".join([request.model, *(f"{key}={value}" for key, value in options.items())])
    return network_model(
        module, encode, preprocessing, architecture, weights, device, precision, feature_map=feature_map
    )


def _feature_map(module: "torch.nn.Module") -> "Callable[[torch.Tensor], torch.Tensor]":
    """From pixels to `[B, height, width, C]`: what a classifier pools, or a transformer's patch tokens."""
    import torch
    from torch import fx

    # Some pool by a module, some by a function: the graph shows both.
    graph = fx.symbolic_trace(module).graph
    if hasattr(module, "encoder"):
        last = next(node for node in graph.nodes if node.target == "encoder.ln")
    else:
        last = next(node for node in reversed(graph.nodes) if _is_pooling(node, module)).args[0]
    next(iter(reversed(graph.nodes))).args = (last,)
    graph.eliminate_dead_code()
    before = fx.GraphModule(module, graph)

    def feature_map(pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = before(pixels)
        if features.ndim == 4:
            return features.permute(0, 2, 3, 1)
        n_lines = pixels.shape[2] // int(module.patch_size)  # type: ignore[arg-type]
        return features[:, 1:].reshape(len(features), n_lines, -1, features.shape[-1])

    return feature_map


def _is_pooling(node: "Node", module: "torch.nn.Module") -> bool:
    import torch

    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), torch.nn.AdaptiveAvgPool2d)
    return node.target in ("mean", torch.nn.functional.adaptive_avg_pool2d)


def _last_layer(module: "torch.nn.Module") -> str:
    import torch

    layers: list[str] = [
        name for name, layer in module.named_modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
    ]
    return layers[-1]
