"""Encoders that describe themselves: `checkpoint:FOLDER`, with `embedder.toml` beside `model.safetensors`.

What is trained here is kept so, and `finer-rank embedder export` makes such a folder of another encoder.
"""

import importlib
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.embedders import concatenated
from benchmark.embedders.base import LoadedModel, Preprocessing, Request, digest_of
from benchmark.embedders.weights import refuse_nan
from benchmark.embedders.zoo import EncoderCard, training_data
from galleries.errors import FinerRankError, printable
from galleries.image_set import new_folder

if TYPE_CHECKING:
    import torch

    from benchmark.embedders import Embedder

PACKAGES = ("timm", "torchvision", "open_clip_torch", "torch")
FAMILIES = ("timm", "torchvision", "open_clip", "miewid")
"""Of which one file of weights is all, once the architecture has a name."""
DESCRIPTION, WEIGHTS = "embedder.toml", "model.safetensors"
FORMAT = 1
TEXTS = ("title", "kind", "token", "licence", "paper", "note")
ENTRIES = (
    "format", "family", "architecture", "pooling", "dimension", *TEXTS, "trained_on", "preprocessing",
    *concatenated.ENTRIES, "weights_came_from", "training",
)  # fmt: skip
"""Of `embedder.toml`; the last two are for people to read."""


def load(request: Request, device: str, precision: str) -> LoadedModel:
    """The encoder of the family that the folder names, with the folder's weights and preprocessing."""
    described = _described(request)
    if described["family"] == concatenated.FAMILY:
        return concatenated.load(request, described, Path(request.model, DESCRIPTION), device, precision)
    family: Any = importlib.import_module(f"benchmark.embedders.{described['family']}")
    inner = replace(
        request,
        family=described["family"],
        model=described["architecture"],
        weights=Path(request.model, WEIGHTS),
        preprocessing=_preprocessing(described),
        pooling=described.get("pooling", ""),
    )
    loaded: LoadedModel = family.load(inner, device, precision)
    if loaded.module is not None:
        refuse_nan(loaded.module, Path(request.model, WEIGHTS))
    architecture = digest_of({key: described.get(key, "") for key in ("family", "architecture", "pooling")})
    files = (*loaded.files, Path(request.model, DESCRIPTION))

    def forward(batch: Any) -> Any:
        rows = loaded.forward(batch)
        if rows.shape[1] != (width := described["dimension"]):
            raise FinerRankError(f"{files[-1]}: says {width} numbers, its network gives {rows.shape[1]}")
        return rows

    return replace(loaded, forward=forward, architecture=f"sha256:{architecture}", files=files)


def card(request: Request) -> EncoderCard:
    """What the folder says of its encoder.

    Raises:
        FinerRankError: no such folder, or a description that is none.
    """
    described = _described(request)
    trained_on = described.get("trained_on")
    return EncoderCard(
        name=Path(request.model).name,
        spec=request.spec,
        dimension=described["dimension"],
        trained_on=None if trained_on is None else tuple(trained_on),
        preprocessing=_preprocessing(described) if "preprocessing" in described else None,
        pooling=described.get("pooling", ""),
        **{key: described.get(key, "") for key in TEXTS},
    )


def export(embedder: "Embedder", out: Path) -> None:
    """Write an encoder as a folder that describes itself. Of a folder that does so already, nothing is made.

    Raises:
        FinerRankError: an encoder that needs more than one file of weights, or `out` cannot be written.
    """
    request = embedder.request
    described = description_of(embedder)
    if embedder.precision != "fp32" or request.resize or request.size or request.interpolation:
        raise FinerRankError(f"{embedder.spec}: is exported as it was published; leave other options out")
    loaded = embedder.model
    write(out, described, loaded.preprocessing, loaded.module.state_dict() if loaded.module else {})


def description_of(embedder: "Embedder") -> dict[str, Any]:
    """What `embedder.toml` says of an encoder, but for its format and preprocessing.

    Raises:
        FinerRankError: an encoder that needs more than one file of weights.
    """
    request = embedder.request
    if request.family not in FAMILIES or request.model.startswith(("local-dir:", "hf-hub:")):
        known = ", ".join(f"{family}:NAME" for family in FAMILIES)
        raise FinerRankError(f"{embedder.spec}: cannot be exported; only {known} can, with or without @FILE")
    loaded = embedder.model
    own = embedder.card
    # Weights that were brought under a card's name may have seen more than it says.
    seen = own.trained_on if own and embedder.is_as_published else None
    texts = {key: getattr(own, key) for key in TEXTS if own and getattr(own, key)}
    return {
        "family": request.family,
        "architecture": request.model.partition("/")[0] if request.family == "open_clip" else request.model,
        **({"pooling": request.pooling} if request.pooling else {}),
        "dimension": embedder.embed(_grey()).shape[1],
        "title": own.title if own else request.model,
        "kind": "generic",
        **texts,
        **({"trained_on": list(seen)} if seen is not None else {}),
        "weights_came_from": {"file": loaded.files[0].name, "sha256": loaded.weights_digest},
    }


