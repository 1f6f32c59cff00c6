"""Small segmentation models whose masks are known, saved as the hub keeps them. Importing this imports transformers."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_MODULES_CACHE", tempfile.mkdtemp())  # where transformers copies the code of strangers

import torch
import transformers
from safetensors.torch import save_file

RED_CONFIG = """
from transformers import PretrainedConfig


class RedConfig(PretrainedConfig):
    model_type = "SegformerForSemanticSegmentation"

    def __init__(self, bb_pretrained=False, **kwargs):
        self.bb_pretrained = bb_pretrained
        super().__init__(**kwargs)
"""

RED = """
import os, signal

import torch
from transformers import PreTrainedModel

from .red_config import RedConfig

N_CALLS = 0


class Settings:
    size = 1024


class RedNet(PreTrainedModel):
    config_class = RedConfig

    def __init__(self, bb_pretrained=True, config=RedConfig()):
        super().__init__(config)
        print("the code of a stranger runs")
        self.config = Settings()
        self.rates = [x.item() for x in torch.linspace(0, 1, 3)]
        self.scale = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        global N_CALLS
        N_CALLS += 1
        if str(N_CALLS) == os.environ.get("KILL_AT_BATCH"):
            os.kill(os.getpid(), signal.SIGKILL)
        red = x[:, :1] * 0.229 + 0.485
        return [torch.zeros(1), (red - 0.5) * self.scale]
"""
"""Marks what is red. Built as published foreground models are, with all that newer versions of the library dislike."""

NAMES = {0: "wall", 1: "dog, domestic dog", 2: "cat"}


def save_red(folder: Path, code: str = RED, tensors: dict[str, torch.Tensor] | None = None, **config: Any) -> Path:
    """A foreground model that comes with its code: `sigmoid(16 * (red - 0.5))`, red from 0 to 1."""
    folder.mkdir(parents=True, exist_ok=True)
    auto_map = {"AutoConfig": "red_config.RedConfig", "AutoModelForImageSegmentation": "red.RedNet"}
    described = {"architectures": ["RedNet"], "auto_map": auto_map, "bb_pretrained": False, **config}
    (folder / "config.json").write_text(json.dumps(described))
    (folder / "red.py").write_text(code)
    (folder / "red_config.py").write_text(RED_CONFIG)
    scale = {"scale": torch.tensor([16.0], dtype=torch.float16)}  # the published weights are halves too
    save_file(scale if tensors is None else tensors, folder / "model.safetensors")
    return folder


def save_segformer(folder: Path, always: int | None = None, size: int = 64) -> Path:
    """A SegFormer of random weights, or one that sees class `always` everywhere."""
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 8, 8],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=8,
        id2label=NAMES,
        label2id={name: key for key, name in NAMES.items()},
    )
    model = transformers.SegformerForSemanticSegmentation(config).eval()
    if always is None:
        torch.nn.init.normal_(model.decode_head.classifier.weight)
    else:
        torch.nn.init.zeros_(model.decode_head.classifier.weight)
        model.decode_head.classifier.bias.data = torch.eye(3)[always]
    model.save_pretrained(folder)
    transformers.SegformerImageProcessor(size={"height": size, "width": size}).save_pretrained(folder)
    return folder


def save_mask2former(folder: Path) -> Path:
    """A Mask2Former of random weights, each of whose five objects is surely a dog."""
    torch.manual_seed(0)
    backbone = transformers.SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        num_attention_heads=2,
        encoder_layers=1,
        decoder_layers=2,
        num_queries=5,
        id2label=NAMES,
        label2id={name: key for key, name in NAMES.items()},
    )
    model = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    torch.nn.init.zeros_(model.class_predictor.weight)
    model.class_predictor.bias.data = torch.tensor([0.0, 30.0, 0.0, 0.0])
    model.save_pretrained(folder)
    processor = transformers.Mask2FormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    processor.save_pretrained(folder)
    return folder
