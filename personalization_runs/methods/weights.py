"""Weights of generators: a folder that is there, or a repository of the hub."""

import contextlib
import hashlib
import json
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from galleries.downloads import in_mirror, quiet_hub, why_hub_refuses
from galleries.errors import FinerRankError
from galleries.model_folders import bars_on_terminals_only, why_hub_is_out_of_reach
from personalization_runs.methods.base import PIPELINE_FILES, Method, Weights


@dataclass(frozen=True)
class WeightsFolder:
    """Weights on disk.

    Attributes:
        name: of the repository, or of the folder.
        revision: commit of the repository, or digest of the folder's files.
    """

    path: Path
    name: str
    revision: str

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}"


def chosen_weights(method: Method, assignments: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Place and revision of each role's weights: the method's own, or as `[ROLE=]FOLDER_OR_REPOSITORY[@REVISION]` says.

    Raises:
        FinerRankError: a role that the method does not have.
    """
    chosen = {role: (weights.repository, "") for role, weights in method.weights.items()}
    for assignment in assignments:
        role, equals, place = assignment.partition("=")
        if not equals or Path(assignment).exists():
            role, place = "base", assignment
        if role not in chosen:
            known = ", ".join(chosen) or "none"
            raise FinerRankError(f"--weights {assignment}: {method.name} has no weights {role!r}; its roles: {known}")
        name, _, revision = (place, "", "") if Path(place).exists() else place.partition("@")
        chosen[role] = name, revision
    return chosen


def find_weights(place: str, revision: str, wanted: Weights) -> WeightsFolder:
    """Weights as a folder: one that is there, the mirror's, the hub's cache, or a download.

    Raises:
        FinerRankError: neither there nor within reach; says what to do.
    """
    import huggingface_hub
    from huggingface_hub.constants import ENDPOINT

    folder = Path(place)
    with contextlib.suppress(RuntimeError):  # nobody's home
        folder = folder.expanduser()
    if folder.is_dir():
        return WeightsFolder(folder, folder.resolve().name, _digest(folder))
    instead = "--weights [ROLE=]FOLDER"
    if folder.exists() or place.count("/") != 1:
        raise FinerRankError(f"--weights {place}: no such folder, nor a repository; write FOLDER, or owner/name")
    if mirrored := in_mirror([place], instead, Path.is_dir):
        return WeightsFolder(mirrored, place, _digest(mirrored))
    if place != wanted.repository and "model_index.json" in wanted.files:
        wanted = replace(wanted, files=PIPELINE_FILES)  # another may not have every variant
    options = {"revision": revision or None, "allow_patterns": list(wanted.files)}
    with contextlib.suppress(Exception):  # not cached, or in part
        found = Path(huggingface_hub.snapshot_download(place, local_files_only=True, **options))
        if _is_whole(found, wanted):
            return WeightsFolder(found, place, found.name)
    reason = why_hub_is_out_of_reach()
    if reason is None:
        try:
            with quiet_hub(), bars_on_terminals_only(), warnings.catch_warnings():
                warnings.filterwarnings("error", "Not enough free disk space")
                found = Path(huggingface_hub.snapshot_download(place, **options))
            if _is_whole(found, wanted):
                return WeightsFolder(found, place, found.name)
            reason = f"it lacks {' or '.join(wanted.files)}"
        except Exception as error:  # full disk, a server that stops halfway: the hub's client raises many kinds
            reason = why_hub_refuses(error, place, revision)
    raise FinerRankError(
        f"{ENDPOINT}/{place}: cannot be fetched ({reason}); {wanted.gigabytes:.1f} GB; where there is a network, run: "
        f"hf download {place} --local-dir FOLDER, bring the folder, and write {instead}"
    )


def _is_whole(folder: Path, wanted: Weights) -> bool:
    """Whether there are weights, and each file that an index of parts names."""
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    weights = [pattern for pattern in wanted.files if pattern.endswith(".safetensors")]
    if not all(any(fnmatch(name, pattern) for name in files) for pattern in weights):
        return False
    for index in folder.glob("*/*.safetensors.index*.json"):
        parts = set(json.loads(index.read_bytes())["weight_map"].values())
        if not all((index.parent / part).is_file() for part in parts):
            return False
    return True


def _digest(folder: Path) -> str:
    """Beginning of the SHA-256 over all files that decide what a model computes."""
    digest = hashlib.sha256()
    try:
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
            if path.suffix in (".json", ".safetensors", ".txt", ".jinja", ".model", ".py", ".bin"):
                with path.open("rb") as file:
                    name = path.relative_to(folder).as_posix()
                    line = f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n"
                    digest.update(line.encode(errors="surrogateescape"))
    except OSError as error:
        raise FinerRankError(f"--weights {error.filename or folder}: {error.strerror}; mend that file") from None
    return digest.hexdigest()[:12]


def network_sizes_gb(folder: Path, wanted: Weights) -> list[float]:
    """Gigabytes that the weights of each network in a folder fill which is used; none where there is no such folder."""
    paths = {path for pattern in wanted.files if pattern.endswith(".safetensors") for path in folder.glob(pattern)}
    sizes: dict[Path, float] = defaultdict(float)
    for path in paths:
        sizes[path.parent] += path.stat().st_size / 1e9
    return list(sizes.values())


def memory_there_gb(device: str) -> float:
    """Gigabytes of memory that a device has in all."""
    import torch

    if device.startswith("cuda"):
        return float(torch.cuda.get_device_properties(device).total_memory) / 1e9
    import psutil

    return float(psutil.virtual_memory().total) / 1e9
