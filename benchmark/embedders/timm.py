"""PyTorch Image Models: `timm:NAME[.TAG]`, `timm:hf-hub:OWNER/NAME[@REVISION]`, `timm:local-dir:FOLDER`."""

import math
import sys
from pathlib import Path
from typing import Any

from benchmark.embedders.base import (
    LoadedModel,
    Preprocessing,
    Request,
    Resize,
    hub_file,
    load_strictly,
    network_model,
    read_state_dict,
    url_file,
)
from galleries.errors import FinerRankError

PACKAGES = ("timm", "torch")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
LOCAL_FOLDER = "timm:local-dir:FOLDER, where FOLDER holds config.json and model.safetensors"
RESIZE: dict[str, Resize] = {"center": "crop", "squash": "squash", "border": "pad"}


def load(request: Request, device: str, precision: str) -> LoadedModel:
    """The model without its classifier: what it pools is the embedding."""
    import timm
    import torch

    module = _create(request)
    config = timm.data.resolve_model_data_config(module)
    preprocessing = _preprocessing(config).overridden(request.resize, request.size, request.interpolation)
    if preprocessing.size != tuple(config["input_size"][1:]) and module.pretrained_cfg.get("fixed_input_size"):
        module = _create(request, img_size=preprocessing.size)
    weights = request.weights or _pretrained_file(request, module.pretrained_cfg)
    state = read_state_dict(weights)
    for classifier in _names(module.pretrained_cfg.get("classifier")):
        state = {key: value for key, value in state.items() if not key.startswith(f"{classifier}.")}
    if _shapes(state) != _shapes(module.state_dict()):
        # Older checkpoints, and those of another input size, are converted by timm's own function for the architecture.
        convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
        if convert is not None:
            state = convert(state, module)
    load_strictly(module, state, weights, request.model)

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = module(pixels)
        return features

    return network_model(module, encode, preprocessing, weights, device, precision)


def _create(request: Request, **options: Any) -> Any:
    import timm

    name = request.model
    if name.startswith("hf-hub:"):
        repository, revision = _repository(name)
        hub_file(repository, ["config.json"], LOCAL_FOLDER, revision)
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **options)
    except TypeError as error:
        if options:
            raise FinerRankError(f"{request.spec}: takes no other input size ({error}); leave --size out") from None
        raise
    except (RuntimeError, ValueError, FileNotFoundError) as error:
        near = timm.list_models(f"*{name.split('.')[0].split(':')[-1][:12]}*", pretrained=True)[:3]
        hint = f"near: {', '.join(near)}" if near else "timm.list_models() lists them"
        raise FinerRankError(f"{request.spec}: timm has no such model ({error}); {hint}") from None


def _preprocessing(config: dict[str, Any]) -> Preprocessing:
    height, width = config["input_size"][1:]
    to = (math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"]))
    mode = RESIZE[config.get("crop_mode", "center")]
    return Preprocessing(
        (height, width), mode, to, config["interpolation"], tuple(config["mean"]), tuple(config["std"])
    )


def _pretrained_file(request: Request, config: dict[str, Any]) -> Path:
    import torch

    if request.model.startswith("local-dir:"):
        folder = Path(request.model.removeprefix("local-dir:"))
        for name in WEIGHTS:
            if (folder / name).is_file():
                return folder / name
        raise FinerRankError(f"{folder}: neither {' nor '.join(WEIGHTS)}; put the weights there")
    if request.model.startswith("hf-hub:"):
        repository, revision = _repository(request.model)
        return hub_file(repository, WEIGHTS, LOCAL_FOLDER, revision)
    if config.get("hf_hub_id"):
        published = config.get("hf_hub_filename")
        return hub_file(config["hf_hub_id"], [published] if published else WEIGHTS, f"timm:{request.model}@FILE")
    if config.get("url"):
        return url_file(config["url"], Path(torch.hub.get_dir()) / "checkpoints", f"timm:{request.model}@FILE")
    raise FinerRankError(f"{request.spec}: no pretrained weights are published; name a file: timm:{request.model}@FILE")


def _repository(model: str) -> tuple[str, str | None]:
    name, _, revision = model.removeprefix("hf-hub:").partition("@")
    return name, revision or None


def _names(classifier: Any) -> tuple[str, ...]:
    return () if not classifier else (classifier,) if isinstance(classifier, str) else tuple(classifier)


def _shapes(state: Any) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}
