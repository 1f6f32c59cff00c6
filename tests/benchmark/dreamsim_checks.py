"""What tests of DreamSim share: the owners' archives as a mirror, copies to be spoilt, and the line of a refusal."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from dreamsim_archives import ADAPTERS, FILES, META_FILES, adapter_config, members, zipped
from networks import colours, save_state

from benchmark.embedders import load_embedder
from galleries.errors import FinerRankError

PICTURES = [colours(seed) for seed in range(2)]
HUB = {"dino_vitb16": "timm/vit_base_patch16_224.dino", "dinov2_vitb14": "timm/vit_base_patch14_dinov2.lvd142m"}


def backbone(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """Tensors of a backbone by DINO's names."""
    if name in META_FILES:
        return torch.load(folder / "checkpoints" / META_FILES[name])
    if name == "synclr_vitb16":
        state = torch.load(folder / FILES[name])["model"]
        return {key.removeprefix("module.visual."): value for key, value in state.items()}
    return torch.load(folder / FILES[name])["state_dict"]


def refusal(spec: str, **options: Any) -> str:
    """The one line that says why this embedder cannot be had."""
    with pytest.raises(FinerRankError) as caught:
        load_embedder(spec, device="cpu", **options).embed(PICTURES[:1])
    message = str(caught.value)
    assert "\n" not in message
    assert "finer-rank-" not in message  # the temporary folder
    return message


def copy_of(folder: Path, kind: str, target: Path) -> Path:
    """The unpacked archive of one type, to be changed."""
    for name in members(kind):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, target / name)
    return target


def configure(folder: Path, kind: str, **changes: Any) -> Path:
    adapter = ADAPTERS[kind][0]
    path = folder / adapter / "adapter_config.json"
    path.write_text(json.dumps(adapter_config(adapter) | changes))
    return path


def publish(folder: Path, mirror: Path) -> Path:
    """The owners' zips, and Meta's weights as the hub has them."""
    for kind in ADAPTERS:
        zipped(folder, kind, mirror / f"dreamsim_{kind}_checkpoint.zip")
    for name, repository in HUB.items():
        state = backbone(folder, name)
        state.pop("mask_token", None)
        save_state(state, mirror / repository / "model.safetensors")
    return mirror
