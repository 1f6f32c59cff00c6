"""What a training is asked for."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from benchmark.embedders import published_spec
from benchmark.embedders.zoo import training_data
from galleries.errors import FinerRankError
from galleries.gallery import SPLITS, Gallery

Loss = Literal["arcface", "softmax", "triplet"]
LOSSES: tuple[Loss, ...] = ("arcface", "softmax", "triplet")
FAMILIES = ("timm", "torchvision")


@dataclass(frozen=True)
class Settings:
    """All that decides what comes of a training, beside photos and versions.

    Attributes:
        backbone: `timm:NAME[@FILE]` or `torchvision:NAME[@FILE]`.
        from_scratch: begin with random weights.
        held_out: share of the identities; 0 to be judged by the photos outside `train_splits`.
        patience: epochs without a better one after which training ends.
        flip: mirror photos; None for: unless a gallery names viewpoints, as a mirrored side is another animal's.
        train_splits: splits that are trained on; all where empty.
        half: store float16 weights.
        backbone_trained_on: ids of `training_data()`, where the user knows them.

    Raises:
        FinerRankError: a value out of range.
    """

    backbone: str
    from_scratch: bool = False
    loss: Loss = "arcface"
    size: int = 128
    epochs: int = 30
    batch_size: int = 64
    images_per_identity: int = 4
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    held_out: float = 0.2
    patience: int = 10
    seed: int = 0
    augment: bool = True
    flip: bool | None = None
    train_splits: tuple[str, ...] = ()
    half: bool = False
    backbone_trained_on: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        family, _, model = self.backbone.partition(":")
        if family not in FAMILIES or not model or model.startswith(("hf-hub:", "local-dir:")):
            known = " or ".join(f"{family}:NAME[@FILE]" for family in FAMILIES)
            raise FinerRankError(f"--backbone {self.backbone}: cannot be trained; write {known}")
        if self.from_scratch and "@" in model:
            raise FinerRankError(f"--backbone {self.backbone}: has weights; leave them or --from-scratch out")
        pairs = 2 if self.loss == "triplet" else 1
        ranges = {
            "loss": (self.loss in LOSSES, ", ".join(LOSSES)),
            "size": (8 <= self.size <= 4096, "8 to 4096 pixels"),
            "epochs": (self.epochs >= 1, "1 or more"),
            "images_per_identity": (self.images_per_identity >= pairs, f"{pairs} or more"),
            "batch_size": (self.batch_size >= 2 * self.images_per_identity, "twice --images-per-identity or more"),
            "learning_rate": (0 < self.learning_rate < math.inf, "a number above 0"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "0 or more"),
            "held_out": (0 <= self.held_out < 1, "0, or a share below 1"),
            "patience": (self.patience >= 1, "1 or more"),
            "seed": (0 <= self.seed < 2**32, "0 to 4294967295"),
            "train_splits": (set(self.train_splits) <= set(SPLITS), ", ".join(SPLITS)),
            "backbone_trained_on": (
                set(self.backbone_trained_on or ()) <= training_data().keys(),
                "ids of benchmark/embedders/training_data.toml",
            ),
        }
        for field, (is_fine, known) in ranges.items():
            if not is_fine:
                value = getattr(self, field)
                shown = ", ".join(value) if isinstance(value, tuple) else value
                raise FinerRankError(f"{option_of(field)} {shown}: out of range; write {known}")


def command_line(settings: Settings, galleries: Sequence[Gallery], out: Path) -> str:
    """The command that trains so, with files and folders named without the folders that hold them."""
    words = ["finer-rank", "embedder", "train"]
    for gallery in galleries:
        words += ["--gallery", gallery.root.resolve().name]
    words += ["--backbone", published_spec(settings.backbone)]
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name == "backbone" or value == field.default:
            continue
        if isinstance(value, bool):
            words.append(option_of(field.name) if value else option_of(f"no_{field.name}"))
            continue
        for each in value if isinstance(value, tuple) else [value]:
            words += [option_of(field.name), str(each)]
    return shlex.join([*words, "--out", out.name])


def option_of(field: str) -> str:
    """The option that a field of `Settings` is set by."""
    return "--train-split" if field == "train_splits" else f"--{field.replace('_', '-')}"
