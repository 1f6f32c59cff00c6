"""OpenCLIP: `open_clip:MODEL/TAG`, `open_clip:hf-hub:OWNER/NAME[@REVISION]`, `open_clip:local-dir:FOLDER`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.embedders.base import Interpolation, LoadedModel, Preprocessing, Request, Resize, network_model
from benchmark.embedders.timm import feature_map as timm_feature_map
from benchmark.embedders.weights import read_state_dict
from galleries.downloads import hub_file, url_file
from galleries.errors import FinerRankError

if TYPE_CHECKING:
    import torch

PACKAGES = ("open_clip_torch", "timm", "torch")
RESIZE: dict[str, Resize] = {"shortest": "crop", "squash": "squash", "longest": "pad"}
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode", "fill_color")
CONFIG = "open_clip_config.json"
LOCAL_FOLDER = f"open_clip:local-dir:FOLDER, where FOLDER holds {CONFIG} and the weights"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def load(request: Request, device: str, precision: str) -> LoadedModel:
    """The image tower; its projected output is the embedding."""
    import open_clip
    import torch

    name, weights, tag_config = _resolve(request)
    # A folder may hold a tower whose positions are of another size than its name says.
    size = request.size or (request.preprocessing.size if request.preprocessing else None)
    try:
        model = open_clip.create_model(
            name,
            pretrained=None if ":" in name else str(weights),
            force_image_size=size,
            precision="fp32",
            pretrained_image=False,
            weights_only=True,
        )
    except Exception as error:  # damaged weights and configurations raise many kinds
        read_state_dict(weights)  # says so if the file itself is at fault
        reason = " ".join(str(error).split())[:150]
        raise FinerRankError(f"{weights}: not weights of {request.model} ({reason}); name those that are") from None
    config = {**open_clip.get_model_preprocess_cfg(model), **tag_config}
    own = request.preprocessing or _preprocessing(
        config, open_clip.get_model_preprocess_cfg(model)["size"] if not request.size else request.size
    )
    preprocessing = own.overridden(request.resize, request.size, request.interpolation)

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = model.encode_image(pixels)
        return features

    def encode_texts(texts: Sequence[str]) -> torch.Tensor:
        features: torch.Tensor = model.encode_text(open_clip.get_tokenizer(name)(list(texts)).to(device))
        return features

    return network_model(
        model,
        encode,
        preprocessing,
        _configuration(name),
        weights,
        device,
        precision,
        feature_map=_feature_map(model.visual),
        encode_texts=encode_texts,
    )


def _feature_map(visual: Any) -> "Callable[[torch.Tensor], torch.Tensor] | None":
    """From pixels to `[B, height, width, C]`, in the space of the embedding where the tower projects into it."""
    if hasattr(visual, "trunk"):
        project = None if hasattr(visual.head, "pool") else visual.head
        return lambda pixels: _projected(timm_feature_map(visual.trunk, pixels), project)
    if not hasattr(visual, "forward_intermediates"):
        return None
    # Under attentional pooling norm and projection are of what was pooled.
    is_pooled_last = getattr(visual, "attn_pool", None) is None
    projection = getattr(visual, "proj", None) if is_pooled_last else None

    def feature_map(pixels: "torch.Tensor") -> "torch.Tensor":
        found = visual.forward_intermediates(
            pixels, indices=1, normalize_intermediates=is_pooled_last, intermediates_only=True
        )
        parts = found["image_intermediates"][-1].permute(0, 2, 3, 1)
        return _projected(parts, None if projection is None else lambda each: each @ projection)

    return feature_map


def _projected(parts: "torch.Tensor", project: "Callable[[torch.Tensor], torch.Tensor] | None") -> "torch.Tensor":
    return parts if project is None else project(parts)


def _configuration(name: str) -> str | Path:
    """What describes the architecture: open_clip's own name, or the configuration file of a folder."""
    return Path(name.removeprefix("local-dir:"), CONFIG) if name.startswith("local-dir:") else name


