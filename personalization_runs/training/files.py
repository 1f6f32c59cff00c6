"""Files that are there whole or not at all, and whose bytes follow from what is in them."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from galleries.errors import FinerRankError

if TYPE_CHECKING:
    import torch


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Report a full disk, or a folder that may not be written, in one line.

    Raises:
        FinerRankError: in place of OSError.
    """
    try:
        yield
    except OSError as error:
        where, why = error.filename or folder, error.strerror or error
        raise FinerRankError(f"{where}: {why}; mend that and run it again: what is trained stays") from None


def put(path: Path, content: bytes) -> None:
    """Write a file and move it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(path)
    partial.write_bytes(content)
    partial.replace(path)


def partial_of(path: Path) -> Path:
    """Temporary name of a file. One process at a time writes it, under a lock: what a kill leaves is overwritten."""
    return path.with_name(f".{path.name}.partial")


def write_safetensors(path: Path, tensors: "Mapping[str, torch.Tensor]", metadata: Mapping[str, str]) -> None:
    """Write tensors, and move them into place. The same tensors and metadata give the same bytes.

    The library writes metadata in an order of its own each time, so the header is sorted afterwards.

    Raises:
        OSError: as on a full disk.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(path)
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(on_cpu, partial, dict(metadata))
    except SafetensorError as error:  # wraps what the system says
        raise OSError(str(error)) from None
    with partial.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        ordered = json.dumps(header, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode().ljust(size)
        assert len(ordered) == size, "both are written without spaces"
        file.seek(8)
        file.write(ordered)
    partial.replace(path)


def read_safetensors(path: Path) -> "tuple[dict[str, torch.Tensor], dict[str, str]]":
    """Tensors and metadata of a file.

    Raises:
        FinerRankError: it is no such file, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise FinerRankError(f"{path}: damaged ({error}); remove its folder, and train again") from None


def digest_of(path: Path) -> str:
    """SHA-256 of a file that may be larger than memory.

    Raises:
        FinerRankError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FinerRankError(f"{path}: {error.strerror}; remove its folder, and train again") from None
