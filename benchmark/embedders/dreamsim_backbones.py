"""What DreamSim's owners published: types of networks, their Vision Transformers, adapters of these. See `dreamsim`."""

import json
import math
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.embedders.weights import load_strictly, read_state_dict
from benchmark.embedders.zoo import NORMALISATIONS
from galleries.downloads import first_line
from galleries.errors import FinerRankError, printable

if TYPE_CHECKING:
    import torch

HEAD_WIDTH, MAX_WIDTH, MAX_DEPTH = 64, 1024, 24
"""Channels of an attention head, in every ViT of these papers; the others are those of a ViT-L."""
MAX_CONFIG_BYTES = 1 << 20
PLAIN_LORA: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",), "bias": ("none",), "use_rslora": (False, None), "use_dora": (False, None),
    "fan_in_fan_out": (False, None), "rank_pattern": ({}, None), "alpha_pattern": ({}, None),
    "modules_to_save": ([], None), "init_lora_weights": (True, False, None, "gaussian"),
}  # fmt: skip
"""Under these values the update is (lora_alpha / r) · B · A and nothing else."""


@dataclass(frozen=True)
class Kind:
    """A backbone: where its tensors are, and what they do not say of it.

    Attributes:
        files: names in an archive; the first that is there, and is a backbone, counts.
        card: of the zoo, where the weights are Meta's and the archive may lack them.
        prefix: of the names of its tensors.
        is_clip: has a norm before its blocks, another epsilon, and a projection of the normed CLS token. Of others the
            CLS token is read before the final norm.
    """

    files: tuple[str, ...]
    patch_px: int
    card: str = ""
    prefix: str = ""
    is_clip: bool = False
    activation: str = "gelu"

    def normalised(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Pixels `[B, 3, H, W]` in [0, 1], as this backbone takes them."""
        mean, std = (
            pixels.new_tensor(each).view(3, 1, 1) for each in NORMALISATIONS["openai" if self.is_clip else "imagenet"]
        )
        return (pixels - mean) / std


@dataclass(frozen=True)
class Type:
    """A published network: its release, the folder of its adapter, its backbones in the order of the embedding.

    Attributes:
        with_patches: the embedding is the CLS token beside the mean of the patch tokens.
    """

    release: str
    adapter: str
    backbones: tuple[str, ...]
    with_patches: bool = False


TYPES = {
    "ensemble": Type("v0.2.0", "ensemble_lora", ("dino_vitb16", "clip_vitb16", "open_clip_vitb16")),
    "dino_vitb16": Type("v0.2.0", "dino_vitb16_single_lora", ("dino_vitb16",)),
    "clip_vitb32": Type("v0.2.0", "clip_vitb32_single_lora", ("clip_vitb32",)),
    "open_clip_vitb32": Type("v0.2.0", "open_clip_vitb32_single_lora", ("open_clip_vitb32",)),
    "dinov2_vitb14": Type("v0.2.1", "dinov2_vitb14_single_lora", ("dinov2_vitb14",)),
    "synclr_vitb16": Type("v0.2.1", "synclr_vitb16_single_lora", ("synclr_vitb16",)),
    "dino_vitb16_patch": Type("v0.2.1", "dino_vitb16_patch_lora", ("dino_vitb16",), with_patches=True),
    "dinov2_vitb14_patch": Type("v0.2.1", "dinov2_vitb14_patch_lora", ("dinov2_vitb14",), with_patches=True),
}


def _of_meta(*names: str) -> tuple[str, ...]:
    """Where Meta's weights may be: as torch.hub leaves them for the owners' package, by name, as the hub has them."""
    return (f"checkpoints/{names[0]}", *names, "model.safetensors")


KINDS = {
    "dino_vitb16": Kind(_of_meta("dino_vitbase16_pretrain.pth", "dino_vitb16_pretrain.pth"), 16, card="dino"),
    "dinov2_vitb14": Kind(_of_meta("dinov2_vitb14_pretrain.pth"), 14, card="dinov2"),
    "synclr_vitb16": Kind(("synclr_vit_b_16.pth",), 16, prefix="visual."),
    "clip_vitb16": Kind(("clip_vitb16_pretrain.pth.tar",), 16, is_clip=True, activation="quick_gelu"),
    "clip_vitb32": Kind(("clip_vitb32_pretrain.pth.tar",), 32, is_clip=True, activation="quick_gelu"),
    # With plain GELU, although open_clip lists these weights (laion400m_e31) among those of QuickGELU.
    "open_clip_vitb16": Kind(("open_clip_vitb16_pretrain.pth.tar",), 16, is_clip=True),
    "open_clip_vitb32": Kind(("open_clip_vitb32_pretrain.pth.tar",), 32, is_clip=True),
}


def is_training_state(path: Path) -> bool:
    """Whether a file holds a student under training, as the archives' DINO file does. Runs no code."""
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception:  # the reader of weights says what is wrong with it
        return False
    return isinstance(content, dict) and "student" in content


def build(kind: Kind, state: Mapping[str, "torch.Tensor"], path: Path) -> Any:
    """The backbone as timm's ViT; `vit.head(vit.forward_features(…))` reads out all its tokens `[B, 1 + h·w, C]`.

    Depth and width are those of the tensors.

    Args:
        state: tensors as they were published, by DINO's names or timm's.
        path: of the file, for messages.

    Raises:
        FinerRankError: missing, unexpected or misshapen tensors.
    """
    import torch
    from timm.models.vision_transformer import VisionTransformer

    unused = ("mask_token",) if kind.card == "dinov2" else ()  # of its training alone
    state = {key.removeprefix(kind.prefix): value for key, value in state.items() if key not in unused}
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    width = state["cls_token"].shape[-1] if "cls_token" in state and state["cls_token"].ndim else 0
    if width % HEAD_WIDTH or not (0 < width <= MAX_WIDTH and 0 < depth <= MAX_DEPTH):
        raise FinerRankError(f"{path}: no Vision Transformer of DreamSim (cls_token of {width}, {depth} blocks)")
    vit = VisionTransformer(
        img_size=224,
        patch_size=kind.patch_px,
        embed_dim=width,
        depth=depth,
        num_heads=width // HEAD_WIDTH,
        num_classes=0,
        init_values=1e-5 if "blocks.0.ls1.gamma" in state else None,
        pre_norm=kind.is_clip,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-5 if kind.is_clip else 1e-6),
        act_layer=kind.activation,
        weight_init="skip",
    )
    if kind.is_clip:
        # The files keep a bias of the patches, which timm leaves out, and name the norm by the dropout in its place.
        vit.patch_embed.proj.bias = torch.nn.Parameter(torch.zeros(width))
        state = {re.sub(r"^pos_drop\.", "norm_pre.", key): value for key, value in state.items()}
        projection = state.pop("proj", torch.zeros(()))
        if projection.ndim != 2 or len(projection) != width:
            raise FinerRankError(f"{path}: tensor proj is no projection of {width} channels; fetch it again")
        vit.head = torch.nn.Linear(width, projection.shape[1], bias=False)
        state["head.weight"] = projection.T
    if kind.card and "pos_embed" in state:
        state["pos_embed"] = resampled_positions(state["pos_embed"], 224 // kind.patch_px)
    load_strictly(vit, state, path, f"DreamSim's ViT-B/{kind.patch_px}")
    if not kind.is_clip:
        vit.norm = torch.nn.Identity()
    return vit


def resampled_positions(positions: "torch.Tensor", side: int) -> "torch.Tensor":
    """`[1, 1 + M², C]` to `[1, 1 + side², C]`, as Meta's code for DINO and DINOv2 does: offset of 0.1, no antialiasing.

    timm and transformers do it in other ways, and so embed otherwise (github.com/facebookresearch/dino/issues/8).
    """
    import torch
    from torch.nn.functional import interpolate

    grid = math.isqrt(max(positions.shape[1] - 1, 0)) if positions.ndim == 3 and len(positions) == 1 else 0
    if grid in (0, side) or positions.shape[1] != 1 + grid * grid:
        return positions  # what does not fit is refused when it is loaded
    maps = positions[:, 1:].float().reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
    maps = interpolate(maps, scale_factor=(side + 0.1) / grid, mode="bicubic", recompute_scale_factor=False)
    return torch.cat([positions[:, :1].float(), maps.flatten(2).transpose(1, 2)], dim=1)


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter (Hu et al. 2021, arXiv 2106.09685) of the fused query, key and value of every block.

    Attributes:
        path: of the tensors, for messages.
        tensors: those not merged yet.
    """

    path: Path
    rank: int
    scale: float
    tensors: dict[str, "torch.Tensor"]

    @classmethod
    def read(cls, config: Path, weights: Path, path: Path) -> "Adapter":
        """An adapter as peft saves it.

        Raises:
            FinerRankError: damaged, or no plain LoRA of `qkv` alone.
        """
        try:
            if config.stat().st_size > MAX_CONFIG_BYTES:
                raise ValueError(f"is larger than {MAX_CONFIG_BYTES} bytes")
            row = json.loads(config.read_bytes())
            rank, alpha, targets = row["r"], row["lora_alpha"], row["target_modules"]
            if type(rank) is not int or not 0 < rank <= MAX_WIDTH:
                raise ValueError(f"r is {rank!r}")
            if type(alpha) not in (int, float) or not 0 < alpha < 1e6:
                raise ValueError(f"lora_alpha is {alpha!r}")
            for key, allowed in PLAIN_LORA.items():
                if key in row and row[key] not in allowed:
                    raise ValueError(f"{key} is {row[key]!r}, not {allowed[0]!r}")
            for target in [targets] if isinstance(targets, str) else targets:
                if not str(target).endswith("qkv"):
                    raise ValueError(f"target_modules names {target!r}; only the fused qkv of the blocks is merged")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else first_line(error)
            raise FinerRankError(f"{config}: no adapter of DreamSim ({reason}); fetch it again") from None
        return cls(path, rank, alpha / rank, read_state_dict(weights))

    def merged_into(self, vit: Any, number: int) -> Any:
        """The backbone of that number with `scale` · B · A added to the weight of each `qkv`.

        Raises:
            FinerRankError: missing or misshapen tensors.
        """
        for i, block in enumerate(vit.blocks):
            weight = block.attn.qkv.weight
            rows, columns = weight.shape
            module = f"base_model.model.extractor_list.{number}.model.blocks.{i}.attn.qkv"
            up = self._take(f"{module}.lora_B.weight", (rows, self.rank))
            down = self._take(f"{module}.lora_A.weight", (self.rank, columns))
            weight.data = (weight.data.double() + self.scale * up.double() @ down.double()).float()
        return vit

    def refuse_unused(self) -> None:
        """
        Raises:
            FinerRankError: tensors that no backbone has taken.
        """
        for key in self.tensors:
            raise FinerRankError(
                f"{self.path}: has an unknown tensor {printable(key)}; only the fused qkv of the blocks is merged"
            )

    def _take(self, key: str, shape: tuple[int, int]) -> "torch.Tensor":
        if key not in self.tensors:
            own = next((f"; it has {printable(key)}" for key in self.tensors), "")
            raise FinerRankError(f"{self.path}: lacks tensor {key}{own}")
        tensor = self.tensors.pop(key)
        if tuple(tensor.shape) != shape:
            raise FinerRankError(
                f"{self.path}: tensor {key} is {list(tensor.shape)}, not the {list(shape)} of the backbone and "
                f"r = {self.rank} in its configuration"
            )
        return tensor
