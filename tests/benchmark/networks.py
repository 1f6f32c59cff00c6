"""Small networks with random weights, saved as users have them. Importing this module imports torch."""

import json
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

TINY_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}
TEXT_SIDE = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
"""Of the vocabulary that OpenCLIP's own tokenizer has."""
HALVES = {"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.2, 0.25]}


def save_state(state: dict[str, torch.Tensor], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def save_timm(path: Path, architecture: str = "test_vit", seed: int = 0) -> Path:
    """A weights file of a whole classifier of timm's."""
    torch.manual_seed(seed)
    return save_state(timm.create_model(architecture, num_classes=10).state_dict(), path)


def save_timm_folder(folder: Path, architecture: str = "test_vit", seed: int = 0, **config: Any) -> Path:
    """A folder for `timm:local-dir:`, with the given entries in its `pretrained_cfg`."""
    save_timm(folder / "model.safetensors", architecture, seed)
    classifier = timm.get_pretrained_cfg(architecture).classifier
    own = {"num_classes": 10, "classifier": classifier, **config}
    described = {"architecture": architecture, "num_classes": 10, "pretrained_cfg": own}
    (folder / "config.json").write_text(json.dumps(described))
    return folder


def save_torchvision(path: Path, architecture: str = "squeezenet1_1", seed: int = 0, prefix: str = "") -> Path:
    """A weights file of torchvision's classifier, or of its tensors whose names begin with `prefix`."""
    torch.manual_seed(seed)
    state = torchvision.models.get_model(architecture, weights=None).state_dict()
    return save_state({key: value for key, value in state.items() if key.startswith(prefix)}, path)


def save_clip(
    folder: Path,
    seed: int = 0,
    ending: str = "safetensors",
    image_size: Any = 32,
    text: Any = None,
    **preprocess: Any,
) -> Path:
    """A folder for `open_clip:local-dir:`, with the given entries in its `preprocess_cfg`."""
    folder.mkdir(parents=True, exist_ok=True)
    model = TINY_CLIP | {"vision_cfg": TINY_CLIP["vision_cfg"] | {"image_size": image_size}}
    model |= {"text_cfg": text} if text else {}
    described = {"model_cfg": model, "preprocess_cfg": {**HALVES, **preprocess}}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    torch.manual_seed(seed)
    state = open_clip.model.CLIP(**model).state_dict()
    names = {"safetensors": "open_clip_model.safetensors", "bin": "open_clip_pytorch_model.bin"}
    save_state(state, folder / names[ending])
    return folder


def colours(seed: int, size: tuple[int, int] = (61, 47)) -> Image.Image:
    """A picture of a few soft patches of colour, which a random network tells from others."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randint(0, 256, (5, 7, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(patches.numpy()).resize(size, Image.Resampling.BICUBIC)
