"""Weights files: tensors alone, and all of them."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from galleries.downloads import first_line
from galleries.errors import FinerRankError, printable

if TYPE_CHECKING:
    import torch


def sha256_of_file(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state_dict(path: Path) -> dict[str, "torch.Tensor"]:
    """Tensors of a `.safetensors`, `.pth`, `.pt` or `.bin` file. No code in the file is ever run.

    Raises:
        FinerRankError: no such file, damaged, or holding more than tensors, or sparse, quantised or empty ones.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.is_dir():
        raise FinerRankError(f"{path}: is a folder; name the weights file in it")
    if not path.is_file():
        raise FinerRankError(f"{path}: no such weights file; check the path after '@'")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        with warnings.catch_warnings():  # of pickles that are no weights, which are refused here
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise FinerRankError(f"{path}: not a safetensors file ({first_line(error)}); fetch it again") from None
    except pickle.UnpicklingError:
        raise FinerRankError(
            f"{path}: holds Python objects, which could run code, or is damaged; save its tensors as safetensors"
        ) from None
    except Exception as error:  # damaged pickles raise anything
        raise FinerRankError(f"{path}: not a readable weights file ({first_line(error)}); fetch it again") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise FinerRankError(f"{path}: no dictionary of tensors; save the model's state_dict as safetensors")
    for key, value in state.items():
        kind = _unusual_kind(value)
        if kind:
            raise FinerRankError(f"{path}: tensor {printable(key)} is {kind}; save it as a plain, dense one")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _unusual_kind(tensor: "torch.Tensor") -> str:
    """ "" of a tensor whose numbers lie in a grid, as a network's do."""
    import torch

    if tensor.is_meta:
        return "without numbers (meta)"
    if tensor.is_quantized:
        return "quantised"
    if tensor.is_nested:
        return "nested"
    return "" if tensor.layout == torch.strided else f"sparse ({tensor.layout})"


def load_strictly(
    module: "torch.nn.Module", state: Mapping[str, "torch.Tensor"], path: Path, architecture: str
) -> None:
    """Load weights that fit exactly.

    Raises:
        FinerRankError: missing, unexpected or misshapen tensors; names the first of them.
    """
    own = module.state_dict()  # carries the layers' versions, which a plain dictionary lacks
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    misshapen = [key for key in own if key in state and state[key].shape != own[key].shape]
    for what, keys in (("lacks", missing), ("has an unknown", unexpected), ("has a misshapen", misshapen)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            first = printable(keys[0])
            raise FinerRankError(f"{path}: {what} tensor {first}{more}; these are not weights of {architecture}")
    own.update(state)
    module.load_state_dict(own)


def refuse_nan(module: "torch.nn.Module", path: Path) -> None:
    """
    Raises:
        FinerRankError: a tensor holds NaN, which attention may swallow, so that no embedding shows it.
    """
    for key, value in module.state_dict().items():
        if value.is_floating_point() and value.isnan().any():
            raise FinerRankError(f"{path}: tensor {printable(key)} holds NaN; make or fetch the weights again")
