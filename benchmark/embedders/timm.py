"""PyTorch Image Models: `timm:NAME[.TAG]`, `timm:hf-hub:OWNER/NAME[@REVISION]`, `timm:local-dir:FOLDER`."""

import math
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.embedders.base import LoadedModel, Preprocessing, Request, Resize, network_model
from benchmark.embedders.weights import load_strictly, read_state_dict
from galleries.downloads import first_line, hub_file, url_file
from galleries.errors import FinerRankError

if TYPE_CHECKING:
    import torch

PACKAGES = ("timm", "torch")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
LOCAL_FOLDER = "timm:local-dir:FOLDER, where FOLDER holds config.json and model.safetensors"
BEFORE_NORM = "token before norm"
"""A pooling of our own: a Vision Transformer's class token as its last block leaves it. DreamSim takes DINO's so."""
RESIZE: dict[str, Resize] = {"center": "crop", "squash": "squash", "border": "pad"}


def load(request: Request, device: str, precision: str) -> LoadedModel:
    """The model without its classifier: what it pools is the embedding."""
    import timm
    import torch

    before_norm = request.pooling == BEFORE_NORM
    options: dict[str, Any] = {"global_pool": "token" if before_norm else request.pooling} if request.pooling else {}
    module = _create(request, **options)
    config = timm.data.resolve_model_data_config(module)
    own = request.preprocessing or _preprocessing(config)
    preprocessing = own.overridden(request.resize, request.size, request.interpolation)
    if preprocessing.size != tuple(config["input_size"][1:]) and module.pretrained_cfg.get("fixed_input_size"):
        options["img_size"] = preprocessing.size
        module = _create(request, **options)
    weights = request.weights_or(lambda: _pretrained_file(request, module.pretrained_cfg))
    state = read_state_dict(weights)
    for classifier in _names(module.pretrained_cfg.get("classifier")):
        state = {key: value for key, value in state.items() if not key.startswith(f"{classifier}.")}
    if state.keys() - module.state_dict().keys():
        head = _head(request, module, options)
        state = {key: value for key, value in state.items() if key not in head}
    if _shapes(state) != _shapes(module.state_dict()):
        # Older checkpoints, and those of another input size, are converted by timm's own function for the architecture.
        convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
        if convert is not None:
            try:
                state = convert(dict(state), module)
            except Exception as error:  # weights of another architecture raise many kinds: below, they are refused
                if request.size and isinstance(error, RuntimeError):
                    reason = first_line(error)
                    raise FinerRankError(
                        f"{request.spec}: takes no input of {request.size} pixels ({reason}); leave --size out"
                    ) from None
    load_strictly(module, state, weights, request.model)

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        if before_norm:
            _, tokens = module.forward_intermediates(
                pixels, indices=1, return_prefix_tokens=True, intermediates_only=True
            )[-1]
            return tokens[:, 0]  # type: ignore[no-any-return]
        features: torch.Tensor = module(pixels)
        return features

    architecture = _configuration(request)
    if request.pooling:
        architecture = f"{architecture}, pooled by {request.pooling}"
    look = partial(feature_map, module, norm=not before_norm)
    return network_model(module, encode, preprocessing, architecture, weights, device, precision, feature_map=look)


def feature_map(module: Any, pixels: "torch.Tensor", norm: bool = True) -> "torch.Tensor":
    """`[B, height, width, C]`: what a network of timm's pools, without its class and register tokens.

    Args:
        norm: of tokens, whether they are taken after the final norm.

    Raises:
        FinerRankError: the network keeps no grid of positions.
    """
    features = module.forward_features(pixels)
    if getattr(features, "ndim", 0) != 4:  # tokens, which each architecture lays out as a grid itself
        try:
            features = module.forward_intermediates(pixels, indices=1, norm=norm, intermediates_only=True)[-1]
        except (AttributeError, AssertionError) as error:
            what = f"{type(module).__name__}: its features are on no grid of positions"
            raise FinerRankError(f"{what} ({first_line(error)}); name another encoder") from None
    elif getattr(module, "output_fmt", "NCHW") == "NHWC":
        return features  # type: ignore[no-any-return]
    return features.permute(0, 2, 3, 1)  # type: ignore[no-any-return]


def _configuration(request: Request) -> str | Path:
    """What describes the architecture: timm's own name, or the configuration file of a folder or repository."""
    if request.model.startswith("local-dir:"):
        return Path(request.model.removeprefix("local-dir:"), "config.json")
    if request.model.startswith("hf-hub:"):
        repository, revision = _repository(request.model)
        return hub_file(repository, ["config.json"], LOCAL_FOLDER, revision)
    return request.model


def _head(request: Request, module: Any, options: dict[str, Any]) -> set[str]:
    """Names of the tensors that only the whole classifier has: its last layers, with their norms."""
    import torch

    with torch.device("meta"):
        whole = _create(request, num_classes=2, **options)
    return whole.state_dict().keys() - module.state_dict().keys()  # type: ignore[no-any-return]


def _create(request: Request, num_classes: int = 0, **options: Any) -> Any:
    import timm

    configuration = _configuration(request)
    # A repository's configuration at its revision, from the mirror too.
    name = f"local-dir:{configuration.parent}" if isinstance(configuration, Path) else request.model
    try:
        return timm.create_model(name, pretrained=False, num_classes=num_classes, **options)
    except TypeError as error:
        if options:
            raise FinerRankError(f"{request.spec}: takes no other input size ({error}); leave --size out") from None
        raise _cannot_be_built(request, configuration, error) from None
    except Exception as error:  # unknown names and damaged configurations raise many kinds
        raise _cannot_be_built(request, configuration, error) from None


def _cannot_be_built(request: Request, configuration: str | Path, error: Exception) -> FinerRankError:
    import timm

    if isinstance(configuration, Path):
        reason = f"{type(error).__name__}: {first_line(error)}"
        return FinerRankError(f"{configuration}: describes no model of timm ({reason}); fetch it again")
    near = timm.list_models(f"*{request.model.split('.')[0][:12]}*", pretrained=True)[:3]
    hint = f"near: {', '.join(near)}" if near else "timm.list_models() lists them"
    return FinerRankError(f"{request.spec}: timm has no such model ({first_line(error)}); {hint}")


def _preprocessing(config: dict[str, Any]) -> Preprocessing:
    height, width = config["input_size"][1:]
    to = (math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"]))
    mode = RESIZE[config.get("crop_mode", "center")]
    if (mode != "squash" and height != width) or (mode == "pad" and config["crop_pct"] != 1):
        raise FinerRankError(
            f"input {height} × {width} with crop mode {config.get('crop_mode')!r} and crop {config['crop_pct']}: "
            "this geometry is not supported; give --resize squash"
        )
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
