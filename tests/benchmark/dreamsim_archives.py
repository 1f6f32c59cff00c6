"""DreamSim's archives with small random networks, laid out as the owners publish them. Importing this imports torch."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from networks import save_state

DEPTH = 12
"""The owners' package reads the twelfth block, whatever the network."""
RANK = 4
ALPHAS = {"ensemble_lora": 2, "clip_vitb32_single_lora": 8}
"""Of the others: 6."""

CLIPS = ("clip_vitb16", "clip_vitb32", "open_clip_vitb16", "open_clip_vitb32")
FILES = {
    **{name: f"{name}_pretrain.pth.tar" for name in CLIPS},
    "synclr_vitb16": "synclr_vit_b_16.pth",
    "dino_vitb16": "dino_vitb16_pretrain.pth",  # which no backbone is read from
    "dinov2_vitb14": "dinov2_vitb14_pretrain.pth",
}
META_FILES = {"dino_vitb16": "dino_vitbase16_pretrain.pth", "dinov2_vitb14": "dinov2_vitb14_pretrain.pth"}
ADAPTERS = {
    "ensemble": ("ensemble_lora", ("dino_vitb16", "clip_vitb16", "open_clip_vitb16")),
    "dino_vitb16": ("dino_vitb16_single_lora", ("dino_vitb16",)),
    "clip_vitb32": ("clip_vitb32_single_lora", ("clip_vitb32",)),
    "open_clip_vitb32": ("open_clip_vitb32_single_lora", ("open_clip_vitb32",)),
    "dinov2_vitb14": ("dinov2_vitb14_single_lora", ("dinov2_vitb14",)),
    "synclr_vitb16": ("synclr_vitb16_single_lora", ("synclr_vitb16",)),
    "dino_vitb16_patch": ("dino_vitb16_patch_lora", ("dino_vitb16",)),
    "dinov2_vitb14_patch": ("dinov2_vitb14_patch_lora", ("dinov2_vitb14",)),
}
GRIDS = {"dinov2_vitb14": 37, "clip_vitb32": 7, "open_clip_vitb32": 7}
"""Side of the grid of positions in the file; 14 in the others."""


def random_vit(name: str, seed: int, width: int = 128, projected: int = 48) -> dict[str, torch.Tensor]:
    """Tensors by DINO's names; wide enough in range for every one of them to count in the embedding."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(*shape, generator=random) * scale

    def norm(key: str) -> dict[str, torch.Tensor]:
        return {f"{key}.weight": 1 + normal(width, scale=0.2), f"{key}.bias": normal(width, scale=0.2)}

    def linear(key: str, into: int, out: int) -> dict[str, torch.Tensor]:
        return {f"{key}.weight": normal(out, into, scale=into**-0.5), f"{key}.bias": normal(out, scale=0.1)}

    patch = int(name[-2:])
    state = {
        # So small that the first norm's epsilon counts.
        "cls_token": normal(1, 1, width, scale=0.02),
        "pos_embed": normal(1, 1 + GRIDS.get(name, 14) ** 2, width, scale=0.02),
        "patch_embed.proj.weight": normal(width, 3, patch, patch, scale=0.02 * (3 * patch**2) ** -0.5),
        "patch_embed.proj.bias": normal(width, scale=0.02),
        **norm("norm"),
    }
    for i in range(DEPTH):
        block = f"blocks.{i}"
        state |= norm(f"{block}.norm1") | linear(f"{block}.attn.qkv", width, 3 * width)
        state |= linear(f"{block}.attn.proj", width, width) | norm(f"{block}.norm2")
        state |= linear(f"{block}.mlp.fc1", width, 4 * width) | linear(f"{block}.mlp.fc2", 4 * width, width)
        if name == "dinov2_vitb14":
            state |= {f"{block}.{ls}.gamma": normal(width, scale=0.5) for ls in ("ls1", "ls2")}
    if name == "dinov2_vitb14":
        state["mask_token"] = torch.zeros(1, width)
    if "clip" in name:
        state |= norm("pos_drop") | {"proj": normal(width, projected, scale=width**-0.5)}
    return state


def random_adapter(n_backbones: int, seed: int, width: int = 128) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    state = {}
    for b in range(n_backbones):
        for i in range(DEPTH):
            key = f"base_model.model.extractor_list.{b}.model.blocks.{i}.attn.qkv"
            state[f"{key}.lora_A.weight"] = torch.randn(RANK, width, generator=random) * width**-0.5
            state[f"{key}.lora_B.weight"] = torch.randn(3 * width, RANK, generator=random) * 0.3
    return state


def adapter_config(folder: str) -> dict[str, Any]:
    return {
        "peft_type": "LORA", "base_model_name_or_path": None, "bias": "none", "fan_in_fan_out": False,
        "inference_mode": True, "init_lora_weights": True, "lora_alpha": ALPHAS.get(folder, 6), "lora_dropout": 0.3,
        "modules_to_save": None, "r": RANK, "target_modules": ["qkv"], "task_type": None,
    }  # fmt: skip


def save_all_types(folder: Path, width: int = 128, projected: int = 48) -> Path:
    """The owners' cache folder with the archives of all eight types unpacked, and what torch.hub leaves beside them."""
    for seed, name in enumerate(FILES):
        state = random_vit(name, seed, width, projected)
        if name in META_FILES:
            save_state(state, folder / "checkpoints" / META_FILES[name])
            torch.save({"student": student()}, folder / FILES[name])
        elif name in CLIPS:
            torch.save({"state_dict": state}, folder / FILES[name])
        else:
            torch.save({"model": {f"module.visual.{key}": value for key, value in state.items()}}, folder / FILES[name])
    for seed, (adapter, backbones) in enumerate(ADAPTERS.values()):
        save_state(random_adapter(len(backbones), 20 + seed, width), folder / adapter / "adapter_model.safetensors")
        (folder / adapter / "adapter_config.json").write_text(json.dumps(adapter_config(adapter)))
    return folder


def student() -> dict[str, torch.Tensor]:
    """What the owners' package reads of the archive's DINO file: a projection head, which no type uses."""
    shapes = {"mlp.0": (2048, 768), "mlp.2": (2048, 2048), "mlp.4": (256, 2048)}
    head = {f"module.head.{key}.weight": torch.ones(1).expand(shape) for key, shape in shapes.items()}
    head |= {f"module.head.{key}.bias": torch.ones(1).expand(shape[0]) for key, shape in shapes.items()}
    return head | {"module.head.last_layer.weight": torch.ones(1).expand(2048, 256)}


def members(kind: str) -> list[str]:
    """Names in the owners' zip of a type."""
    adapter, backbones = ADAPTERS[kind]
    return [
        *(FILES[name] for name in backbones),
        f"{adapter}/adapter_config.json",
        f"{adapter}/adapter_model.safetensors",
    ]


def zipped(folder: Path, kind: str, path: Path, names: Sequence[str] = ()) -> Path:
    """The owners' zip of a type, or one of the named files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in names or members(kind):
            archive.write(folder / name, name)
    return path
