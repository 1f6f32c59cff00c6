"""What a tuning by DreamSim's recipe is asked for."""

import math
import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from benchmark.embedders import published_spec
from benchmark.human_judgements.judgements import Judgements
from galleries.errors import FinerRankError

Method = Literal["lora", "mlp"]
METHODS: tuple[Method, ...] = get_args(Method)

DEFAULTS: dict[tuple[Method, bool], dict[str, Any]] = {
    ("lora", True): {"rank": 16, "alpha": 8.0, "dropout": 0.3, "batch_size": 16, "epochs": 6},
    ("lora", False): {"rank": 16, "alpha": 32.0, "dropout": 0.2, "batch_size": 32, "epochs": 8},
    ("mlp", True): {"hidden": 512, "batch_size": 512, "epochs": 20},
    ("mlp", False): {"hidden": 512, "batch_size": 512, "epochs": 20},
}
"""Of the method, and of several backbones or one: the configurations that the paper's authors published."""


@dataclass(frozen=True)
class Settings:
    """All that decides what comes of a tuning, beside judgements, images, weights and versions.

    Attributes:
        backbones: specs of embedders; their embeddings stand side by side.
        method: `lora` adapts the attention of Vision Transformers; `mlp` puts a head on any embedders.
        rank, alpha, dropout: of LoRA: the update is alpha / rank · B · A.
        hidden: units of the head's hidden layer.
        margin: of the hinge loss, in cosine distance.
        held_out: share of the targets to be judged by, where the data name no splits; as many again choose the epoch.
        size: pictures are squashed to it. For `mlp` on one backbone, None leaves its own geometry; else None is 224.

    None stands for the authors' value, see `DEFAULTS`.

    Raises:
        FinerRankError: a value out of range, or an option of the other method.
    """

    backbones: tuple[str, ...] = ()
    method: Method = "lora"
    rank: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    hidden: int | None = None
    margin: float = 0.05
    learning_rate: float = 3e-4
    batch_size: int | None = None
    epochs: int | None = None
    held_out: float = 0.2
    size: int | None = None
    seed: int = 1234

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise FinerRankError(f"--method {self.method}: unknown; write {' or '.join(METHODS)}")
        if not self.backbones:
            raise FinerRankError("--backbone: none is named; give an embedder, such as dino, or several")
        if len(set(self.backbones)) < len(self.backbones):
            raise FinerRankError("--backbone: one is named twice; name each once")
        for spec in self.backbones:
            if spec.startswith("ensemble:"):
                raise FinerRankError(f"--backbone {spec}: several encoders; give each as a --backbone of its own")
        own = DEFAULTS[self.method, len(self.backbones) > 1]
        for name in ("rank", "alpha", "dropout", "hidden"):
            if name not in own and getattr(self, name) is not None:
                raise FinerRankError(f"--{name}: is no option of --method {self.method}; leave it out")
        for name, value in own.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.size is None and (self.method == "lora" or len(self.backbones) > 1):
            object.__setattr__(self, "size", 224)
        ranges = {
            "rank": (self.rank is None or 1 <= self.rank <= 1024, "1 to 1024"),
            "alpha": (self.alpha is None or 0 < self.alpha < math.inf, "a number above 0"),
            "dropout": (self.dropout is None or 0 <= self.dropout < 1, "0, or a share below 1"),
            "hidden": (self.hidden is None or 1 <= self.hidden <= 1 << 16, "1 to 65536"),
            "margin": (0 < self.margin <= 2, "a distance above 0, 2 at most"),
            "learning_rate": (0 < self.learning_rate < math.inf, "a number above 0"),
            "batch_size": (self.batch_size is not None and self.batch_size >= 1, "1 or more"),
            "epochs": (self.epochs is not None and self.epochs >= 1, "1 or more"),
            "held_out": (0 < self.held_out < 0.5, "a share above 0 and below 0.5"),
            "size": (self.size is None or 8 <= self.size <= 4096, "8 to 4096 pixels"),
            "seed": (0 <= self.seed < 2**32, "0 to 4294967295"),
        }
        for name, (is_fine, known) in ranges.items():
            if not is_fine:
                option = name.replace("_", "-")
                raise FinerRankError(f"--{option} {getattr(self, name)}: out of range; write {known}")


def command_line(settings: Settings, judgements: Judgements, out: Path) -> str:
    """The command that tunes so, with files and folders named without the folders that hold them."""
    words = ["finer-rank", "agreement", "tune", judgements.source.resolve().name, "--recipe", "dreamsim"]
    for spec in settings.backbones:
        words += ["--backbone", published_spec(spec)]
    usual = Settings(settings.backbones, settings.method)
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name == "method" or (field.name != "backbones" and value != getattr(usual, field.name)):
            words += [f"--{field.name.replace('_', '-')}", str(value)]
    return shlex.join([*words, "--out", out.name])