def write(
    out: Path,
    described: Mapping[str, Any],
    preprocessing: Mapping[str, Any],
    tensors: Mapping[str, "torch.Tensor"],
    also: Mapping[str, str] | None = None,
) -> None:
    """Write a folder that `checkpoint:` reads; all of it or nothing.

    Args:
        described: entries of `embedder.toml`, without format and preprocessing.
        preprocessing: fields of a `Preprocessing`.
        tensors: of the network, in the precision to be stored; they are widened to float32 when they are read.
        also: further files, name → text.

    Raises:
        FinerRankError: `out` exists already, or cannot be written.
    """
    import tomli_w
    from safetensors.torch import save_file

    geometry = {key: _plain(value) for key, value in preprocessing.items() if value is not None}
    entries = {"format": FORMAT, **described, "preprocessing": geometry}
    with new_folder(out) as partial:
        save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, partial / WEIGHTS)
        (partial / DESCRIPTION).write_text(tomli_w.dumps(entries), encoding="utf-8")
        for name, text in (also or {}).items():
            (partial / name).write_text(text, encoding="utf-8")


def _grey() -> list[Any]:
    from PIL import Image

    return [Image.linear_gradient("L").convert("RGB")]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _described(request: Request) -> Mapping[str, Any]:
    """The content of `embedder.toml`, checked.

    Raises:
        FinerRankError: it is not there, or says something else.
    """
    path = Path(request.model, DESCRIPTION)
    if not request.model or not path.is_file():
        raise FinerRankError(f"{request.spec}: no {DESCRIPTION} there; write checkpoint:FOLDER of an exported encoder")
    if request.weights:
        raise FinerRankError(f"{request.spec}: the folder holds its own weights; leave the '@' out")
    try:
        described = tomllib.loads(path.read_text(encoding="utf-8"))
        if described["format"] != FORMAT:
            raise FinerRankError(f"{path}: format {described['format']}, this program reads {FORMAT}; export it again")
        if described["family"] not in (*FAMILIES, concatenated.FAMILY):
            known = ", ".join((*FAMILIES, concatenated.FAMILY))
            raise ValueError(f"family {described['family']!r} is none of {known}")
        if not isinstance(described["architecture"], str) or ":" in described["architecture"]:
            raise ValueError("architecture is no name")
        if (
            type(described["dimension"]) is not int
            or described["dimension"] < 1
            or any(type(described.get(key, "")) is not str for key in (*TEXTS, "pooling"))
        ):
            raise ValueError("a field of another kind")
        foreign = sorted(described.keys() - set(ENTRIES))
        if foreign:
            raise ValueError(f"unknown entry {foreign[0]!r}; known: {', '.join(ENTRIES)}")
        if described.get("kind", "generic") not in ("generic", "specialised"):
            raise ValueError(f"kind {described['kind']!r} is neither generic nor specialised")
        trained_on = described.get("trained_on", [])
        if not isinstance(trained_on, list):
            raise ValueError("trained_on is no list")
        unknown = [name for name in trained_on if name not in training_data()]
        if unknown:
            raise ValueError(f"trained_on: {unknown[0]!r} is none of {', '.join(training_data())}")
        if described["family"] == concatenated.FAMILY:
            concatenated.check(described)
        elif alien := [key for key in concatenated.ENTRIES if key in described]:
            raise ValueError(f"{alien[0]} is of family {concatenated.FAMILY}")
        elif not isinstance(described["preprocessing"], dict):
            raise ValueError("preprocessing is no table")
        else:
            _preprocessing(described)
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else printable(str(error).splitlines()[0])
        raise FinerRankError(f"{path}: does not describe an encoder ({reason}); export it again") from None
    return described


def _preprocessing(described: Mapping[str, Any]) -> Preprocessing:
    row: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in described["preprocessing"].items()
    }
    preprocessing = Preprocessing(**row)
    fill = preprocessing.fill
    pairs, triples = (preprocessing.size, preprocessing.resize_to), (preprocessing.mean, preprocessing.std)
    if not (
        all(len(pair) == 2 and all(type(side) is int and 8 <= side <= 4096 for side in pair) for pair in pairs)
        and all(side <= to for side, to in zip(*pairs, strict=True))
        and (preprocessing.resize != "crop" or len(set(preprocessing.resize_to)) == 1)
        and all(len(triple) == 3 and all(isinstance(v, float) and isfinite(v) for v in triple) for triple in triples)
        and all(preprocessing.std)
        and (fill is None or (len(fill) == 3 and all(type(v) is int and 0 <= v <= 255 for v in fill)))
        and preprocessing.resize in ("squash", "crop", "pad")
        and preprocessing.interpolation in ("nearest", "bilinear", "bicubic", "lanczos", "bilinear-opencv")
    ):
        raise ValueError("preprocessing is out of range")
    return preprocessing
