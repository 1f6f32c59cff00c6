"""Models of `transformers` as folders: one that the user brought, or a hub repository's, downloaded once."""

import contextlib
import hashlib
import json
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galleries.downloads import first_line, hub_cache, in_mirror, quiet_hub, why_hub_refuses
from galleries.errors import FinerRankError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""In order of preference. Each may be split into parts, which its `.index.json` lists."""
DOWNLOADS = (("model.safetensors", "model-*.safetensors"), ("pytorch_model.bin", "pytorch_model-*.bin"))


@dataclass(frozen=True)
class ModelFolder:
    """A model's files.

    Attributes:
        name: what it is and which version: `owner/name@commit`, or a folder's name and its content's digest.
        config: its `config.json`.
    """

    path: Path
    name: str
    config: Mapping[str, Any]

    @property
    def weights(self) -> tuple[Path, ...]:
        return _weights(self.path)


def find_model(model: str, revision: str = "") -> ModelFolder:
    """A model's folder. None of its code is run.

    Args:
        model: a folder, or the name of a hub repository, which the mirror's folder OWNER/NAME stands in for.
        revision: commit, tag or branch of the repository. A mirror has one only, named by its content's digest.

    Raises:
        FinerRankError: no such folder; neither cached nor within reach; incomplete.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision:
            raise FinerRankError(f"--revision {revision}: {model} is a folder, which has one only; leave it out")
        return _as_brought(folder, folder.resolve().name)
    if folder.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise FinerRankError(
            f"--model {model}: neither a folder nor a repository; write FOLDER, or owner/name of the hub"
        )
    mirrored = in_mirror([model], "--model FOLDER", Path.is_dir)
    if mirrored:
        return _as_brought(mirrored, model)
    snapshot = _cached(model, revision) or _downloaded(model, revision)
    return ModelFolder(snapshot, f"{model}@{snapshot.name}", _config(snapshot))


def _as_brought(folder: Path, name: str) -> ModelFolder:
    config = _config(folder)
    if not _weights(folder):
        raise FinerRankError(f"{folder}: neither {' nor '.join(WEIGHTS)}, or not all parts; put the weights there")
    return ModelFolder(folder, f"{name}@{_digest(folder)[:12]}", config)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise FinerRankError(f"{folder}: no config.json; bring the whole folder of a model: hf download … --local-dir")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise FinerRankError(f"{path}: not JSON ({error}); fetch it again") from None
    if not isinstance(config, dict):
        raise FinerRankError(f"{path}: describes no model; fetch it again")
    return config


def _weights(folder: Path) -> tuple[Path, ...]:
    """The files of the preferred kind of weights; none, if no kind is complete."""
    for name in WEIGHTS:
        index = folder / f"{name}.index.json"
        parts = [name] if (folder / name).is_file() or not index.is_file() else _parts(index)
        paths = tuple(folder / part for part in parts)
        if paths and all(path.is_file() for path in paths):
            return paths
    return ()


def _parts(index: Path) -> list[str]:
    try:
        names = {Path(str(name)).name for name in json.loads(index.read_bytes())["weight_map"].values()}
    except (ValueError, KeyError, AttributeError, TypeError, OSError, RecursionError):
        return []
    return sorted(names)


def _digest(folder: Path) -> str:
    """SHA-256 of all that decides what a model computes."""
    files = {folder / "config.json", folder / "preprocessor_config.json", *folder.glob("*.py"), *_weights(folder)}
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path.is_file()):
        with path.open("rb") as file:
            digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _cached(repository: str, revision: str) -> Path | None:
    """What lies in the hub's cache, if all of it does: nothing is asked of the network then."""
    for weights in DOWNLOADS:
        with contextlib.suppress(Exception):  # not cached; also damaged caches, of which the download says more
            folder = _snapshot(repository, revision, weights, local_files_only=True)
            if (folder / "config.json").is_file() and _weights(folder):
                return folder
    return None


def _downloaded(repository: str, revision: str) -> Path:
    from huggingface_hub.constants import ENDPOINT

    reason = why_hub_is_out_of_reach()
    if reason is None:
        try:
            for weights in DOWNLOADS:
                with quiet_hub(), bars_on_terminals_only(), warnings.catch_warnings():
                    warnings.filterwarnings("error", "Not enough free disk space")
                    folder = _snapshot(repository, revision, weights)
                if _weights(folder):
                    return folder
            reason = f"no {' or '.join(WEIGHTS)} there"
        except Exception as error:  # full disk, a server that stops halfway: the hub's client raises many kinds
            reason = why_hub_refuses(error, repository, revision)
    raise FinerRankError(
        f"{ENDPOINT}/{repository}: not cached under {hub_cache(repository)}, and cannot be fetched ({reason}); where "
        f"there is a network, run: hf download {repository} --local-dir FOLDER, bring the folder, and write "
        "--model FOLDER"
    )


def _snapshot(repository: str, revision: str, weights: Sequence[str], **options: bool) -> Path:
    import huggingface_hub

    wanted = ["*.json", "*.py", *weights]
    return Path(
        huggingface_hub.snapshot_download(repository, revision=revision or None, allow_patterns=wanted, **options)
    )


@contextlib.contextmanager
def bars_on_terminals_only() -> Iterator[None]:
    from huggingface_hub.constants import HF_HUB_DISABLE_PROGRESS_BARS
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hidden = not (sys.stderr.isatty() or are_progress_bars_disabled()) and HF_HUB_DISABLE_PROGRESS_BARS is None
    if hidden:
        disable_progress_bars()
    try:
        yield
    finally:
        if hidden:
            enable_progress_bars()


def why_hub_is_out_of_reach() -> str | None:
    """Asked once and briefly: the hub's client itself would try again for half a minute, for each file."""
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
    from huggingface_hub.utils import get_session

    if HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(ENDPOINT, timeout=10)
    except Exception as error:  # of the HTTP library, which the hub's client may change
        return first_line(error)
    return None