def _resolve(request: Request) -> tuple[str, Path, dict[str, Any]]:
    """The name to build, the weights file, and what the pretrained tag says of preprocessing."""
    import open_clip
    import torch

    if request.weights and request.model.startswith(("hf-hub:", "local-dir:")):
        raise FinerRankError(f"{request.spec}: the folder holds its own weights; put the file there, or name a model")
    if request.model.startswith("hf-hub:"):
        repository, _, revision = request.model.removeprefix("hf-hub:").partition("@")
        folder = hub_file(repository, [CONFIG], LOCAL_FOLDER, revision or None).parent
        if folder.parent.name == "snapshots":
            revision = folder.name  # a branch may move between two files
        weights = hub_file(repository, WEIGHTS, LOCAL_FOLDER, revision or None)
        if weights.parent != folder:  # the library would look for them there, and score with random ones
            raise FinerRankError(f"{folder}: holds {CONFIG} without the weights; put {' or '.join(WEIGHTS)} there")
        return f"local-dir:{folder}", weights, {}
    if request.model.startswith("local-dir:"):
        folder = Path(request.model.removeprefix("local-dir:"))
        found = [folder / name for name in WEIGHTS if (folder / name).is_file()]
        if not found or not (folder / CONFIG).is_file():
            raise FinerRankError(f"{folder}: needs {CONFIG} and {' or '.join(WEIGHTS)}; put them there")
        return request.model, found[0], {}
    name, _, tag = request.model.partition("/")
    if open_clip.get_model_config(name) is None:
        raise FinerRankError(f"{request.spec}: open_clip has no model {name!r}; open_clip.list_models() lists them")
    if request.weights is not None:
        if not request.weights.is_file():
            raise FinerRankError(f"{request.weights}: no such weights file; check the path after '@'")
        return name, request.weights, _tag_config(name, tag) if tag else _common_config(request, name)
    if not tag:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise FinerRankError(f"{request.spec}: says no weights; add /TAG ({tags}) or @FILE")
    config = _tag_config(name, tag)
    if request.published:
        return name, request.weights_or(Path), config
    if config.get("hf_hub"):
        repository, _, file = str(config["hf_hub"]).rpartition("/")
        names = [file] if file else list(WEIGHTS)
        safe = [n.rsplit(".", 1)[0] + ".safetensors" for n in names]
        return (
            name,
            hub_file(repository, list(dict.fromkeys([*safe, *names])), f"open_clip:{name}@FILE"),
            config,
        )
    return (
        name,
        url_file(config["url"], Path(torch.hub.get_dir()) / "checkpoints", f"open_clip:{name}@FILE"),
        config,
    )


def _common_config(request: Request, name: str) -> dict[str, Any]:
    """The preprocessing that all pretrained tags of a model share; nothing where it has none.

    Raises:
        FinerRankError: they differ, so that a file of weights needs a tag.
    """
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    configs: list[dict[str, Any]] = [
        {key: value for key, value in open_clip.get_pretrained_cfg(name, tag).items() if key in PREPROCESSING}
        for tag in tags
    ]
    if request.preprocessing is None and any(config != configs[0] for config in configs):
        raise FinerRankError(
            f"{request.spec}: preprocessing differs among the weights of {name}; say whose is right: "
            f"open_clip:{name}/TAG@FILE, where TAG is among {', '.join(tags)}"
        )
    return configs[0] if configs else {}


def _tag_config(name: str, tag: str) -> dict[str, Any]:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise FinerRankError(f"open_clip:{name}/{tag}: no such weights; choose among {', '.join(tags) or 'none'}")
    config: dict[str, Any] = open_clip.get_pretrained_cfg(name, tag)
    quick = bool(open_clip.get_model_config(name).get("quick_gelu", False))
    if bool(config.get("quick_gelu", False)) != quick:
        # The library only warns, and computes with the wrong activation.
        right = name.removesuffix("-quickgelu") if quick else f"{name}-quickgelu"
        raise FinerRankError(
            f"open_clip:{name}/{tag}: these weights were trained with {'GELU' if quick else 'QuickGELU'}; "
            f"write open_clip:{right}/{tag}"
        )
    return config


def _preprocessing(config: dict[str, Any], size: Any) -> Preprocessing:
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    mode = RESIZE[config.get("resize_mode") or "shortest"]
    if mode != "squash" and height != width:
        raise FinerRankError(f"input {height} × {width} with {mode}: not supported; give --resize squash")
    interpolation: Interpolation = config.get("interpolation") or "bicubic"
    mean, std, fill = tuple(config["mean"]), tuple(config["std"]), (int(config.get("fill_color") or 0),) * 3
    return Preprocessing((height, width), mode, (height, width), interpolation, mean, std, fill)
