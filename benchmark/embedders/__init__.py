"""Embedders: an image in, a row of float32 of length 1 out.

`FAMILIES` is the whole registry. A family is one module with `load(request, device, precision)` and `PACKAGES`,
the packages whose version decides what it computes.
"""

import contextlib
import importlib
import json
import os
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.embedders.base import Interpolation, LoadedModel, Request, Resize, digest_of, unit_rows
from benchmark.embedders.zoo import ALIASES
from galleries.errors import FinerRankError

FAMILIES = ("timm", "open_clip", "torchvision", "classical")


class Embedder:
    """One encoder with its preprocessing. The network is built when it is first needed.

    Args:
        request: what was asked for.
        device: `cpu`, `cuda`, `cuda:1`, `mps`, or `auto`.
        precision: `fp32` or `bf16`.
        memo: folder that remembers fingerprints, so that a second evaluation builds no network at all.
    """

    def __init__(self, request: Request, device: str, precision: str, memo: Path | None) -> None:
        self.spec = request.spec
        self.precision = precision
        self._request = request
        self._device = device
        self._memo = memo / "embedders" if memo else None

    @cached_property
    def _family(self) -> Any:
        return importlib.import_module(f"benchmark.embedders.{self._request.family}")

    @cached_property
    def model(self) -> LoadedModel:
        """The network itself, built on first use."""
        device = self._device if self._request.family == "classical" else resolve_device(self._device)
        loaded: LoadedModel = self._family.load(self._request, device, self.precision)
        return loaded

    @cached_property
    def description(self) -> dict[str, Any]:
        """All that decides the embedding: family, model, digest of the weights, preprocessing, precision."""
        remembered = self._remembered()
        if remembered is not None:
            return remembered
        description = {
            "family": self._request.family,
            "model": self.model.architecture,
            "weights_sha256": self.model.weights_digest,
            "preprocessing": dict(self.model.preprocessing),
            "precision": self.precision,
        }
        self._remember(description)
        return description

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of `description`."""
        return digest_of(self.description)

    def embed(self, images: Iterable[Any]) -> npt.NDArray[np.float32]:
        """Embed PIL images: `[N, D]` float32 rows of length 1. One batch, nothing cached (see `benchmark.embed`)."""
        return self.forward(np.stack([self.model.preprocess(image.convert("RGB")) for image in images]))

    def forward(self, batch: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Preprocessed images `[B, …]` to unit rows `[B, D]` float32."""
        return unit_rows(self.model.forward(batch))

    def _remembered(self) -> dict[str, Any] | None:
        if self._memo is None:
            return None
        try:
            memo = json.loads((self._memo / f"{self._memo_key}.json").read_text())
            if any(signature != _signature(file) for file, signature in memo["files"].items()):
                return None
            # JSON knows no tuples; the digest does not tell them from lists.
            return dict(memo["description"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _remember(self, description: dict[str, Any]) -> None:
        if self._memo is None:
            return
        files = [str(file.absolute()) for file in self.model.files]
        memo = {"description": description, "files": {file: _signature(file) for file in files}}
        with contextlib.suppress(OSError):  # the store itself says where it cannot be written
            self._memo.mkdir(parents=True, exist_ok=True)
            target = self._memo / f"{self._memo_key}.json"
            partial = target.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(memo, indent=1))
            partial.replace(target)

    @cached_property
    def _memo_key(self) -> str:
        r = self._request
        weights = str(r.weights.absolute()) if r.weights else ""
        kind, colon, folder = r.model.partition("local-dir:")
        model = f"{colon}{Path(folder).absolute()}" if colon and not kind else r.model
        asked = [r.family, model, weights, r.resize, r.size, r.interpolation, self.precision]
        return digest_of({"asked": asked, "packages": [version(p) for p in self._family.PACKAGES], "format": 2})


def load_embedder(
    spec: str,
    *,
    resize: Resize | None = None,
    size: int | None = None,
    interpolation: Interpolation | None = None,
    precision: str = "fp32",
    device: str = "auto",
    memo: Path | None = None,
) -> Embedder:
    """The embedder named `family:model[@weights file]`, or by an alias.

    Args:
        resize, size, interpolation: replace the model's own geometry; part of the fingerprint.
        memo: see `Embedder`.

    Raises:
        FinerRankError: unknown family or alias. Model and weights are looked at when they are needed.
    """
    full = ALIASES.get(spec, spec)
    family, colon, rest = full.partition(":")
    if not colon or family not in FAMILIES:
        known = [*(alias for alias in ALIASES if alias not in FAMILIES), *(f"{family}:" for family in FAMILIES)]
        near = get_close_matches(spec, known, n=1)
        hint = f"{near[0]!r} is meant? " if near else ""
        raise FinerRankError(f"{spec}: no such embedder; {hint}known: {', '.join(known)} (family:model[@weights file])")
    if precision not in ("fp32", "bf16"):
        raise FinerRankError(f"--precision {precision}: unknown; write fp32 or bf16")
    if size is not None and not 8 <= size <= 4096:
        raise FinerRankError(f"--size {size}: out of range; write 8 to 4096 pixels")
    model, weights = _split_weights(rest)
    request = Request(spec, family, model, weights, resize, size, interpolation)
    return Embedder(request, device, precision, memo)


def _split_weights(rest: str) -> tuple[str, Path | None]:
    if rest.startswith("local-dir:") and Path(rest.removeprefix("local-dir:")).is_dir():
        return rest, None
    model, at, after = rest.partition("@")
    if model.startswith("hf-hub:"):  # there the first @ names a revision
        revision, second_at, file = after.partition("@")
        return (f"{model}{at}{revision}", Path(file)) if second_at else (rest, None)
    return model, Path(after) if at else None


def published_spec(spec: str) -> str:
    """A spec whose files are named without their folders: records are published."""
    model, at, weights = spec.partition("@")
    start, colon, folder = model.partition("local-dir:")
    model = f"{start}{colon}{Path(folder).name}" if colon else model
    return f"{model}{at}{Path(weights).name}" if at and "hf-hub:" not in model else model + at + weights


def resolve_device(device: str) -> str:
    """`auto` as the best device at hand.

    Raises:
        FinerRankError: a device that is not there.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device.split(":")[0], False):
        there = ", ".join(name for name, is_there in available.items() if is_there)
        raise FinerRankError(f"--device {device}: not there; available: {there}")
    return device


def _signature(path: str) -> list[int]:
    """What changes when a file's content does, without reading it."""
    status = Path(path).stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
