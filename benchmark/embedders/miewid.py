"""MiewID: `miewid:ARCHITECTURE[@FILE]`, `miewid:hf-hub:OWNER/NAME[@REVISION]`, `miewid:local-dir:FOLDER`.

A convolutional network of timm's whose last feature map is pooled by a generalised mean with a learned exponent, then
batch normalisation (Wild Me, github.com/WildMeOrg/wbia-plugin-miew-id, `wbia_miew_id/models/model.py`). Built here from
timm's parts: the code that comes with the published weights is never run.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.embedders.base import LoadedModel, Preprocessing, Request, network_model
from benchmark.embedders.weights import load_strictly, read_state_dict
from benchmark.embedders.zoo import NORMALISATIONS
from galleries.downloads import hub_file
from galleries.errors import FinerRankError

if TYPE_CHECKING:
    import torch

PACKAGES = ("timm", "torch")
ARCHITECTURE = "efficientnetv2_rw_m"
"""Of all published weights; taken where none is named."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
LOCAL_FOLDER = "miewid:local-dir:FOLDER, where FOLDER holds config.json and model.safetensors"
SMALLEST = 1e-6
"""What lies below in a feature map is raised to this before it is pooled, as in the published code."""
UNUSED = ("final.", "backbone.classifier.")
"""Layers of training that the published files keep."""


def load(request: Request, device: str, precision: str) -> LoadedModel:
    """The network; what leaves its batch normalisation is the embedding, `[B, D]`.

    Raises:
        FinerRankError: another architecture, no weights, or weights of another network, such as those of timm's own
            model of that name.
    """
    import torch

    architecture, configuration = _architecture(request)
    preprocessing = _preprocessing(request)
    weights = request.weights_or(lambda: _own_weights(request))
    state = _training_names(read_state_dict(weights))
    module = _create(architecture)
    load_strictly(module, state, weights, f"MiewID on {architecture}")

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        features = module["backbone"](pixels)
        with torch.autocast(pixels.device.type, enabled=False):  # powers multiply what 16 bits round off
            exponent = module.get_parameter("pooling.p")
            powers = features.float().clamp(min=SMALLEST).pow(exponent)
            normalised: torch.Tensor = module["bn"](powers.mean(dim=(2, 3)).pow(1 / exponent))
        return normalised

    def feature_map(pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = module["backbone"](pixels)
        return features.permute(0, 2, 3, 1)

    loaded = network_model(
        module, encode, preprocessing, architecture, weights, device, precision, feature_map=feature_map
    )
    return replace(loaded, files=(*loaded.files, configuration)) if configuration else loaded


def _create(architecture: str) -> "torch.nn.ModuleDict":
    """The network with random weights, its tensors named as its owners' training code names them."""
    import timm
    import torch

    backbone = timm.create_model(architecture, pretrained=False, num_classes=0, global_pool="")
    exponent = torch.nn.ParameterDict({"p": torch.full((1,), 3.0)})
    normalisation = torch.nn.BatchNorm1d(backbone.num_features)
    return torch.nn.ModuleDict({"backbone": backbone, "pooling": exponent, "bn": normalisation})


def _training_names(state: dict[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """Without the layers that nothing uses, and the exponent where the training code keeps it, not the hub's."""
    used = {key: value for key, value in state.items() if not key.startswith(UNUSED)}
    if "pooling.p" not in used and "backbone.global_pool.p" in used:
        used["pooling.p"] = used.pop("backbone.global_pool.p")
    return used


def _preprocessing(request: Request) -> Preprocessing:
    # 440 pixels, scaled by Pillow: the owners' README. Their training code scales by OpenCV: "bilinear-opencv".
    own = Preprocessing((440, 440), "squash", (440, 440), "bilinear", *NORMALISATIONS["imagenet"])
    return (request.preprocessing or own).overridden(request.resize, request.size, request.interpolation)


def _architecture(request: Request) -> tuple[str, Path | None]:
    """Its name in timm, and the configuration file that says so, if there is one."""
    import timm

    if request.model.startswith("hf-hub:"):
        repository, revision = _repository(request.model)
        configuration = hub_file(repository, ["config.json"], LOCAL_FOLDER, revision)
    elif request.model.startswith("local-dir:"):
        configuration = Path(request.model.removeprefix("local-dir:"), "config.json")
    else:
        configuration = None
    named = request.model or ARCHITECTURE
    if configuration:
        try:
            named = json.loads(configuration.read_bytes())["model_name"]
        except FileNotFoundError:
            raise FinerRankError(f"{configuration}: no such file; write {LOCAL_FOLDER}") from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise FinerRankError(f"{configuration}: names no architecture (model_name); fetch it again") from None
    known = timm.list_models("efficientnetv2_rw_*")
    if named not in known:
        where = configuration or request.spec
        raise FinerRankError(f"{where}: {named!r} is no architecture of MiewID's; known: {', '.join(known)}")
    return named, configuration


def _own_weights(request: Request) -> Path:
    if request.model.startswith("hf-hub:"):
        repository, revision = _repository(request.model)
        return hub_file(repository, WEIGHTS, LOCAL_FOLDER, revision)
    if request.model.startswith("local-dir:"):
        folder = Path(request.model.removeprefix("local-dir:"))
        for name in WEIGHTS:
            if (folder / name).is_file():
                return folder / name
        raise FinerRankError(f"{folder}: neither {' nor '.join(WEIGHTS)}; put the weights there")
    architecture = request.model or ARCHITECTURE
    raise FinerRankError(f"{request.spec}: says no weights; write miewid:{architecture}@FILE, or a name of the zoo")


def _repository(model: str) -> tuple[str, str | None]:
    name, _, revision = model.removeprefix("hf-hub:").partition("@")
    return name, revision or None
