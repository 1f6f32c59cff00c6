"""Classifiers of torchvision with random weights, as far as perceptual metrics look into them."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

NAMES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


def random_features(network: str, seed: int = 0) -> nn.Sequential:
    """`features` with weights drawn so that signals keep their size from layer to layer."""
    with torch.device("meta"):  # of the whole classifier no weight is drawn
        features: nn.Sequential = models.get_model(NAMES[network], weights=None).features
    features.to_empty(device="cpu")
    draw = torch.Generator().manual_seed(seed)
    for parameter in features.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
        parameter.data.normal_(0, (2 / fan_in) ** 0.5, generator=draw)
    return features.eval().requires_grad_(False)


def write_trunk(path: Path, network: str, seed: int = 0) -> Path:
    """Weights as a checkpoint of torchvision names them."""
    state = random_features(network, seed).state_dict()
    save_file({f"features.{key}": value for key, value in state.items()}, path)
    return path
