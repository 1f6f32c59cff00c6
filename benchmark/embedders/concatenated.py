"""Encoders side by side, with or without a small network behind them: what `checkpoint:` makes of a folder of several.

Each member is a folder of its own, by its number, that `checkpoint:` reads too, or a name of the zoo. Without a head
the members' features stand side by side as they come, as the branches of DreamSim do (Fu et al. 2023, arXiv
2306.09344). Before a head each member's have length 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmark.embedders.base import LoadedModel, Preprocessing, Request, digest_of, unit_rows
from benchmark.embedders.weights import load_strictly, read_state_dict, refuse_nan, sha256_of_file
from galleries.errors import FinerRankError, printable
from galleries.images import sha256_of

if TYPE_CHECKING:
    import torch

    from benchmark.embedders import Embedder

Rows = npt.NDArray[np.float32]

FAMILY = "concatenated"
ENTRIES = ("members", "hidden")
"""Of `embedder.toml`, which no other family has."""
MEMBER_ENTRIES = {"name": str, "size": int, "weights_sha256": str}
HEAD = "model.safetensors"
MAX_MEMBERS, MAX_HIDDEN = 16, 1 << 16
UNIFORM: Mapping[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def check(described: Mapping[str, Any]) -> None:
    """
    Raises:
        ValueError, KeyError, TypeError: entries that describe nothing of this kind.
    """
    from benchmark.embedders.zoo import zoo

    members, hidden = described["members"], described.get("hidden", 1)
    if not isinstance(members, list) or not 1 <= len(members) <= MAX_MEMBERS:
        raise ValueError(f"members is no list of 1 to {MAX_MEMBERS}")
    for member in members:
        if not isinstance(member, dict) or any(
            type(value) is not MEMBER_ENTRIES.get(key) for key, value in member.items()
        ):
            raise ValueError(f"a member has other entries than {', '.join(MEMBER_ENTRIES)}")
        if member and (member["name"] not in zoo() or not member["weights_sha256"]):
            raise ValueError(f"members: {member['name']!r} is no name of the zoo")
        if member and not 8 <= member.get("size", 8) <= 4096:
            raise ValueError(f"members: size {member['size']}")
    if type(hidden) is not int or not 1 <= hidden <= MAX_HIDDEN:
        raise ValueError(f"hidden is {hidden!r}")


def load(request: Request, described: Mapping[str, Any], description: Path, device: str, precision: str) -> LoadedModel:
    """The members, and the head where there is one.

    The feature map holds the members' maps side by side, where all keep one of the same grid; no head is applied.

    Raises:
        FinerRankError: a member that cannot be loaded or is not the one that was used, or a head that does not fit.
    """
    folder = description.parent
    members = [
        _member(request, folder / str(i), entry, device, precision) for i, entry in enumerate(described["members"])
    ]
    models = [member.model for member in members]
    views = _views(models, request.spec)
    width = int(described["dimension"])
    digests = [model.weights_digest for model in models]
    files = [description, *(file for model in models for file in model.files)]
    head = None
    if "hidden" in described:
        import torch

        state, size = read_state_dict(folder / HEAD), (described["hidden"], width)
        if "0.weight" not in state or state["0.weight"].shape != size:  # before memory is taken for such a head
            raise FinerRankError(f"{folder / HEAD}: no tensor 0.weight of {size[0]} × {size[1]}; tune again")
        head = residual_head(width, described["hidden"])
        load_strictly(head, state, folder / HEAD, f"a head of {width} channels")
        refuse_nan(head, folder / HEAD)
        head.eval().requires_grad_(False).to(device)
        digests.append(sha256_of_file(folder / HEAD))
        files.append(folder / HEAD)

    def forward(batch: npt.NDArray[Any]) -> Rows:
        parts = [model.forward(view(batch)) for model, view in zip(models, views, strict=True)]
        found = np.concatenate([unit_rows(part) for part in parts] if head else parts, axis=1)
        if found.shape[1] != width:
            raise FinerRankError(f"{description}: says {width} numbers, its members give {found.shape[1]}")
        if head is None:
            return found
        with torch.inference_mode():
            rows: Rows = through(head, torch.from_numpy(found).to(device)).cpu().numpy()
        return rows

    def feature_map(batch: npt.NDArray[Any]) -> Rows:
        maps = [model.feature_map(view(batch)) for model, view in zip(models, views, strict=True) if model.feature_map]
        if len({each.shape[:3] for each in maps}) != 1:
            raise FinerRankError(f"{request.spec}: its members divide a picture in other ways; look at one of them")
        return np.concatenate(maps, axis=-1)

    descriptions = [member.description for member in members]
    return LoadedModel(
        models[0].preprocess if len(models) == 1 else _geometry(models[0]) or models[0].preprocess,
        forward,
        {"members": [each["preprocessing"] for each in descriptions]},
        architecture=f"sha256:{digest_of({'hidden': described.get('hidden'), 'members': descriptions})}",
        weights_digest=sha256_of("".join(digests).encode()),
        files=tuple(dict.fromkeys(files)),
        feature_map=feature_map if all(model.feature_map for model in models) else None,
        device=device,
    )


def _member(request: Request, folder: Path, entry: Mapping[str, Any], device: str, precision: str) -> "Embedder":
    from benchmark.embedders import load_embedder

    own = {"size": entry["size"], "resize": "squash"} if "size" in entry else {}
    asked = {key: value for key in ("resize", "size", "interpolation") if (value := getattr(request, key))}
    options: Any = {**own, **asked, "device": device, "precision": precision}
    if folder.is_symlink():  # which could lead back here
        raise FinerRankError(f"{folder}: is a link; put the member's folder itself there")
    if not entry:
        return load_embedder(f"checkpoint:{folder}", **options)
    found = load_embedder(entry["name"], **options)
    if found.model.weights_digest != entry["weights_sha256"]:
        raise FinerRankError(
            f"{request.spec}: was made with other weights of {entry['name']} (SHA-256 "
            f"{printable(entry['weights_sha256'][:12])}…); put those in place"
        )
    return found


def _geometry(model: LoadedModel) -> Preprocessing | None:
    """How a member sees a picture, but for the normalisation."""
    return replace(model.preprocess, **UNIFORM) if isinstance(model.preprocess, Preprocessing) else None


def prepare_alike(models: Sequence[LoadedModel]) -> bool:
    """Whether all members take the same pixels, but for the normalisation; a single one may take any."""
    return len(models) == 1 or (None not in (found := {_geometry(model) for model in models}) and len(found) == 1)


def _views(models: Sequence[LoadedModel], spec: str) -> list[Any]:
    """For each member, from the pixels that all share to its own.

    Raises:
        FinerRankError: they do not share any.
    """
    if not prepare_alike(models):
        raise FinerRankError(f"{spec}: its members prepare pictures in different ways; give a --size that all take")
    if len(models) == 1:
        return [lambda batch: batch]

    def view(preprocessing: Preprocessing) -> Any:
        mean, std = (
            np.array(each, dtype=np.float32)[:, None, None] for each in (preprocessing.mean, preprocessing.std)
        )
        return lambda batch: (batch - mean) / std

    return [view(model.preprocess) for model in models if isinstance(model.preprocess, Preprocessing)]


def residual_head(width: int, hidden: int) -> "torch.nn.Sequential":
    """One hidden layer, added to its input by `through`. Its last layer begins at 0: untrained, it changes nothing."""
    import torch

    last = torch.nn.Linear(hidden, width)
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    return torch.nn.Sequential(torch.nn.Linear(width, hidden), torch.nn.ReLU(), last)


def through(head: "torch.nn.Module", rows: "torch.Tensor") -> "torch.Tensor":
    """Rows `[B, D]` of members' unit embeddings through a head. Scaled so that their entries are about 1, for which the
    initial weights of such layers are made."""
    scaled = rows * rows.shape[1] ** 0.5
    found: torch.Tensor = scaled + head(scaled)
    return found


def write_members(folder: Path, members: "Sequence[Embedder]") -> list[dict[str, Any]]:
    """Write each member into `folder`, and return the entries `members` of its `embedder.toml`.

    Raises:
        FinerRankError: a member that is neither one file of weights nor a name of the zoo.
    """
    import shutil

    from benchmark.embedders import checkpoint

    entries: list[dict[str, Any]] = []
    for i, member in enumerate(members):
        request = member.request
        if is_folder(member):
            shutil.copytree(request.model, folder / str(i))
            entries.append({})
        elif is_named(member):
            size = {"size": request.size} if request.size else {}
            entries.append({"name": member.spec, **size, "weights_sha256": member.model.weights_digest})
        else:
            described = checkpoint.description_of(member)
            tensors = member.model.module.state_dict() if member.model.module else {}
            checkpoint.write(folder / str(i), described, member.model.preprocessing, tensors)
            entries.append({})
    return entries


def is_folder(member: "Embedder") -> bool:
    """Whether it is a folder that describes itself, prepared as it says."""
    request = member.request
    return request.family == "checkpoint" and not (request.resize or request.size or request.interpolation)


def is_named(member: "Embedder") -> bool:
    """Whether its name in the zoo is all that another computer needs."""
    from benchmark.embedders.checkpoint import FAMILIES

    request = member.request
    return (
        member.card is not None
        and member.card.name == member.spec
        and request.weights is None
        and (request.family not in FAMILIES or request.model.startswith(("hf-hub:", "local-dir:")))
    )
